//! A vCenter of other people (govmomi's simulator): what Ferry reads of it, and a VM that is moved from it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::sandbox::{Plans, Sandbox};

/// A vCenter, ended when it is dropped.
struct Vcsim {
    child: Child,
    url: String,
}

impl Drop for Vcsim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Vcsim {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut child = Command::new(target.join("peers/vcsim"))
            .arg("-dir")
            .arg(folder)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/run builds vcsim");
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { child, url: url.trim().to_owned() }
    }

    fn host(&self) -> &str {
        self.url.strip_prefix("https://").unwrap().split('/').next().unwrap()
    }

    /// Returns the SHA-256 fingerprint of its certificate, as OpenSSL tells it.
    fn fingerprint(&self) -> String {
        let script = format!(
            "openssl s_client -connect {} < /dev/null 2> /dev/null | openssl x509 -noout -fingerprint -sha256",
            self.host()
        );
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim().rsplit('=').next().unwrap().to_owned()
    }
}

/// A repository whose source is a vCenter.
struct Lab {
    sandbox: Sandbox,
    plans: Plans,
    config: String,
    vcsim: Vcsim,
}

impl Lab {
    fn new(arguments: &[&str]) -> Self {
        let sandbox = Sandbox::new();
        for name in ["vms", "stores"] {
            fs::create_dir(sandbox.path(name)).unwrap();
        }
        let vcsim = Vcsim::start(&sandbox.path("stores"), arguments);
        sandbox.write("password", "pass\n");
        let at = |name: &str| sandbox.path(name).display().to_string();
        let text = format!(
            "repository: {{ url: {} }}\nstateDir: {}\nallowPaths: [{}]\ncutover: {{ requireWindow: false }}\n\
             credentials:\n  vcenter: {{ hosts: [\"{}\"], username: user, passwordFile: password, providerTls: [sha256Fingerprint] }}\n",
            at("plans"),
            at("state"),
            at("vms"),
            vcsim.host(),
        );
        let config = format!("--config={}", sandbox.write("ferry.yaml", text).display());
        let plans = sandbox.plans("plans");
        Self { sandbox, plans, config, vcsim }
    }

    fn commit(&self, fingerprint: &str, rest: &str) {
        let text = format!(
            "{{ apiVersion: ferry.dev/v1alpha1, kind: Provider, metadata: {{ name: vc }}, spec: {{ type: vsphere, url: \"{}\", \
             credentials: vcenter, tls: {{ sha256Fingerprint: \"{fingerprint}\" }} }} }}\n---\n{rest}",
            self.vcsim.url
        );
        self.plans.commit(&BTreeMap::from([("all.yaml", text)]), "change");
    }

    fn flat_file(&self, vm: &str) -> PathBuf {
        let mut folders = vec![self.sandbox.path("stores")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.ends_with(format!("{vm}/disk1-flat.vmdk")) {
                    return path;
                }
            }
        }
        unreachable!("{vm} has no disk")
    }
}

const MOVE: &str = "\
{ apiVersion: ferry.dev/v1alpha1, kind: Provider, metadata: { name: here }, spec: { type: local, local: { path: VMS } } }
---
{ apiVersion: ferry.dev/v1alpha1, kind: NetworkMapping, metadata: { name: nets }, spec: { provider: { source: vc, destination: here }, map: [ { source: { name: DC0_DVPG0 }, destination: { type: pod } } ] } }
---
{ apiVersion: ferry.dev/v1alpha1, kind: Plan, metadata: { name: web }, spec: { provider: { source: vc, destination: here }, map: { network: nets }, skipGuestConversion: true, vms: [ { name: DC0_H0_VM0 } ] } }
---
{ apiVersion: ferry.dev/v1alpha1, kind: Migration, metadata: { name: go }, spec: { plan: web } }
";

#[test]
fn a_running_vm_is_marked_shut_down_copied_and_marked_again() {
    let lab = Lab::new(&["-vm", "1"]);
    let disk = lab.flat_file("DC0_H0_VM0");
    let file = fs::File::options().write(true).open(&disk).unwrap();
    file.set_len(10 << 30).unwrap();
    for at in [0, 5 << 30, (10 << 30) - 4096] {
        file.write_all_at(&[7; 4096], at).unwrap();
    }
    let vms = lab.sandbox.path("vms").display().to_string();
    lab.commit(&lab.vcsim.fingerprint(), &MOVE.replace("VMS", &vms));
    let ran = lab.sandbox.ferry([&lab.config, "run", "--once"]).expect(0);
    assert!(ran.stdout.is_empty(), "{ran:?}");
    let copy = lab.sandbox.path("vms/dc0-h0-vm0/disk-0.raw");
    let same = Command::new("cmp").arg(&disk).arg(&copy).status().unwrap();
    assert!(same.success());

    let ran = lab.sandbox.ferry([&lab.config, "claim", "list"]).expect(0);
    assert!(ran.stdout.contains("DC0/vm/DC0_H0_VM0  migrated"), "{}", ran.stdout);
    let ran =
        lab.sandbox.ferry([&lab.config, "inventory", "list", "vms", "--where", "power == off"]);
    let ran = ran.expect(0);
    assert!(ran.stdout.contains("DC0/vm/DC0_H0_VM0"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("DC0_C0_RP0_VM0"), "{}", ran.stdout);
}

#[test]
fn a_thousand_vms_are_listed_with_their_places_and_networks() {
    let lab = Lab::new(&["-vm", "500"]);
    lab.commit(&lab.vcsim.fingerprint(), "");
    let ran = lab.sandbox.ferry([&lab.config, "inventory", "refresh"]).expect(0);
    assert_eq!(ran.stdout, "source vc: 1000 VMs\n");
    let ran = lab.sandbox.ferry([&lab.config, "inventory", "list", "networks"]).expect(0);
    assert!(ran.stdout.contains("DC0_DVPG0  1000"), "{}", ran.stdout);
    let ran = lab.sandbox.ferry([&lab.config, "inventory", "list", "--output", "json"]).expect(0);
    let rows: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let paths: Vec<_> = rows["items"].as_array().unwrap().iter().map(|row| &row["vm"]).collect();
    assert_eq!(paths.len(), 1000);
    assert!(paths.iter().any(|path| *path == "DC0/vm/DC0_C0_RP0_VM499"));
}

#[test]
fn a_server_that_is_another_one_gets_no_password() {
    let lab = Lab::new(&["-vm", "1"]);
    let other = "AB:".repeat(31) + "AB";
    lab.commit(&other, "");
    let ran = lab.sandbox.ferry([&lab.config, "inventory", "refresh"]).expect(1);
    let text = ran.stdout.replace(lab.vcsim.host(), "HOST");
    let expected = format!(
        "source vc: https://HOST is not trusted: its certificate has the fingerprint {}, and {other} is expected … hint: find out whether its certificate was renewed; only then write the new fingerprint into `tls.sha256Fingerprint`\n",
        lab.vcsim.fingerprint()
    );
    assert_eq!(text, expected);
}

#[test]
fn a_wrong_password_is_sent_once() {
    let lab = Lab::new(&["-vm", "1", "-password", "other"]);
    lab.commit(&lab.vcsim.fingerprint(), "");
    let ran = lab.sandbox.ferry([&lab.config, "inventory", "refresh"]).expect(1);
    assert!(
        ran.stdout.contains("refused the login of `user` with the password in "),
        "{}",
        ran.stdout
    );
    assert!(!ran.stdout.contains("pass\n"), "{}", ran.stdout);
}
