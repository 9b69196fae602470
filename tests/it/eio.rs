//! Storage that fails: every request that a copy makes of an image and of the file that it makes is failed once, by strace in
//! the kernel's stead. Each time the copy says where, leaves nothing under the target's name, and the same command makes it whole.

use std::fs;
use std::process::{Command, Output};

use crate::copy::{patterned, same};
use crate::peers::run;
use crate::sandbox::Sandbox;

/// More requests than any copy here makes on one thread.
const REQUESTS_MAX: usize = 200;

/// Copies while a thread's `number`th call of one kind on the paths given fails.
fn failing(
    sandbox: &Sandbox,
    call: &str,
    error: &str,
    number: &str,
    paths: &[&str],
    copy: [&str; 2],
) -> Output {
    let ferry = sandbox.command(["copy"]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:error={error}:when={number}")]);
    for path in paths {
        strace.arg("-P").arg(sandbox.path(path));
    }
    strace.arg(ferry.get_program()).args(ferry.get_args()).args(copy);
    strace.current_dir(sandbox.path("")).output().expect("strace is installed")
}

/// Fails each request of one kind; returns how many there were.
fn each_fails(
    sandbox: &Sandbox,
    call: &str,
    error: &str,
    paths: &[&str],
    [from, to]: [&str; 2],
) -> usize {
    let words = if error == "ENOSPC" { "make room" } else { "(os error 5)" };
    let mut number = 0;
    loop {
        number += 1;
        assert!(number < REQUESTS_MAX, "{from} to {to}: {call} fails, and nobody hears it");
        let output = failing(sandbox, call, error, &number.to_string(), paths, [from, to]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let place = format!("{from} to {to}, {call} {number}: {said}");
        if output.status.success() {
            assert_eq!(said, "", "{place}");
            fs::remove_file(sandbox.path(to)).unwrap();
            return number - 1;
        }
        assert_eq!(output.status.code(), Some(1), "{place}");
        assert!(said.contains(words) && said.contains(" … hint: "), "{place}");
        assert!(!sandbox.path(to).exists(), "{place}");
        sandbox.ferry(["copy", from, to, "--verify"]).expect(0);
        let seen = if to.ends_with("raw") { to.to_owned() } else { format!("{to}.raw") };
        if seen != to {
            sandbox.ferry(["copy", to, &seen]).expect(0);
            fs::remove_file(sandbox.path(to)).unwrap();
        }
        assert!(same(sandbox, "a.raw", &seen), "{place}");
        fs::remove_file(sandbox.path(&seen)).unwrap();
    }
}

#[test]
fn every_request_to_a_source_may_fail() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 28);
    let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    for (name, format, options) in [
        ("a.qcow2", "qcow2", "cluster_size=64k"),
        ("sparse.vmdk", "vmdk", "subformat=monolithicSparse"),
        ("stream.vmdk", "vmdk", "subformat=streamOptimized"),
    ] {
        let (from, to) = (path("a.raw"), path(name));
        run("qemu-img", ["convert", "-f", "raw", "-O", format, "-o", options, &from, &to]);
    }
    for source in ["a.raw", "a.qcow2", "sparse.vmdk", "stream.vmdk"] {
        let counted = ["pread64", "lseek", "statx"]
            .map(|call| each_fails(&sandbox, call, "EIO", &[source], [source, "b.raw"]));
        // How many of them one thread makes depends on how the threads share the work.
        assert!(counted[0] > 0 && counted[2] > 0, "{source}: {counted:?}");
    }
}

#[test]
fn where_no_holes_can_be_made_zeros_are_written() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 28);
    for error in ["EOPNOTSUPP", "EINVAL"] {
        // All calls of each thread: there are two ways to make zeros without writing them.
        let output =
            failing(&sandbox, "fallocate", error, "1+", &["b.raw.part"], ["a.raw", "b.raw"]);
        assert!(output.status.success(), "{error}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(same(&sandbox, "a.raw", "b.raw"), "{error}");
        fs::remove_file(sandbox.path("b.raw")).unwrap();
    }
    let written = ["b.raw.part"];
    assert_ne!(each_fails(&sandbox, "fallocate", "EIO", &written, ["a.raw", "b.raw"]), 0);
}

#[test]
fn every_request_to_a_target_may_fail() {
    let sandbox = Sandbox::new();
    patterned(&sandbox, "a.raw", 28);
    for target in ["b.raw", "b.qcow2"] {
        let written = ["", ".map"].map(|end| format!("{target}.part{end}"));
        let written = written.each_ref().map(String::as_str);
        let counted = [
            ("pwrite64", "EIO"),
            ("pwrite64", "ENOSPC"),
            ("pread64", "EIO"),
            ("ftruncate", "EIO"),
            ("fdatasync", "EIO"),
            ("fsync", "EIO"),
        ]
        .map(|(call, error)| each_fails(&sandbox, call, error, &written, ["a.raw", target]));
        assert!(counted.iter().all(|count| *count > 0), "{target}: {counted:?}");
    }
}
