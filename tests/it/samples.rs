//! Every sample as somebody who copies it meets it: made by `ferry init`, checked, previewed, run to where it comes to rest.

use std::fs;
use std::path::Path;

use std::sync::Arc;

use expect_test::{Expect, expect};
use ferry::adapter::clock::SystemClock;
use ferry::sim::vsphere::{Scenario, Server};

use crate::sandbox::{BRANCH, Ran, Sandbox};
use crate::shop::{archive_of, system};

const DISK: u64 = 4 << 20;

/// A sample and the archives that its plans name.
struct Copy {
    sandbox: Sandbox,
}

impl Copy {
    /// Makes the sample, with an archive for each name: its systems, or one of the same name.
    fn of(sample: &str, archives: &[(&str, &[&str])]) -> Self {
        let sandbox = Sandbox::new();
        sandbox.ferry(["init", "vms", "--sample", sample]).expect(0);
        for (name, systems) in archives {
            let systems = systems.iter().map(|system_name| system(system_name, DISK)).collect();
            archive_of(&sandbox.path("vms/ova"), name, systems);
        }
        let checked = sandbox.ferry(["check", "vms/plans"]).expect(0);
        assert!(checked.stdout.ends_with("0 critical, 0 warnings, 0 for information\n"));
        Self { sandbox }
    }

    fn ferry(&self, arguments: &[&str]) -> Ran {
        self.sandbox.ferry(arguments.iter().chain(&["--config", "vms/ferry.yaml"]))
    }

