//! File systems that are full, and disks that cannot be read. Mounts need root: they are made in a mount namespace of the
//! program's own, so that nobody else sees them, and a machine that refuses one fails the test.

use std::fs;
use std::process::{Command, Output};

use crate::course::{PATIENCE, both_stand, names};
use crate::sandbox::Sandbox;
use crate::shop::Shop;

/// Runs the program once, for so many seconds at most, after a shell has mounted something where nobody else sees it; `then`
/// looks at what it left. `$0` is the sandbox.
pub(crate) fn under(sandbox: &Sandbox, mount: &str, seconds: u64, then: &str) -> Output {
    let program = sandbox.command([""; 0]).get_program().to_owned();
    let root = sandbox.path("");
    let script = format!(
        "{mount} || exit 99; timeout {seconds} \"$@\" run --once; code=$?; {then}; exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.arg(&root).arg(program).arg("--config").arg(root.join("ferry.yaml"));
    let output = command.current_dir(&root).output().unwrap();
    let mounted = ![Some(99), Some(1)].contains(&output.status.code())
        || !said(&output).contains("unshare: ") && !said(&output).contains("mount: ");
    assert!(mounted, "this machine allows no private mounts, which need root:\n{}", said(&output));
    output
}

/// The same with a shop's VMs; shows the status and what the target holds.
fn with_shop(shop: &Shop, mount: &str) -> Output {
    under(&shop.sandbox, mount, PATIENCE, "\"$@\" status --why; ls -A \"$0/vms\"")
}

#[track_caller]
pub(crate) fn ended(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in words {
        assert!(flat.contains(words), "{words:?} is not said:\n{said}");
    }
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_target_without_room_stalls_its_vm_until_there_is_room() {
    let shop = Shop::pair();
    // Room for what the source stores, which is all that can be known before, and not for what becomes of it.
    let output = with_shop(&shop, "mount -t tmpfs -o size=13m tmpfs \"$0/vms\"");
    let words = ["No space left on device", "make room on the target's file system", ".ferry-"];
    ended(&output, 1, &words);
    assert_eq!(names(&shop), Vec::<String>::new());
}

#[test]
fn a_state_folder_without_room_begins_nothing_and_says_so() {
    let shop = Shop::pair();
    fs::create_dir(shop.sandbox.path("state")).unwrap();
    let output = with_shop(&shop, "mount -t tmpfs -o size=1m tmpfs \"$0/state\"");
    ended(&output, 1, &["state folder full: ", "has no room for the journal", "make room there"]);
    assert_eq!(names(&shop), Vec::<String>::new());
    shop.ferry(&["run", "--once"]).expect(0);
    both_stand(&shop);
}

#[test]
fn a_source_that_fails_when_it_is_read_is_said_and_the_others_go_on() {
    let shop = Shop::pair();
    // A file system whose device ends before the file's data: reading it is an input/output error.
    let output = with_shop(
        &shop,
        "export PATH=\"$PATH:/usr/sbin:/sbin\"; cd \"$0\"; mkdir lost && truncate -s 32M lost.img \
         && mke2fs -q -F lost.img && mount -o loop lost.img lost && cp ova/web01.ova lost \
         && dd of=lost/web01.ova oflag=nocache conv=notrunc,fdatasync count=0 status=none \
         && truncate -s 64K lost.img && mount --bind lost/web01.ova ova/web01.ova",
    );
    ended(&output, 3, &["ova/web01.ova: ", "Input/output error", "check the disk that it lies on"]);
    assert_eq!(names(&shop), ["web02"]);
    shop.ferry(&["run", "--once"]).expect(0);
    both_stand(&shop);
}
