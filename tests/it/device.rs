//! `ferry copy` to and from block devices: loop devices, which need root.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use expect_test::expect;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::copy::{MIB, patterned, same};
use crate::kill::until;
use crate::peers::run;
use crate::sandbox::Sandbox;

/// A loop device over a file of the sandbox; it goes with this.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Self {
        let said = run("losetup", ["--find", "--show", file.to_str().unwrap()]);
        Self(PathBuf::from(said.trim()))
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", ["--detach", self.name()]);
    }
}

/// Makes a file full of one byte.
fn filled(sandbox: &Sandbox, name: &str, mib: u64) -> PathBuf {
    let file = File::create(sandbox.path(name)).unwrap();
    for number in 0..mib {
        file.write_all_at(&vec![0xa5; 1 << 20], number * MIB).unwrap();
    }
    file.sync_all().unwrap();
    sandbox.path(name)
}

#[test]
fn a_device_is_written_when_somebody_said_so_and_only_as_far_as_the_disk_reaches() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 48);
    let [small, large] =
        [("small", 16), ("large", 64)].map(|(name, mib)| filled(&sandbox, name, mib));
    let (tiny, device) = (Loop::over(&small), Loop::over(&large));
    let held =
        File::options().read(true).custom_flags(OFlags::EXCL.bits().cast_signed()).open(&device.0);
    let mut told = String::new();
    for arguments in [
        vec!["copy", "a.raw", device.name()],
        vec!["copy", "a.raw", tiny.name(), "--force"],
        vec!["copy", "a.raw", device.name(), "--force", "--target-format", "qcow2"],
        vec!["copy", "a.raw", device.name(), "--force"],
        vec!["copy", "a.raw", "/dev/ferry-none", "--force"],
    ] {
        let said = sandbox.ferry(arguments).expect(1).stderr;
        told += &said.replace(device.name(), "DEVICE").replace(tiny.name(), "SMALL");
    }
    drop(held);
    expect![[r#"
        error: DEVICE is a block device: everything that the disk covers would be lost … hint: look at `lsblk -f DEVICE`, then say `--force`
        error: SMALL has 16.0 MiB and the disk 48.0 MiB … hint: name a device that holds all of it
        error: DEVICE is a block device, which holds no qcow2 … hint: leave `--target-format` out
        error: cannot open DEVICE: Device or resource busy (os error 16) … hint: unmount it, or end what uses it: `lsblk` and `fuser -v` tell
        error: there is no device /dev/ferry-none … hint: `lsblk` lists those that are there
    "#]].assert_eq(&told);
    let whole = |byte: &u8| *byte == 0xa5;
    assert!(fs::read(&large).unwrap().iter().all(whole), "refused, and nothing was written");

    let ran = sandbox
        .ferry(["copy", "a.raw", device.name(), "--force", "--verify", "--output", "json"])
        .expect(0);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["verified"], true);
    sandbox.ferry(["copy", "--source-format", "raw", device.name(), "back.raw"]).expect(0);
    drop(device);
    let after = fs::read(&large).unwrap();
    assert!(after[usize::try_from(48 * MIB).unwrap()..].iter().all(whole), "behind the disk");
    fs::write(sandbox.path("b.raw"), &after[..usize::try_from(48 * MIB).unwrap()]).unwrap();
    assert!(same(&sandbox, "a.raw", "b.raw"));
    assert_eq!(fs::read(sandbox.path("back.raw")).unwrap(), after);
    let kept = fs::read_dir(sandbox.path("")).unwrap().flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().contains(".part.")).count();
    assert_eq!(kept, 0, "nothing is kept of a copy that is whole");
}

#[test]
fn a_copy_to_a_device_goes_on_as_long_as_it_is_the_same_device() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 1024);
    let file = sandbox.path("device");
    File::create(&file).unwrap().set_len(1024 * MIB).unwrap();
    let interrupted = |device: &Loop| {
        let running = sandbox.start(["copy", "a.raw", device.name(), "--force"]);
        let name = device.0.file_name().unwrap().to_str().unwrap();
        let kept = sandbox.path(format!("{name}.part.json"));
        until(60, "the copy begins", || kept.exists());
        let id = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
        kill_process(id, Signal::INT).unwrap();
        running.wait().expect(130);
        kept
    };
    let device = Loop::over(&file);
    interrupted(&device);
    let ran = sandbox
        .ferry(["copy", "a.raw", device.name(), "--force", "--verify", "--output", "json"])
        .expect(0);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_ne!(json["resumed_from"], 0, "{json}");
    run("cmp", [sandbox.path("a.raw"), file.clone()]);

    // Another device of the name: nothing of what is known is of it.
    let kept = interrupted(&device);
    let name = device.0.clone();
    drop(device);
    run("losetup", [name.clone(), file.clone()]);
    let device = Loop(name);
    let again = ["copy", "a.raw", device.name(), "--force", "--output", "json"];
    let refused = sandbox.ferry(again).expect(1);
    assert!(refused.stderr.contains("or was another device"), "{}", refused.stderr);
    let ran = sandbox.ferry(again.into_iter().chain(["--restart"])).expect(0);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["resumed_from"], 0, "{json}");
    assert!(!kept.exists());

    // The same device, to which somebody wrote: nothing of what was copied counts.
    interrupted(&device);
    let foreign = File::options().write(true).open(&device.0).unwrap();
    foreign.write_all_at(&[9; 4096], 0).unwrap();
    drop(foreign);
    let ran = sandbox.ferry(again).expect(0);
    assert!(ran.stderr.contains("is not there any more: the copy starts again"), "{}", ran.stderr);
    run("cmp", [sandbox.path("a.raw"), file]);
}

/// The first partition of a device, which the kernel is told of; it goes with this.
struct Partition<'a>(&'a Loop);

impl Drop for Partition<'_> {
    fn drop(&mut self) {
        run("delpart", [self.0.name(), "1"]);
    }
}

#[test]
fn a_partition_is_written_while_udev_is_kept_from_its_disk() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 48);
    let image = filled(&sandbox, "image", 64);
    let device = Loop::over(&image);
    let (start, sectors) = (MIB / 512, 50 * MIB / 512);
    run("addpart", [device.name(), "1", &start.to_string(), &sectors.to_string()]);
    let _partition = Partition(&device);
    let name = format!("{}p1", device.name());
    let copy = ["copy", "a.raw", &name, "--force", "--verify"];

    // As udev, and whoever makes partitions, would hold it.
    let disk = File::open(device.name()).unwrap();
    flock(&disk, FlockOperation::NonBlockingLockShared).unwrap();
    let said = sandbox.ferry(copy).expect(1).stderr;
    assert!(said.contains("cannot lock") && said.contains("lsblk"), "{said}");
    drop(disk);

    sandbox.ferry(copy).expect(0);
    let (written, source) = (fs::read(&image).unwrap(), fs::read(sandbox.path("a.raw")).unwrap());
    let (before, rest) = written.split_at(1 << 20);
    let (copied, after) = rest.split_at(source.len());
    assert!(copied == source);
    assert!(before.iter().chain(after).all(|byte| *byte == 0xa5), "nothing else is written");
}
