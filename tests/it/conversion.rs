//! A guest that is not ready for KVM, through git: copied, converted, made and booted, by the program, virt-v2v, QEMU and libvirt.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ferry::copy::tree::LEAF_BYTES;
use rustix::process::{Pid, Signal, kill_process};

use crate::full::{ended, under};
use crate::kill::{children, until, workers};
use crate::peers::{GUEST_MARKER, Libvirt, format_of, run, same, tool};
use crate::sandbox::Sandbox;
use crate::web01::{Says, Web01};

/// How long a conversion may take: under emulation, on a busy machine.
const CONVERSION_SECONDS: u64 = 1200;

/// Lists a process, what it started, and what that started.
fn family(parent: u32) -> Vec<i32> {
    let mut all = children(parent);
    let mut at = 0;
    while at < all.len() {
        all.extend(children(u32::try_from(all[at]).unwrap()));
        at += 1;
    }
    all
}

fn lives(process: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Lists the files of a folder.
fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Fails unless the VM stands there with what the fake converter makes of its disks, and with nothing else.
#[track_caller]
fn is_converted(moved: &Web01, format: &str) {
    let folder = moved.sandbox.path("vms/web01");
    let disks = ["disk-0", "disk-1"].map(|name| format!("{name}.{format}"));
    assert_eq!(names(&folder), [&disks[0], &disks[1], "domain.xml", "ferry.json"]);
    for (disk, byte) in disks.iter().zip([1, 2]) {
        let disk = folder.join(disk);
        assert!(seen(&disk) == converted(byte));
        if format == "qcow2" {
            run("qemu-img", ["check", "-q", "-f", format, disk.to_str().unwrap()]);
        }
    }
}

/// Reads what a guest sees of a disk.
fn seen(disk: &Path) -> Vec<u8> {
    let raw = disk.with_extension("seen");
    let (from, to) = (disk.to_str().unwrap(), raw.to_str().unwrap());
    run("qemu-img", ["convert", "-f", format_of(disk), "-O", "raw", from, to]);
    let bytes = fs::read(&raw).unwrap();
    fs::remove_file(&raw).unwrap();
    bytes
}

/// A guest of Debian's packages that is not ready for KVM.
struct Debian {
    /// How `tiny-guest.sh` builds it.
    built: &'static [&'static str],
    /// What its export says that it boots by.
    firmware: &'static str,
    /// Where its root file system begins.
    root: u64,
}

impl Debian {
    const BIOS: Self = Self { built: &["--debian"], firmware: "bios", root: 1 << 20 };
    const SIGNED: Self =
        Self { built: &["--debian", "--uefi"], firmware: "secure", root: 33 << 20 };

    /// Works on its file system.
    fn debugfs(&self, image: &Path, flags: &[&str], command: &str) -> String {
        let image = format!("{}?offset={}", image.display(), self.root);
        run("debugfs", flags.iter().copied().chain(["-R", command, &image]))
    }

    /// Returns an image of it, which is built once for all tests.
    fn image(&self) -> String {
        static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        let image = format!("{}/debian-{}.raw", env!("CARGO_TARGET_TMPDIR"), self.firmware);
        // A test that failed while it built one leaves the others to build it.
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if !built.contains(&image) {
            let build = ["build", &image, "--name", "web01"].into_iter();
            tool("tiny-guest.sh", build.chain(self.built.iter().copied()));
            built.insert(image.clone());
        }
        image
    }

