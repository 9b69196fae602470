//! The converter over the real qemu-img and virt-v2v-in-place. `tests/it/conversion.rs` converts a guest.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use super::tests::Bench;
use super::*;

/// Runs a program to its end and returns what it printed.
#[expect(clippy::disallowed_methods, reason = "tests run the real tools")]
fn tool<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let output = std::process::Command::new(name).args(arguments).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A disk of 64 MiB with an overlay that changes 32 MiB of it and zeroes some; returns what it must become, too.
fn overlaid() -> (Bench, Vec<u8>) {
    let before = vec![1; 64 << 20];
    let bench = Bench::new(&[&before]);
    let overlay = bench.in_area("disk-0.overlay.qcow2");
    let text = overlay.to_str().unwrap();
    tool("qemu-img", ["create", "-q", "-f", "qcow2", "-b", "disk-0.raw", "-F", "raw", text]);
    tool(
        "qemu-io",
        [
            "-f",
            "qcow2",
            "-c",
            "write -P 7 8M 32M",
            "-c",
            "write -z 48M 4M",
            "-c",
            "discard 60M 1M",
            text,
        ],
    );
    let merged = bench.at("merged");
    tool("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", text, merged.to_str().unwrap()]);
    let after = fs::read(merged).unwrap();
    assert!(after != before && after[8 << 20] == 7 && after[48 << 20] == 0);
    (bench, after)
}

#[test]
fn a_commit_that_is_made_again_makes_the_same_disk() {
    let (bench, after) = overlaid();
    let mut converter = bench.open().unwrap();
    let disk = &bench.job.disks[0].target;
    let read = || fs::read(bench.in_area("disk-0.raw")).unwrap();
    for _ in 0..2 {
        converter.commit(disk, &mut |_| true).unwrap();
        assert!(read() == after);
    }
    // What a killed one left half written is made whole.
    let file = File::options().write(true).open(bench.in_area("disk-0.raw")).unwrap();
    file.write_all_at(&vec![1; 20 << 20], 8 << 20).unwrap();
    converter.commit(disk, &mut |_| true).unwrap();
    assert!(read() == after);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it is killed in the middle")]
fn a_commit_that_was_killed_is_made_again() {
    let (bench, after) = overlaid();
    let overlay = bench.in_area("disk-0.overlay.qcow2");
    let read = || fs::read(bench.in_area("disk-0.raw")).unwrap();
    // So slow that it cannot come to its end before it is killed, at the first block that changed.
    let mut child = std::process::Command::new("qemu-img")
        .args(["commit", "-f", "qcow2", "-d", "-r", "1M"])
        .arg(&overlay)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let disk = File::open(bench.in_area("disk-0.raw")).unwrap();
    let mut byte = [0];
    while byte != [7] {
        disk.read_exact_at(&mut byte, 8 << 20).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
    assert!(read() != after);
    bench.open().unwrap().commit(&bench.job.disks[0].target, &mut |_| true).unwrap();
    assert!(read() == after);
}

#[test]
fn a_disk_without_a_guest_stays_as_it_is_and_the_converter_says_so() {
    let mut bench = Bench::new(&[&vec![0; 4 << 20], &vec![7; 1 << 20]]);
    bench.job.tools.program = "virt-v2v-in-place".to_owned();
    // The appliance takes long to build: it is built once for all tests.
    bench.job.tools.tmp_dir = "/var/tmp".to_owned();
    bench.waits.patience.silence = SILENCE_MAX;
    let (done, steps) = bench.convert();
    let error = done.unwrap_err();
    assert!(error.fault.text.contains("could not detect the source guest"), "{error}");
    assert!(error.fault.text.contains("No root device found"), "{error}");
    assert!(!error.fault.text.contains("If reporting bugs"), "{error}");
    assert!(steps.iter().any(|step| step == "Inspecting the source"), "{steps:?}");
    assert!(fs::read(bench.in_area("disk-0.raw")).unwrap() == vec![0; 4 << 20]);
    assert!(fs::read(bench.in_area("disk-1.raw")).unwrap() == vec![7; 1 << 20]);
    assert!(!bench.in_area("disk-0.overlay.qcow2").exists());
    assert!(!Path::new("/var/tmp/ferry-0123abcd").exists());
}

#[test]
fn this_machine_converts_linux() {
    let tools = crate::copy::protocol::ConvertTools {
        program: "virt-v2v-in-place".to_owned(),
        tmp_dir: "/var/tmp".to_owned(),
        ..Default::default()
    };
    let state = probe(&tools, &["/usr/bin".into()]);
    assert_eq!(state.missing, None);
}
