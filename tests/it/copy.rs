//! `ferry copy` from outside: what it copies, what it refuses, and how it goes on.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use expect_test::expect;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::kill::until;
use crate::sandbox::{Ran, Sandbox};
use crate::shop::{archive_of, system};

pub(crate) const MIB: u64 = 1 << 20;

/// Makes a sparse file that holds something in every fourth MiB, at odd places.
pub(crate) fn patterned(sandbox: &Sandbox, name: &str, mib: u64) {
    let file = File::create(sandbox.path(name)).unwrap();
    file.set_len(mib * MIB).unwrap();
    for number in (0..mib).step_by(4) {
        let bytes: Vec<u8> =
            (0..300_000).map(|at| u8::try_from(at / 7 % 251).unwrap() ^ 0x5a).collect();
        file.write_all_at(&bytes, number * MIB + number * 13 % 4096).unwrap();
    }
}

pub(crate) fn same(sandbox: &Sandbox, one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(|name| File::open(sandbox.path(name)).unwrap());
    let size = one.metadata().unwrap().len();
    let mut pieces = [vec![0; 1 << 20], vec![0; 1 << 20]];
    size == other.metadata().unwrap().len()
        && (0..size).step_by(1 << 20).all(|at| {
            let count = usize::try_from(size - at).unwrap().min(1 << 20);
            one.read_exact_at(&mut pieces[0][..count], at).unwrap();
            other.read_exact_at(&mut pieces[1][..count], at).unwrap();
            pieces[0][..count] == pieces[1][..count]
        })
}

fn root(ran: &Ran) -> String {
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    json["root"].as_str().unwrap().to_owned()
}

#[test]
fn a_raw_disk_arrives_with_its_holes_and_nothing_else_is_left() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 64);
    let ran = sandbox.ferry(["copy", "a.raw", "b.raw", "--verify", "--output", "json"]).expect(0);
    assert!(same(&sandbox, "a.raw", "b.raw"));
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&json["capacity"], &json["verified"]), (&(64 * MIB).into(), &true.into()));
    let occupied = fs::metadata(sandbox.path("b.raw")).unwrap().blocks() * 512;
    assert!(occupied < 20 * MIB, "{occupied}");
    let mut names: Vec<_> = fs::read_dir(sandbox.path("")).unwrap().collect();
    names.retain(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file());
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn disks_go_to_qcow2_and_back() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 32);
    let there = sandbox.ferry(["copy", "a.raw", "b.qcow2", "--output", "json"]).expect(0);
    let back = sandbox.ferry(["copy", "b.qcow2", "c.raw", "--output", "json"]).expect(0);
    assert!(same(&sandbox, "a.raw", "c.raw"));
    assert_eq!(root(&there), root(&back));
}

#[test]
fn a_disk_is_read_inside_of_an_archive() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("ova")).unwrap();
    let archive = archive_of(&sandbox.path("ova"), "web-01", vec![system("web-01", 16 << 20)]);
    let inside = |name: &str| format!("{}/{name}", archive.display());
    let missing = sandbox.ferry(["copy", &inside("other.vmdk"), "a.raw"]).expect(1);
    let (_, names) = missing.stderr.split_once("is `other.vmdk` … hint: it holds ").unwrap();
    let disk = names.trim().split(", ").find(|name| name.contains("disk")).unwrap();
    let ran = sandbox.ferry(["copy", &inside(disk), "a.raw", "--output", "json"]).expect(0);
    let again = sandbox.ferry(["copy", "a.raw", "b.raw", "--output", "json"]).expect(0);
    assert_eq!(root(&ran), root(&again));
    assert_eq!(fs::metadata(sandbox.path("a.raw")).unwrap().len(), 16 << 20);
}

#[test]
fn what_exists_stays_and_what_is_not_told_is_not_guessed() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 4);
    sandbox.write("b.raw", "mine");
    fs::copy(sandbox.path("a.raw"), sandbox.path("a.disk")).unwrap();
    fs::create_dir(sandbox.path("c.raw")).unwrap();
    sandbox.write("bad.qcow2", "QFI\u{fb}");
    let refused = [
        ["a.raw", "b.raw"],
        ["a.raw", "c.raw"],
        ["a.raw", "d.disk"],
        ["a.disk", "d.raw"],
        ["none.raw", "d.raw"],
        ["bad.qcow2", "d.raw"],
        ["a.raw", "nowhere/d.raw"],
        ["a.raw", "./a.raw"],
    ];
    let root = sandbox.path("").display().to_string();
    let told: String = refused
        .iter()
        .map(|[from, to]| sandbox.ferry(["copy", from, to]).expect(1).stderr.replace(&root, ""))
        .collect();
    expect![[r#"
        error: b.raw exists … hint: name another file, or replace it with `--force`
        error: c.raw is no file … hint: name a file that does not exist yet
        error: the end of d.disk tells no format … hint: `--target-format raw` or `qcow2`
        error: the end of a.disk tells no format … hint: say it with `--source-format raw`, `qcow2` or `vmdk`
        error: cannot open none.raw: No such file or directory (os error 2) … hint: check the name, and that the file is still there
        error: cannot read the disk in bad.qcow2 at byte 0: it is shorter than the header of a qcow2 … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
        error: cannot open the folder nowhere: No such file or directory (os error 2)
        error: a.raw cannot be its own copy … hint: name another file
    "#]].assert_eq(&told);
    assert_eq!(fs::read(sandbox.path("b.raw")).unwrap(), b"mine");
    sandbox.ferry(["copy", "a.disk", "b.raw", "--source-format", "raw", "--force"]).expect(0);
    assert!(same(&sandbox, "a.raw", "b.raw"));
}

#[test]
fn an_interrupted_copy_goes_on_and_one_of_another_disk_does_not() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 1024);
    patterned(&sandbox, "other.raw", 1);
    let running = sandbox.start(["copy", "a.raw", "b.qcow2"]);
    let kept = sandbox.path("b.qcow2.part.json");
    until(60, "the copy begins", || kept.exists());
    let second = sandbox.ferry(["copy", "other.raw", "b.qcow2", "--force"]).expect(1);
    assert!(second.stderr.contains("b.qcow2.part.lock is in use by ferry"), "{}", second.stderr);
    let id = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    let ran = running.wait().expect(130);
    assert!(
        ran.stderr.ends_with("stopped: the same command goes on from here\n"),
        "{}",
        ran.stderr
    );
    assert!(!sandbox.path("b.qcow2").exists());

    let other = sandbox.ferry(["copy", "other.raw", "b.qcow2"]).expect(1);
    assert!(other.stderr.contains("holds a part of another disk"), "{}", other.stderr);
    let ran = sandbox.ferry(["copy", "a.raw", "b.qcow2", "--output", "json"]).expect(0);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_ne!(json["resumed_from"], 0, "{json}");
    sandbox.ferry(["copy", "b.qcow2", "c.raw"]).expect(0);
    assert!(same(&sandbox, "a.raw", "c.raw"));
}

