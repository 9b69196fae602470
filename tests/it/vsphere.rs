//! VMs moved from a simulated vCenter that does everything wrong: each transport with a kill in the middle, and one fault at a time
//! with the sentence that a person reads.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferry::adapter::clock::SystemClock;
use ferry::sim::vsphere::{Scenario, Server};
use vddk_stub::config::{Config, install};

use crate::kill::until;
use crate::sandbox::{Plans, Ran, Running, Sandbox};

/// Two disks on two controllers, one of an odd capacity with data up to its end; a second VM that is off.
const INVENTORY: &str = "
datacenters:
  - name: DC 1
    hosts: [{ name: esx1 }, { name: esx2 }]
    datastores: [{ name: ds1, capacity: 1TiB, free: 400GiB }]
    networks: [{ name: VM Network }]
    vms:
      - name: web
        folder: prod/web
        power: on
        shutdown: SHUTDOWN
        disks:
          - { size: 48MiB, fill: { seed: 7, allocated: 60% } }
          - { size: 8705KiB, controller: lsilogic, thin: false, fill: { seed: 8, allocated: 100% } }
        nics: [{ network: VM Network }]
      - name: db
        power: off
        disks: [{ size: 4MiB }]
        nics: [{ network: VM Network }]
";

const MANIFESTS: &str = "
{ apiVersion: ferry.dev/v1alpha1, kind: Provider, metadata: { name: vc }, spec: { type: vsphere, url: \"URL\", credentials: vcenter, tls: { TLS }, transport: TRANSPORT } }
---
{ apiVersion: ferry.dev/v1alpha1, kind: Provider, metadata: { name: here }, spec: { type: local, local: { path: VMS } } }
---
{ apiVersion: ferry.dev/v1alpha1, kind: NetworkMapping, metadata: { name: nets }, spec: { provider: { source: vc, destination: here }, map: [ { source: { name: VM Network }, destination: { type: pod } } ] } }
---
{ apiVersion: ferry.dev/v1alpha1, kind: CutoverWindow, metadata: { name: any-time }, spec: {} }
---
{ apiVersion: ferry.dev/v1alpha1, kind: Plan, metadata: { name: shop }, spec: { provider: { source: vc, destination: here }, window: any-time, map: { network: nets }, skipGuestConversion: true, shutdown: SHUTDOWN, vms: [ { name: web } ] } }
---
{ apiVersion: ferry.dev/v1alpha1, kind: Migration, metadata: { name: go }, spec: { plan: shop } }
";

/// A vCenter, a repository whose plan moves its VM `web`, and settings.
struct Lab {
    sandbox: Sandbox,
    plans: Plans,
    server: Server,
}

/// What a test says differently.
#[derive(Clone, Copy)]
struct Says<'a> {
    transport: &'a str,
    /// How the guest answers the request to shut down.
    guest: &'a str,
    /// Whether it is a single host.
    esxi: bool,
    /// How the vCenter is trusted.
    tls: &'a str,
    /// The plan's `shutdown`.
    shutdown: &'a str,
    settings: &'a str,
}

impl Default for Says<'_> {
    fn default() -> Self {
        let shutdown = "{ timeout: 1m }";
        let tls = "sha256Fingerprint: \"HASH\"";
        Self { transport: "https", guest: "1s", esxi: false, tls, shutdown, settings: "" }
    }
}

