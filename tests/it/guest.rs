//! The main job with a real guest: from a plan in git and an archive to a VM that boots, by the program alone.

use std::fs;
use std::os::unix::fs::MetadataExt;

use ferry::adapter::ova::boot::MARKER;

use crate::peers::{GUEST_MARKER, Libvirt, boot, same, tool};
use crate::sandbox::Sandbox;
use crate::web01::{Says, Web01};

#[test]
fn a_guest_boots_after_its_move_with_what_it_wrote_before() {
    moves("", "disk-0.raw");
}

#[test]
fn a_guest_boots_from_a_qcow2_with_what_it_wrote_before() {
    moves("diskFormat: qcow2", "disk-0.qcow2");
}

fn moves(target: &str, disk: &str) {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source.raw");
    tool("tiny-guest.sh", ["build", source.to_str().unwrap(), "--name", "web01"]);
    let line = boot(&source, GUEST_MARKER);
    assert!(line.contains("name=web01 boots=1 "), "{line}");

    let says = Says { plan: "skipGuestConversion: true", target, ..Says::default() };
    let mut moved = Web01::new(sandbox, &["source.raw"], says);
    moved.commit("a plan, and nothing that runs it");
    moved.ferry(&["run", "--once"]).expect(0);
    let vms = moved.sandbox.path("vms");
    assert_eq!(fs::read_dir(&vms).unwrap().count(), 0, "a plan alone moves nothing");

    moved.migrate("web-1");
    moved.ferry(&["diff"]).expect(2);
    moved.ferry(&["run", "--once"]).expect(0);
    let disk = vms.join("web01").join(disk);
    same(&source, &disk);
    moved.ferry(&["verify", "web/web01"]).expect(0);

    // Nothing is left to do: nothing is committed and nothing is written.
    let written = || fs::metadata(&disk).map(|disk| (disk.mtime(), disk.mtime_nsec())).unwrap();
    let seen = || (moved.plans.tip("ferry/status"), written());
    let before = seen();
    moved.ferry(&["diff"]).expect(0);
    moved.ferry(&["run", "--once"]).expect(0);
    assert_eq!(seen(), before);

    let line = boot(&disk, GUEST_MARKER);
    assert!(line.contains("name=web01 boots=2 "), "{line}");
    let line = Libvirt::start().boot(&vms.join("web01/domain.xml"), GUEST_MARKER);
    assert!(line.contains("name=web01 boots=3 "), "{line}");
    assert!(line.contains("disks=vda "), "{line}");
    // What the guests wrote is theirs: no later run takes it for a damaged copy.
    moved.ferry(&["diff"]).expect(0);
}

#[test]
fn what_the_demo_moved_boots_like_its_source() {
    let sandbox = Sandbox::new();
    sandbox.ferry(["demo", "--dir", "demo"]).expect(0);
    let source = sandbox.path("demo/boots.raw");
    let before = boot(&source, MARKER);
    for vm in ["web-01", "db-01"] {
        let copy = sandbox.path(format!("demo/vms/{vm}/disk-0.raw"));
        same(&source, &copy);
        assert_eq!(boot(&copy, MARKER), before);
    }
}
