//! The main job with a real guest: from a plan in git and an archive to a VM that boots, by the program alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use ferry::adapter::ova::boot::MARKER;

use crate::peers::{GUEST_MARKER, Libvirt, boot, run, same, tool};
use crate::sandbox::Sandbox;

/// Providers, a mapping and a plan of one VM, with the folders of a sandbox. The target says `disks` of its disks.
fn plan(sandbox: &Sandbox, disks: &str) -> String {
    let folder = |name: &str| sandbox.path(name).display().to_string();
    let head = |kind: &str, name: &str| {
        format!("apiVersion: ferry.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name} }}\n")
    };
    let ends = "provider: { source: archives, destination: here }";
    [
        head("Provider", "archives")
            + &format!("spec: {{ type: ova, ova: {{ path: {} }} }}\n", folder("ova")),
        head("Provider", "here")
            + &format!("spec: {{ type: local, local: {{ path: {}{disks} }} }}\n", folder("vms")),
        head("NetworkMapping", "networks")
            + &format!(
                "spec:\n  {ends}\n  map:\n    - {{ source: {{ name: VM Network }}, destination: {{ type: pod }} }}\n"
            ),
        head("Plan", "web")
            + &format!(
                "spec:\n  {ends}\n  map: {{ network: networks }}\n  skipGuestConversion: true\n  vms: [{{ name: web01 }}]\n"
            ),
    ]
    .join("---\n")
}

/// Writes settings for the sandbox and returns the flag that names them.
fn settings(sandbox: &Sandbox) -> String {
    let folder = |name: &str| sandbox.path(name).display().to_string();
    let text = format!(
        "repository: {{ url: {} }}\nstateDir: {}\nallowPaths: [{}, {}]\n",
        folder("plans"),
        folder("state"),
        folder("ova"),
        folder("vms"),
    );
    format!("--config={}", sandbox.write("ferry.yaml", text).display())
}

#[test]
fn a_guest_boots_after_its_move_with_what_it_wrote_before() {
    moves("", "disk-0.raw");
}

#[test]
fn a_guest_boots_from_a_qcow2_with_what_it_wrote_before() {
    moves(", diskFormat: qcow2", "disk-0.qcow2");
}

fn moves(disks: &str, disk: &str) {
    let sandbox = Sandbox::new();
    let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    fs::create_dir(sandbox.path("ova")).unwrap();
    fs::create_dir(sandbox.path("vms")).unwrap();
    tool("tiny-guest.sh", ["build", &path("source.raw"), "--name", "web01"]);
    let line = boot(&sandbox.path("source.raw"), GUEST_MARKER);
    assert!(line.contains("name=web01 boots=1 "), "{line}");
    tool("make-ova.sh", ["-n", "web01", "-o", &path("ova/web01.ova"), &path("source.raw")]);

    let config = settings(&sandbox);
    let plans = sandbox.plans("plans");
    let mut files = BTreeMap::from([("web.yaml", plan(&sandbox, disks))]);
    plans.commit(&files, "a plan, and nothing that runs it");
    sandbox.ferry(["run", "--once", &config]).expect(0);
    assert_eq!(fs::read_dir(sandbox.path("vms")).unwrap().count(), 0, "a plan alone moves nothing");

    let migration = "apiVersion: ferry.dev/v1alpha1\nkind: Migration\nmetadata: { name: web-1 }\n\
                     spec: { plan: web }\n";
    files.insert("migration.yaml", migration.to_owned());
    plans.commit(&files, "web01 moves");
    sandbox.ferry(["diff", &config]).expect(2);
    sandbox.ferry(["run", "--once", &config]).expect(0);
    let disk = sandbox.path("vms/web01").join(disk);
    same(&sandbox.path("source.raw"), &disk);
    sandbox.ferry(["verify", "web/web01", &config]).expect(0);

    // Nothing is left to do: nothing is committed and nothing is written.
    let written = || fs::metadata(&disk).map(|disk| (disk.mtime(), disk.mtime_nsec())).unwrap();
    let seen = || (plans.tip("ferry/status"), written());
    let before = seen();
    sandbox.ferry(["diff", &config]).expect(0);
    sandbox.ferry(["run", "--once", &config]).expect(0);
    assert_eq!(seen(), before);

    let line = boot(&disk, GUEST_MARKER);
    assert!(line.contains("name=web01 boots=2 "), "{line}");
    let domain = sandbox.path("vms/web01/domain.xml");
    let line = Libvirt::start().boot(&domain, GUEST_MARKER);
    assert!(line.contains("name=web01 boots=3 "), "{line}");
    assert!(line.contains("disks=vda "), "{line}");
    // What the guests wrote is theirs: no later run takes it for a damaged copy.
    sandbox.ferry(["diff", &config]).expect(0);
}

#[test]
fn what_the_demo_moved_boots_like_its_source() {
    let sandbox = Sandbox::new();
    sandbox.ferry(["demo", "--dir", "demo"]).expect(0);
    let ova = sandbox.path("demo/ova/web-01.ova");
    let folder = sandbox.path("unpacked");
    fs::create_dir(&folder).unwrap();
    run("tar", ["-C", folder.to_str().unwrap(), "-xf", ova.to_str().unwrap()]);
    let source = folder.join("source.raw");
    let stored = folder.join("web-01-disk1.vmdk");
    run("qemu-img", ["convert", "-O", "raw", stored.to_str().unwrap(), source.to_str().unwrap()]);
    let before = boot(&source, MARKER);
    let after = boot(&sandbox.path("demo/vms/web-01/disk-0.raw"), MARKER);
    assert_eq!(before, after);
}