    /// Gives it data of its own and a second disk, as an export of a plan that converts it. Returns its data, too.
    fn exported(&self) -> (Web01, String) {
        let sandbox = Sandbox::new();
        let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
        run("cp", ["--sparse=always", &self.image(), &path("source.raw")]);
        let orders = (0..20_000).map(|number| number.to_string()).collect::<Vec<_>>().join("\n");
        sandbox.write("orders", &orders);
        for command in ["mkdir /srv/data", &format!("write {} /srv/data/orders", path("orders"))] {
            self.debugfs(&sandbox.path("source.raw"), &["-w"], command);
        }
        fs::write(path("data.raw"), vec![7; 100_000]).unwrap();
        fs::File::options().write(true).open(path("data.raw")).unwrap().set_len(64 << 20).unwrap();
        let says = Says { firmware: self.firmware, ..Says::default() };
        let mut moved = Web01::new(sandbox, &["source.raw", "data.raw"], says);
        moved.migrate("web-1");
        (moved, orders)
    }

    /// Fails unless the VM stands there, converted, with its data, and boots from virtio under libvirt. Returns what it says.
    #[track_caller]
    fn is_moved(&self, moved: &Web01, orders: &str) -> String {
        let report = moved.report();
        assert!(report.contains("name: ImageConversion\n  status: Completed"), "{report}");
        assert!(report.contains("conversionWarnings"), "{report}");
        let folder = moved.sandbox.path("vms/web01");
        assert_eq!(names(&folder), ["disk-0.raw", "disk-1.raw", "domain.xml", "ferry.json"]);
        let disk = folder.join("disk-0.raw");
        assert_eq!(self.debugfs(&disk, &[], "cat /srv/data/orders"), orders);
        same(&moved.sandbox.path("data.raw"), &folder.join("disk-1.raw"));
        let line = Libvirt::start().boot(&folder.join("domain.xml"), GUEST_MARKER);
        assert!(line.contains("name=web01 ") && line.contains("disks=vda,vdb "), "{line}");
        line
    }
}

#[test]
fn a_guest_of_vmware_boots_on_virtio_after_its_conversion_was_killed() {
    let (moved, orders) = Debian::BIOS.exported();
    let preview = moved.ferry(&["diff"]).expect(2);
    assert!(preview.stdout.contains("converts the guest"), "{}", preview.stdout);
    let running = moved.start();
    until(CONVERSION_SECONDS, "the conversion", || moved.said("convert: Inspecting the source"));
    let processes = family(running.id());
    assert!(processes.len() > 2, "worker, converter and QEMU: {processes:?}");
    running.kill();
    until(60, "an end of all", || !processes.iter().any(|process| lives(*process)));
    same(&moved.sandbox.path("source.raw"), &moved.area().join("disk-0.raw"));

    moved.ferry(&["run", "--once"]).expect(0);
    let verified = moved.ferry(&["verify", "web/web01"]).expect(1);
    assert!(verified.stdout.contains("ended when its guest was converted"), "{}", verified.stdout);
    moved.ferry(&["diff"]).expect(0);
    Debian::BIOS.is_moved(&moved, &orders);
}

/// virt-v2v-in-place, before whose work the file system of a folder is filled up to 8 MiB.
const FILLING: &str = r#"#!/bin/sh
case " $* " in
*" -i "*) fallocate -l $(($(stat -fc '%a * %S' FOLDER) - (8 << 20))) FOLDER/filling || exit 1 ;;
esac
exec virt-v2v-in-place "$@"
"#;

/// Runs a plan whose guest is converted while a file system is all but full. Fails unless its disk stays as it was copied,
/// which a shell tells that sees what is mounted.
#[track_caller]
fn without_room(folder: &str, words: &[&str]) {
    let sandbox = Sandbox::new();
    let [image, tool, full] = ["source.raw", "tools/filling", folder]
        .map(|name| sandbox.path(name).to_str().unwrap().to_owned());
    run("cp", ["--sparse=always", &Debian::BIOS.image(), &image]);
    let script = FILLING.replace("FOLDER", &full);
    sandbox.write("tools/filling", script);
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(sandbox.path("tmp")).unwrap();
    let tmp = sandbox.path("tmp").display().to_string();
    let settings = format!("convert: {{ path: {tool}, tmpDir: {tmp} }}\n");
    let mut moved =
        Web01::new(sandbox, &["source.raw"], Says { settings: &settings, ..Says::default() });
    moved.migrate("web-1");
    let mount = format!(
        "export PATH=\"$PATH:/usr/sbin:/sbin\"; cd \"$0\"; truncate -s 8G {folder}.img && mkfs.ext4 -q -F -m 0 {folder}.img && mount -o loop {folder}.img {folder}"
    );
    let then =
        "cmp \"$0/source.raw\" \"$0\"/vms/.ferry-*/disk-0.raw && echo the disk is as it was copied";
    let output = under(&moved.sandbox, &mount, CONVERSION_SECONDS, then);
    ended(&output, 1, &["the disk is as it was copied"]);
    let report = moved.report();
    for words in words {
        assert!(report.contains(words), "{report}");
    }
}

