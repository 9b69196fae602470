//! How fast a disk is copied, beside `qemu-img convert` on the same stream-optimized file.
//!
//! `cargo bench --bench copy [-- MIB]` prints the median of five runs and their spread. The file is in the page cache for
//! all of them. Ferry inflates, compares the archive's SHA-256, hashes every leaf, and ends with everything durable; qemu-img
//! inflates, and is told to end with everything durable as well (`-t writeback`; its default flushes nothing).
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "the table is the answer")]
#![expect(clippy::disallowed_methods, reason = "it measures time and starts qemu-img")]

mod measure;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferry::adapter::confine::Confine;
use ferry::adapter::image::LocalImages;
use ferry::adapter::location::{LocalDisk, Stamp, StoredDisk};
use ferry::copy::engine::{Bounds, End, Flow, copy_disk};
use ferry::copy::protocol::DiskJob;
use ferry::domain::id::{DiskKey, TargetName, Token};
use ferry::domain::unit::Bytes;
use ferry::domain::vm::{Checksum, Disk, DiskFormat};
use sha2::{Digest, Sha256};

use measure::Times;

/// The disk's size unless one is given: some seconds a run.
const MIB: u64 = 1024;

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // `cargo bench` adds `--bench` to what is given behind `--`.
    let mib = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(MIB);
    let raw = folder.path().join("source.raw");
    let stored = folder.path().join("source.vmdk");
    write_source(&raw, mib);
    convert(&["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"], &raw, &stored);
    println!("{mib} MiB disk, stored in {}", Bytes(fs::metadata(&stored).unwrap().len()));
    println!("{:<38}{:>12}   {:>9}", "", "median", "spread");

    let job = job(folder.path(), &stored, mib);
    let images = LocalImages::new(Confine::new([folder.path().to_owned()]));
    let target = folder.path().join(".ferry-area/disk.raw");
    for threads in [1, 2, 4] {
        let bounds = Bounds { threads, memory: Bytes::mib(64), checkpoint_every: Bytes::mib(1024) };
        let times = Times::of(
            || fresh(&target, mib),
            |()| {
                let end = copy_disk(&images, &job, bounds, &mut |_| Flow::Continue).unwrap();
                assert!(matches!(end, End::Copied { .. }));
            },
        );
        row(&format!("ferry, {threads} threads"), &times, mib);
        assert!(equal(&raw, &target), "the copy differs");
    }
    let target = folder.path().join("qemu.raw");
    for extra in [&[][..], &["-W", "-m", "16"]] {
        let mut options = vec!["-f", "vmdk", "-O", "raw", "-t", "writeback"];
        options.extend(extra);
        let times =
            Times::of(|| drop(fs::remove_file(&target)), |()| convert(&options, &stored, &target));
        row(&format!("qemu-img convert -t writeback {}", extra.join(" ")), &times, mib);
        assert!(equal(&raw, &target), "qemu-img's copy differs");
    }
}

fn row(name: &str, times: &Times, mib: u64) {
    let mib = f64::from(u32::try_from(mib).unwrap());
    println!("{name:<38}{times}   {:>6.0} MiB/s", mib / times.median().as_secs_f64());
}

/// Writes a disk as guests have it: of each 8 MiB two that do not compress, two of zeros, four that compress well. The same
/// every time.
fn write_source(path: &Path, mib: u64) {
    let mut file = File::create(path).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..mib {
        let mut piece = Vec::with_capacity(1 << 20);
        while piece.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match number % 8 {
                0 | 1 => piece.extend(state.to_le_bytes()),
                2 | 3 => piece.resize(1 << 20, 0),
                _ => writeln!(piece, "{number} block {:>8} of a log line", state % 4096).unwrap(),
            }
        }
        file.write_all(&piece[..1 << 20]).unwrap();
    }
}

/// Makes the target as the local target makes it: empty, of full size.
fn fresh(target: &Path, mib: u64) {
    let folder = target.parent().unwrap();
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).unwrap();
    File::create(target).unwrap().set_len(mib << 20).unwrap();
}

fn job(folder: &Path, stored: &PathBuf, mib: u64) -> DiskJob {
    let metadata = fs::metadata(stored).unwrap();
    let mtime_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    let stamp = Stamp { inode: metadata.ino(), size: metadata.size(), mtime_ns };
    let path = stored.to_str().unwrap().to_owned();
    let place = StoredDisk { path, stamp, offset: 0, length: metadata.size() };
    let disk = Disk {
        key: DiskKey::new("disk1"),
        capacity: Bytes::mib(mib),
        stored: Some(Bytes(metadata.size())),
        format: DiskFormat::StreamOptimized,
        checksum: Checksum::Sha256(hex::encode(Sha256::digest(fs::read(stored).unwrap()))),
        source: place.to_source(),
    };
    let target = LocalDisk {
        folder: folder.to_str().unwrap().to_owned(),
        area: Token::new("area"),
        name: TargetName::new("bench"),
        file: "disk.raw".to_owned(),
    };
    DiskJob { disk, target: target.to_target(), checkpoint: None, copied: None }
}

fn convert(options: &[&str], from: &Path, to: &Path) {
    let mut qemu_img = Command::new("qemu-img");
    let status = qemu_img.arg("convert").args(options).args([from, to]).status();
    assert!(status.expect("qemu-img is installed (Debian: qemu-utils)").success());
}

fn equal(one: &Path, other: &Path) -> bool {
    let (mut one, mut other) = (File::open(one).unwrap(), File::open(other).unwrap());
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut left).unwrap();
        if count == 0 {
            return other.read(&mut right).unwrap() == 0;
        }
        if other.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return false;
        }
    }
}