impl Lab {
    fn new(says: Says<'_>) -> Self {
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.path("vms")).unwrap();
        let mut inventory = INVENTORY.replace("SHUTDOWN", says.guest);
        if says.esxi {
            inventory = format!("esxi: true\n{}", inventory.replace(", { name: esx2 }", ""));
        }
        let scenario = Scenario::parse("test", &inventory).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let clock = Arc::new(SystemClock::start());
        let server = Server::start(&scenario, any, &sandbox.path("vcenter"), clock).unwrap();
        sandbox.write("password", "pass\n");
        let at = |name: &str| sandbox.path(name).display().to_string();
        let text = format!(
            "repository: {{ url: {} }}\nstateDir: {}\nallowPaths: [{}]\nlimits: {{ checkpointEvery: 1MiB }}\n{}\n\
             credentials:\n  vcenter: {{ hosts: [\"{}\"], username: user, passwordFile: password, providerTls: [sha256Fingerprint, insecureSkipVerify] }}\n",
            at("plans"),
            at("state"),
            at("vms"),
            says.settings,
            server.address(),
        );
        sandbox.write("ferry.yaml", text);
        let plans = sandbox.plans("plans");
        let text = MANIFESTS
            .replace("URL", &server.url())
            .replace("TLS", says.tls)
            .replace("HASH", server.sha256_fingerprint())
            .replace("TRANSPORT", says.transport)
            .replace("SHUTDOWN", says.shutdown)
            .replace("VMS", &at("vms"));
        plans.commit(&BTreeMap::from([("all.yaml", text)]), "web moves");
        Self { sandbox, plans, server }
    }

    fn arm(&self, fault: &str) {
        self.server.arm(fault).unwrap();
    }

    fn ferry(&self, arguments: &[&str]) -> Ran {
        self.sandbox.ferry(arguments.iter().chain(&["--config", "ferry.yaml"]))
    }

    fn copies(&self) -> [PathBuf; 2] {
        ["disk-0.raw", "disk-1.raw"].map(|name| self.sandbox.path("vms/web").join(name))
    }

    /// Checks that the VM was moved, byte for byte, and that its source is off and marked.
    #[track_caller]
    fn is_moved(&self) {
        for (copy, key) in self.copies().iter().zip([2000, 2001]) {
            // The second controller counts its disks from its own start.
            let source = self.server.disk_file("web", key).unwrap_or_else(|_| {
                self.server.disk_file("web", 2016).expect("the second disk is on the second bus")
            });
            assert!(fs::read(copy).unwrap() == fs::read(source).unwrap(), "disk {key} differs");
        }
        assert!(!self.server.is_on("web").unwrap());
        let marks = self.ferry(&["claim", "list"]).expect(0).stdout;
        assert!(marks.contains("/web  migrated"), "{marks}");
    }

    /// Checks that nothing came of it: the source runs, unmarked, and nothing stands on the target.
    #[track_caller]
    fn is_undone(&self) {
        assert!(self.server.is_on("web").unwrap());
        assert_eq!(self.ferry(&["claim", "list"]).expect(0).stdout, "no mark\n");
        let left: Vec<_> = fs::read_dir(self.sandbox.path("vms")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Starts a run and lets it come to a line.
    fn come_to(&self, line: &str) -> Running {
        let log = self.sandbox.path("log");
        let running = self.sandbox.start_logged(["run", "--once", "--config", "ferry.yaml"], &log);
        until(120, line, || fs::read_to_string(&log).is_ok_and(|text| text.contains(line)));
        running
    }
}

#[test]
fn disks_are_the_same_by_every_transport_and_after_a_kill() {
    for transport in ["https", "nfc", "vddk"] {
        let lab =
            Lab::new(Says { transport, settings: "vddk: { libDir: vddk }", ..Says::default() });
        let library = env::current_exe().unwrap().with_file_name("libvddk_stub.so");
        let sim = lab.sandbox.path("vcenter");
        // So slow that the kill comes in the middle.
        let slow = Config { sim, round_trip_micros: 100_000, at_once: 1, ..Config::default() };
        install(&library, &lab.sandbox.path("vddk"), &slow).unwrap();
        lab.arm("{ method: GET /folder, delay: 200ms }");
        lab.come_to("shop/web: copy,").kill();
        let marks = lab.ferry(&["claim", "list"]).expect(0).stdout;
        assert!(marks.contains("claimed"), "{transport} was through before the kill: {marks}");
        lab.server.disarm();
        // What the killed worker was exporting is given up by the server, which keeps the VM from being exported until then.
        lab.server.advance(Duration::from_mins(6));
        lab.ferry(&["run", "--once"]).expect(0);
        lab.is_moved();
        lab.ferry(&["verify", "shop/web"]).expect(0);
        let report = &lab.plans.files("ferry/status")["ferry/vms/shop/web.yaml"];
        assert!(
            report.contains(&format!("reading: '`{transport}`, as its Provider says'")),
            "{report}"
        );
    }
}

#[test]
fn a_single_host_is_a_source_as_well() {
    for transport in ["https", "nfc"] {
        let lab = Lab::new(Says { transport, esxi: true, ..Says::default() });
        lab.ferry(&["run", "--once"]).expect(0);
        lab.is_moved();
    }
}

/// Each is a fault in the middle that passes: the VM is moved all the same, and powered off once.
#[test]
fn what_passes_is_passed_over() {
    let faults = [
        "{ method: ReconfigVM_Task, call: 1, lostReply: true }",
        "{ method: ReconfigVM_Task, call: 1, fault: ConcurrentAccess }",
        "{ method: ShutdownGuest, call: 1, lostReply: true }",
        "{ method: RetrievePropertiesEx, call: 4, fault: NotAuthenticated }",
        "{ method: RetrievePropertiesEx, call: 3, missing: NotAuthenticated }",
        "{ method: RetrievePropertiesEx, call: 5, truncate: 300 }",
        "{ method: WaitForUpdatesEx, call: 2, status: 503 }",
        "{ method: WaitForUpdatesEx, call: 3, cut: true }",
        "{ method: GET /folder, call: 7, status: 503 }",
        "{ method: GET /folder, call: 9, cut: true }",
        "{ method: GET /folder, call: 11, truncate: 5000 }",
    ];
    // Most of the time is spent in pauses before a step is tried again.
    std::thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || {
                let lab = Lab::new(Says::default());
                lab.arm(fault);
                let ran = lab.ferry(&["run", "--once"]);
                assert_eq!(ran.code, Some(0), "{fault}:\n{}", ran.stderr);
                lab.is_moved();
            });
        }
    });
}