    /// Shows each row of the preview: sign, VM, what, cutover, why.
    fn preview(&self, code: i32, expected: Expect) -> &Self {
        let answer = self.ferry(&["diff", "--output", "json"]).expect(code).stdout;
        let json: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let rows = json["vms"].as_array().unwrap().iter().map(|row| {
            let text = |pointer: &str| row.pointer(pointer).and_then(|value| value.as_str());
            let key = format!(
                "{}/{}",
                row["key"]["plan"].as_str().unwrap(),
                row["key"]["vm"].as_str().unwrap()
            );
            let why =
                row["findings"].as_array().unwrap().iter().map(|f| f["text"].as_str().unwrap());
            let why: Vec<&str> = text("/wait").into_iter().chain(why).collect();
            let at = text("/schedule/at").map(|at| format!(" at {at}")).unwrap_or_default();
            let why = if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) };
            format!(
                "{} {key} {}{at}{why}\n",
                row["symbol"].as_str().unwrap(),
                text("/what").unwrap()
            )
        });
        expected.assert_eq(&rows.collect::<String>());
        self
    }

    /// Runs until nothing is left to do now, and returns what stands on the target.
    fn run(&self, code: i32) -> Vec<String> {
        self.ferry(&["run", "--once"]).expect(code);
        let target = fs::read_dir(self.sandbox.path("vms/vms")).unwrap();
        let mut names: Vec<String> =
            target.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn single_ova() {
    let copy = Copy::of("single-ova", &[("any", &["web-01"])]);
    copy.preview(
        2,
        expect![[r#"
        + first/web-01 migrate cold
    "#]],
    );
    assert_eq!(copy.run(0), ["web-01"]);
}

/// The vCenter that the sample names is one that is simulated.
#[test]
fn vsphere() {
    let copy = Copy::of("vsphere", &[]);
    let scenario = Scenario::parse("test", VCENTER).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let clock = Arc::new(SystemClock::start());
    let server = Server::start(&scenario, any, &copy.sandbox.path("vcenter"), clock).unwrap();
    let address = server.address().to_string();
    let half = "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF";
    let fingerprint = format!("{half}:{half}");
    let instead = [
        ("vcenter.example.org", address.as_str()),
        (&fingerprint, server.sha256_fingerprint()),
        ("ferry@vsphere.local", "user"),
    ];
    let edited = |text: &str| {
        instead.iter().fold(text.to_owned(), |text, (old, new)| text.replace(old, new))
    };
    let plans = copy.sandbox.plans("vms/plans");
    let files = plans.files(BRANCH);
    let texts = files.iter().map(|(name, text)| (name.as_str(), edited(text))).collect();
    plans.commit(&texts, "the vCenter");
    let settings = fs::read_to_string(copy.sandbox.path("vms/ferry.yaml")).unwrap();
    copy.sandbox.write("vms/ferry.yaml", edited(&settings));
    copy.sandbox.write("vms/vcenter.password", "pass\n");
    copy.preview(2, expect![[r#"
        + shop/web-01 migrate cold, powers it off, does not start it: the target starts nothing: `local` starts no VMs, so `web-01` stays off there; its disks are read by `https`, since they are flat files without snapshots
        + shop/db-01 migrate cold: its disks are read by `https`, since they are flat files without snapshots
    "#]]);
    assert_eq!(copy.run(0), ["db-01", "web-01"]);
}

/// A web server that runs and a database that is off.
const VCENTER: &str = "
datacenters:
  - name: DC1
    hosts: [{ name: esx1 }]
    datastores: [{ name: ds1, capacity: 1TiB, free: 400GiB }]
    networks: [{ name: VM Network }]
    vms:
      - { name: web-01, power: on, shutdown: 1s, disks: [{ size: 4MiB }], nics: [{ network: VM Network }] }
      - { name: db-01, power: off, disks: [{ size: 4MiB }], nics: [{ network: VM Network }] }
";

#[test]
fn ova_batch() {
    let web: &[&str] = &["web-01", "web-02"];
    let copy = Copy::of("ova-batch", &[("db", &["db-01", "db-02"]), ("web", web)]);
    copy.preview(
        2,
        expect![[r#"
        + databases/db-01 migrate cold
        + databases/db-02 migrate cold
        = web/web.ova/web-01 no Migration runs its plan
        = web/web.ova/web-02 no Migration runs its plan
    "#]],
    );
    assert_eq!(copy.run(0), ["db-01", "reporting"]);
}

#[test]
fn several_systems() {
    let copy = Copy::of("several-systems", &[("erp", &["db", "app", "web"])]);
    copy.preview(
        2,
        expect![[r#"
        + erp/erp.ova/db migrate cold
        + erp/erp.ova/app migrate cold
        + erp/erp.ova/web migrate cold
    "#]],
    );
    assert_eq!(copy.run(0), ["erp-app", "erp-db", "erp-web"]);
}

#[test]
fn windows_and_cutovers() {
    let archives: &[(&str, &[&str])] = &[("shop", &["shop-db", "shop-web"])];
    let copy = Copy::of("windows-and-cutovers", archives);
    // Until 2027-01-09, and after that the time is missed.
    copy.ferry(&["diff", "--fail-on", "never"]).expect(0);
    let listed = copy.ferry(&["window", "list"]).expect(0).stdout;
    assert!(listed.starts_with("saturday-nights: "), "{listed}");
    let move_it = ["cutover", "shop", "--at", "2126-01-12T22:00:00+01:00", "--commit"];
    copy.sandbox.write("home/.gitconfig", "[user]\n\tname = P\n\temail = p@example.org\n");
    copy.ferry(&move_it).expect(0);
    copy.preview(
        2,
        expect![[r#"
        >> shop/shop-db migrate cold at 2126-01-12T21:00:00Z
        >> shop/shop-web migrate cold: its cutover is postponed
    "#]],
    );
    assert_eq!(copy.run(0), Vec::<String>::new());
}

#[test]
fn policy_and_waiver() {
    let archives: &[(&str, &[&str])] = &[("one", &["build-01"]), ("two", &["build-02"])];
    let copy = Copy::of("policy-and-waiver", archives);
    for name in ["one", "two"] {
        without_manifest(&copy.sandbox.path(format!("vms/ova/{name}.ova")));
    }
    // The sample's own day will pass.
    let plans = copy.sandbox.plans("vms/plans");
    let files = plans.files(BRANCH);
    let files =
        files.iter().map(|(path, text)| (path.as_str(), text.replace("2027-06-30", "2126-06-30")));
    plans.commit(&files.collect(), "a later day");
    copy.preview(3, expect![[r#"
        + legacy/build-01 migrate cold: disk `vmdisk1` has no checksum (waived until 2126-06-30: The exporter writes no manifest; the disk was compared by hand)
        ! legacy/build-02 blocked: disk `vmdisk1` has no checksum
    "#]]);
    assert_eq!(copy.run(3), ["build-01"]);
}

#[test]
fn multi_tenant() {
    let front: &[&str] = &["front-01", "front-02"];
    let copy = Copy::of("multi-tenant", &[("ledger", &["ledger-01"]), ("front", front)]);
    let moved = copy.run(0);
    // The ledger moves on Sunday mornings only.
    let fronts = ["shop-front-01", "shop-front-02"];
    assert!(
        moved == fronts || moved == [&["payments-ledger-01"], &fronts[..]].concat(),
        "{moved:?}"
    );
    let report = copy.ferry(&["status", "payments-ledger"]).expect(0).stdout;
    assert!(report.contains("payments-ledger/ledger-01") && !report.contains("shop-front"));
}

/// Takes the manifest out of an archive: each member is a header of 512 bytes and its content, padded to that.
fn without_manifest(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let mut kept = Vec::new();
    let mut at = 0;
    while bytes[at] != 0 {
        let name = String::from_utf8_lossy(&bytes[at..at + 100]).trim_end_matches('\0').to_owned();
        let octal = String::from_utf8_lossy(&bytes[at + 124..at + 135]).into_owned();
        let size = usize::from_str_radix(octal.trim_matches(['\0', ' ']), 8).unwrap();
        let end = at + 512 + size.next_multiple_of(512);
        if Path::new(&name).extension().is_none_or(|end| end != "mf") {
            kept.extend_from_slice(&bytes[at..end]);
        }
        at = end;
    }
    kept.extend_from_slice(&[0; 1024]);
    fs::write(path, kept).unwrap();
}