#[test]
fn a_conversion_whose_target_has_no_room_leaves_the_disk_as_copied() {
    without_room("vms", &["stood still at `Converting", "no room was left", "free space below"]);
}

#[test]
fn a_conversion_whose_temporary_folder_has_no_room_leaves_the_disk_as_copied() {
    without_room("tmp", &["insufficient free space in the conversion server temporary directory"]);
}

/// Runs a plan whose guest virt-v2v does not convert. Fails unless the disk stays as it was copied and the report has virt-v2v's
/// own words.
#[track_caller]
fn stays_as_copied(sandbox: Sandbox, words: &str) {
    let mut moved = Web01::new(sandbox, &["source.raw"], Says::default());
    moved.migrate("web-1");
    moved.ferry(&["run", "--once"]).expect(1);
    let report = moved.report();
    assert!(report.contains(words), "{report}");
    same(&moved.sandbox.path("source.raw"), &moved.area().join("disk-0.raw"));
}

#[test]
fn a_guest_that_virt_v2v_does_not_know_stays_as_copied() {
    let sandbox = Sandbox::new();
    let image = sandbox.path("source.raw");
    tool("tiny-guest.sh", ["build", image.to_str().unwrap(), "--name", "web01"]);
    stays_as_copied(sandbox, "inspection could not detect the source guest");
}

#[test]
fn a_guest_without_room_for_its_conversion_stays_as_copied() {
    let sandbox = Sandbox::new();
    let image = sandbox.path("source.raw");
    run("cp", ["--sparse=always", &Debian::BIOS.image(), image.to_str().unwrap()]);
    let counted = Debian::BIOS.debugfs(&image, &[], "stats -h");
    let free = counted.lines().find_map(|line| line.strip_prefix("Free blocks:")).unwrap();
    let free = free.trim().parse::<u64>().unwrap() * 4096;
    let filling = sandbox.write("filling", "");
    let all_but = |left: u64| fs::write(&filling, vec![7; usize::try_from(free - left).unwrap()]);
    all_but(16 << 20).unwrap();
    Debian::BIOS.debugfs(&image, &["-w"], &format!("write {} /var/filling", filling.display()));
    stays_as_copied(sandbox, "not enough free space for conversion on filesystem");
}

/// Makes an image of a guest whose machine lost its power right after something was written: its journal tells of it, and its
/// file system does not.
fn unplugged(sandbox: &Sandbox) {
    run(
        "cp",
        ["--sparse=always", &Debian::BIOS.image(), sandbox.path("was.raw").to_str().unwrap()],
    );
    sandbox.write("written", "right before the end");
    let script = format!(
        "cd \"$0\" && mkdir root && mount -o loop,offset={} was.raw root && dd if=written of=root/srv/written conv=fsync status=none \
         && cp --sparse=always was.raw source.raw && umount root",
        Debian::BIOS.root
    );
    let root = sandbox.path("");
    run(
        "unshare",
        ["--mount", "--propagation", "private", "sh", "-c", &script, root.to_str().unwrap()],
    );
    let image = sandbox.path("source.raw");
    let features = Debian::BIOS.debugfs(&image, &[], "features");
    assert!(features.contains("needs_recovery"), "{features}");
    assert_eq!(Debian::BIOS.debugfs(&image, &[], "cat /srv/written"), "");
}