#[test]
fn a_session_that_ends_in_the_middle_is_taken_up_again() {
    let lab = Lab::new(Says::default());
    lab.arm("{ method: GET /folder, delay: 200ms }");
    let running = lab.come_to("shop/web: copy,");
    lab.server.expire_sessions();
    assert_eq!(running.wait().code, Some(0));
    lab.is_moved();
}

#[test]
fn a_guest_that_does_not_hear_is_powered_off_where_the_plan_says_so() {
    let shutdown = "{ timeout: 1s, force: true }";
    let lab = Lab::new(Says { guest: "ignores", shutdown, ..Says::default() });
    lab.ferry(&["run", "--once"]).expect(0);
    lab.is_moved();
}

#[test]
fn what_does_not_pass_is_said_and_undone() {
    for (fault, said) in [
        (
            "{ method: ReconfigVM_Task, fault: NoPermission }",
            "stopped: https://HOST refuses to claim the VM: Permission to perform this operation was denied. (NoPermission): \
             `user` lacks System.Anonymous on vm-17 … to do: give the account's role that privilege; `ferry doctor` lists all \
             that it lacks",
        ),
        (
            "{ method: GET /folder, status: 404 }",
            "failed: https://HOST has no file [ds1] web/web-flat.vmdk; undone",
        ),
    ] {
        let lab = Lab::new(Says::default());
        lab.arm(fault);
        let ran = lab.ferry(&["run", "--once"]).expect(1);
        let told = ran.stderr.replace(&lab.server.address().to_string(), "HOST");
        assert!(told.contains(said), "{fault}:\n{told}");
        lab.server.disarm();
        lab.is_undone();
    }
}

#[test]
fn a_source_that_somebody_powers_on_again_voids_its_copy() {
    let lab = Lab::new(Says::default());
    lab.arm("{ method: GET /folder, delay: 200ms }");
    let running = lab.come_to("shop/web: copy,");
    // On and off again between two looks: only the event log tells.
    lab.server.power_on("web").unwrap();
    lab.server.power_off("web").unwrap();
    assert_eq!(running.wait().code, Some(1));
    let text = fs::read_to_string(lab.sandbox.path("log")).unwrap();
    assert!(text.contains("the source was powered on after it was copied"), "{text}");
    lab.is_undone();
}

#[test]
fn a_mark_of_another_journal_keeps_the_vm_where_it_is() {
    let lab = Lab::new(Says::default());
    lab.come_to("shop/web: create disks").kill();
    // Another state folder is another journal.
    let settings = fs::read_to_string(lab.sandbox.path("ferry.yaml")).unwrap();
    lab.sandbox.write("ferry.yaml", settings.replace("/state", "/other") + "instance: other\n");
    let ran = lab.ferry(&["run", "--once"]);
    assert_ne!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("mark"), "{}", ran.stderr);
    let marks = lab.ferry(&["claim", "list"]).expect(0).stdout;
    assert!(marks.contains("claimed") && marks.contains("another"), "{marks}");
}

#[test]
fn a_server_that_nobody_checks_is_named_in_preview_and_report() {
    let lab = Lab::new(Says { tls: "insecureSkipVerify: true", ..Says::default() });
    let url = lab.server.url();
    let shown = lab.ferry(&["diff"]).expect(2).stdout.replace(['\n', ' '], "");
    assert!(shown.contains(&format!("whoeveranswersat{url}isbelieved")), "{shown}");
    lab.ferry(&["run", "--once"]).expect(0);
    lab.is_moved();
    let page = &lab.plans.files("ferry/status")["ferry/plans/shop.md"];
    assert!(page.contains("> **Unchecked:** whoever answers at https:"), "{page}");
}

#[test]
fn secrets_and_hosts_are_kept_apart() {
    let lab = Lab::new(Says::default());
    let settings = fs::read_to_string(lab.sandbox.path("ferry.yaml")).unwrap();
    let refused = |old: &str, new: &str, said: &str| {
        assert!(settings.contains(old));
        lab.sandbox.write("ferry.yaml", settings.replace(old, new));
        let ran = lab.ferry(&["inventory", "refresh"]).expect(1);
        assert!(ran.stdout.contains(said), "{}", ran.stdout);
    };
    let address = lab.server.address().to_string();
    refused(&address, "vcenter.example.org", "is not bound to");
    refused(
        "providerTls: [sha256Fingerprint, insecureSkipVerify]",
        "providerTls: [ca]",
        "do not let a Provider say `tls.sha256Fingerprint`",
    );
    refused("  vcenter:", "  other:", "hold no credential `vcenter`");
    lab.sandbox.write("password", "wrong\n");
    lab.sandbox.write("ferry.yaml", &settings);
    let ran = lab.ferry(&["inventory", "refresh"]).expect(1);
    assert!(ran.stdout.contains("refused the login of `user`"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("wrong"), "{}", ran.stdout);
}