#[test]
fn a_killed_copy_begins_again_where_its_last_checkpoint_is() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 512);
    let running = sandbox.start(["copy", "a.raw", "b.raw"]);
    let kept = sandbox.path("b.raw.part.json");
    until(60, "the copy begins", || kept.exists());
    running.kill();
    sandbox.ferry(["copy", "a.raw", "b.raw", "--verify"]).expect(0);
    assert!(same(&sandbox, "a.raw", "b.raw"));
}

#[test]
fn a_source_that_changed_is_another_disk() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 2048);
    let running = sandbox.start(["copy", "a.raw", "b.raw"]);
    let kept = sandbox.path("b.raw.part.json");
    until(60, "the copy begins", || kept.exists());
    let file = File::options().write(true).open(sandbox.path("a.raw")).unwrap();
    file.write_all_at(b"changed", 0).unwrap();
    drop(file);
    let ran = running.wait().expect(1);
    assert!(ran.stderr.contains("changed during the copy"), "{}", ran.stderr);
    assert!(!sandbox.path("b.raw").exists());
}

#[test]
fn a_disk_in_several_files_is_another_one_when_any_of_them_changed() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "web-flat.vmdk", 2048);
    let sectors = 2048 * MIB / 512;
    let lines = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=fffffffe",
        "parentCID=ffffffff",
        "createType=\"monolithicFlat\"",
        &format!("RW {sectors} FLAT \"web-flat.vmdk\" 0"),
    ];
    sandbox.write("web.vmdk", lines.join("\n") + "\n");
    let running = sandbox.start(["copy", "web.vmdk", "b.raw"]);
    let kept = sandbox.path("b.raw.part.json");
    until(60, "the copy begins", || kept.exists());
    let id = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    running.wait().expect(130);
    let file = File::options().write(true).open(sandbox.path("web-flat.vmdk")).unwrap();
    file.write_all_at(b"changed", 0).unwrap();
    drop(file);
    let ran = sandbox.ferry(["copy", "web.vmdk", "b.raw"]).expect(1);
    assert!(ran.stderr.contains("before it changed"), "{}", ran.stderr);
    sandbox.ferry(["copy", "web.vmdk", "b.raw", "--restart"]).expect(0);
    assert!(same(&sandbox, "web-flat.vmdk", "b.raw"));
}

/// Every format that QEMU writes, to every format that is written here: QEMU finds the same disk.
#[cfg(feature = "peers")]
#[test]
fn qemu_finds_the_same_disk_in_every_pair_of_formats() {
    use std::process::Command;

    let sandbox = Sandbox::new();
    let qemu_img = |arguments: &[&str]| {
        let ran = Command::new("qemu-img").args(arguments).current_dir(sandbox.path("")).output();
        let ran = ran.unwrap();
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert!(ran.status.success(), "qemu-img {arguments:?}: {said}");
    };
    patterned(&sandbox, "a.raw", 48);
    let sources = [
        ("raw", "", "raw"),
        ("qcow2", "cluster_size=4k", "qcow2"),
        ("qcow2", "compat=0.10", "qcow2"),
        ("vmdk", "subformat=monolithicSparse", "vmdk"),
        ("vmdk", "subformat=monolithicFlat", "vmdk"),
        ("vmdk", "subformat=twoGbMaxExtentSparse", "vmdk"),
        ("vmdk", "subformat=twoGbMaxExtentFlat", "vmdk"),
        ("vmdk", "subformat=streamOptimized", "vmdk"),
    ];
    for (number, (format, options, end)) in sources.into_iter().enumerate() {
        let source = format!("source-{number}.{end}");
        let mut convert = vec!["convert", "-f", "raw", "-O", format, "a.raw", &source];
        if !options.is_empty() {
            convert.splice(5..5, ["-o", options]);
        }
        qemu_img(&convert);
        for to in ["raw", "qcow2"] {
            let target = format!("target-{number}.{to}");
            sandbox.ferry(["copy", &source, &target, "--verify"]).expect(0);
            qemu_img(&["compare", "-f", "raw", "-F", to, "a.raw", &target]);
            if to == "qcow2" {
                qemu_img(&["check", "-f", "qcow2", &target]);
            }
        }
    }
}