#[test]
fn what_is_in_the_journal_of_a_guest_alone_is_there_after_its_conversion() {
    let sandbox = Sandbox::new();
    unplugged(&sandbox);
    let mut moved = Web01::new(sandbox, &["source.raw"], Says::default());
    moved.migrate("web-1");
    moved.ferry(&["run", "--once"]).expect(0);
    let disk = moved.sandbox.path("vms/web01/disk-0.raw");
    assert!(!Debian::BIOS.debugfs(&disk, &[], "features").contains("needs_recovery"));
    assert_eq!(Debian::BIOS.debugfs(&disk, &[], "cat /srv/written"), "right before the end");
}

#[test]
fn a_guest_whose_journal_is_damaged_stays_as_copied() {
    let sandbox = Sandbox::new();
    unplugged(&sandbox);
    let image = sandbox.path("source.raw");
    let journal = Debian::BIOS.debugfs(&image, &[], "bmap <8> 0");
    let journal = Debian::BIOS.root + journal.trim().parse::<u64>().unwrap() * 4096;
    let file = fs::File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0; 4096], journal).unwrap();
    stays_as_copied(sandbox, "inspection could not detect the source guest");
}

#[test]
fn a_guest_with_secure_boot_boots_with_it_after_its_conversion() {
    let (moved, orders) = Debian::SIGNED.exported();
    moved.ferry(&["run", "--once"]).expect(0);
    let line = Debian::SIGNED.is_moved(&moved, &orders);
    assert!(line.contains("secureboot=1 "), "{line}");
}

/// A converter that says what virt-v2v says of itself, writes into the disks, and does what `mood` holds.
const FAKE: &str = r#"#!/bin/sh
case " $* " in
*" -i "*) ;;
*) printf '%s\n' virt-v2v-in-place libguestfs-rewrite input:disk input:libvirtxml convert:linux convert:windows; exit 0 ;;
esac
here=$(dirname "$0")
for last; do :; done
echo run >> "$here/runs"
echo "[   0.0] Opening the source"
for disk in $(sed -n "s/.*<source file=['\"]\([^'\"]*\)['\"].*/\1/p" "$last"); do
  qemu-io -f qcow2 -c "write -P 0x5a 0 128k" "$disk" > /dev/null || exit 1
done
case $(cat "$here/mood") in
fail) echo "virt-v2v-in-place: error: inspection could not detect the source guest" >&2; exit 1 ;;
wait) echo "[   1.0] Converting the guest"; exec cat "$here/never" ;;
esac
"#;

fn with_fake(mood: &str, format: &str) -> Web01 {
    let sandbox = Sandbox::new();
    let fake = sandbox.write("tools/virt-v2v-in-place", FAKE);
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.write("tools/mood", mood);
    run("mkfifo", [sandbox.path("tools/never")]);
    let leaf = usize::try_from(LEAF_BYTES).unwrap();
    for (name, byte) in [("source.raw", 1), ("data.raw", 2)] {
        sandbox.write(name, vec![byte; 48 * leaf]);
    }
    let settings = format!("convert: {{ path: {} }}\n", fake.display());
    let target = format!("diskFormat: {format}");
    let says = Says { target: &target, settings: &settings, ..Says::default() };
    let mut moved = Web01::new(sandbox, &["source.raw", "data.raw"], says);
    moved.migrate("web-1");
    moved
}

/// What the fake converter makes of a disk that holds one byte everywhere.
fn converted(byte: u8) -> Vec<u8> {
    let leaf = usize::try_from(LEAF_BYTES).unwrap();
    let mut disk = vec![byte; 48 * leaf];
    disk[..2 * leaf].fill(0x5a);
    disk
}

#[test]
fn a_guest_that_cannot_be_converted_stays_as_copied_and_is_converted_later_without_copying() {
    for format in ["raw", "qcow2"] {
        let mut moved = with_fake("fail", format);
        moved.ferry(&["run", "--once"]).expect(1);
        let report = moved.report();
        assert!(report.contains("inspection could not detect the source guest"), "{report}");
        let area = moved.area();
        for (source, disk) in [("source.raw", "disk-0"), ("data.raw", "disk-1")] {
            same(&moved.sandbox.path(source), &area.join(format!("{disk}.{format}")));
        }
        moved.sandbox.write("tools/mood", "convert");
        moved.migrate("web-2");
        let ran = moved.ferry(&["run", "--once"]).expect(0);
        assert!(!ran.stderr.contains("copy, "), "nothing is copied again:\n{}", ran.stderr);
        is_converted(&moved, format);
    }
}

#[test]
fn what_was_kept_in_another_format_goes_and_is_copied_again() {
    let mut moved = with_fake("fail", "raw");
    moved.ferry(&["run", "--once"]).expect(1);
    let kept = moved.area();
    assert!(kept.join("disk-1.raw").exists());
    moved.sandbox.write("tools/mood", "convert");
    moved.edit("diskFormat: raw", "diskFormat: qcow2");
    moved.migrate("web-2");
    moved.ferry(&["run", "--once"]).expect(0);
    assert!(!kept.exists());
    is_converted(&moved, "qcow2");
}

#[test]
fn a_conversion_is_stopped_with_its_controller_and_begun_again() {
    for format in ["raw", "qcow2"] {
        let moved = with_fake("wait", format);
        for _ in 0..2 {
            let running = moved.start();
            until(60, "the conversion", || moved.said("convert: Converting the guest"));
            let processes = family(running.id());
            assert!(processes.len() > 2, "worker, guard and converter: {processes:?}");
            running.kill();
            until(60, "an end of all", || !processes.iter().any(|process| lives(*process)));
        }
        moved.sandbox.write("tools/mood", "convert");
        moved.ferry(&["run", "--once"]).expect(0);
        is_converted(&moved, format);
    }
}

/// A qemu-img that never ends a commit while `mood` says so, nor begins it.
const SLOW_COMMITS: &str = r#"#!/bin/sh
here=$(dirname "$0")
case "$1 $(cat "$here/mood")" in
"commit slow") exec cat "$here/never" ;;
esac
exec /usr/bin/qemu-img "$@"
"#;

#[test]
fn whoever_is_killed_between_two_commits_the_guest_is_whole_in_the_end() {
    for (controller, worker) in [(true, false), (false, true), (true, true)] {
        let moved = with_fake("slow", "raw");
        let tool = moved.sandbox.write("tools/qemu-img", SLOW_COMMITS);
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tool.parent().unwrap().display());
        let log = fs::File::create(moved.sandbox.path("run.log")).unwrap();
        let mut command = moved.sandbox.command(["run", "--once", &moved.config]);
        let mut running = command.env("PATH", path).stderr(log).spawn().unwrap();
        until(60, "a commit", || moved.said("Committing the conversion of disk-0.raw"));
        let processes = family(running.id());
        assert!(processes.len() > 2, "worker, guard and qemu-img: {processes:?}");
        moved.sandbox.write("tools/mood", "convert");
        if worker {
            let pid = Pid::from_raw(workers(running.id())[0]).unwrap();
            kill_process(pid, Signal::KILL).unwrap();
        }
        if controller {
            running.kill().unwrap();
        }
        until(60, "an end of all", || !processes.iter().any(|process| lives(*process)));
        assert_eq!(running.wait().unwrap().success(), !controller);
        moved.ferry(&["run", "--once"]).expect(0);
        is_converted(&moved, "raw");
        let runs = fs::read_to_string(moved.sandbox.path("tools/runs")).unwrap();
        assert_eq!(runs, "run\n", "what was converted is not converted again");
    }
}
