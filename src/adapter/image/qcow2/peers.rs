//! What QEMU makes is read, what QEMU and we both read is the same, and what we make is whole for QEMU.

#![expect(clippy::disallowed_methods, reason = "the peer is another program")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::{Qcow2, Qcow2Disk};
use crate::adapter::confine::Confine;
use crate::port::{BlockWriter, Blocks};

const LEAF: usize = 64 << 10;

/// A folder with a raw disk in it.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(raw: &[u8]) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(bench.at("disk.raw"), raw).unwrap();
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn confine(&self) -> Confine {
        Confine::new([self.folder.path().to_owned()])
    }

    /// Runs qemu-img within the folder.
    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("qemu-img");
        command.current_dir(self.folder.path()).args(arguments).output().unwrap()
    }

    /// Runs qemu-img, which succeeds.
    fn tell(&self, arguments: &[&str]) {
        let done = self.ask(arguments);
        assert!(
            done.status.success(),
            "{arguments:?}\n{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }

    /// Reads an image as a whole.
    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let disk =
            Qcow2::open(&self.confine(), &self.at(name)).map_err(|error| error.to_string())?;
        let mut bytes = vec![0xaa; usize::try_from(disk.size()).unwrap()];
        for (at, piece) in (0..).step_by(1 << 20).zip(bytes.chunks_mut(1 << 20)) {
            disk.read(at, piece).map_err(|error| error.to_string())?;
        }
        Ok(bytes)
    }
}

/// A disk with data, text, holes and a cut-off end.
fn disk() -> Vec<u8> {
    let mut bytes = vec![0; 160 * LEAF + 1536];
    for leaf in (0..160).filter(|leaf| leaf % 7 < 3 || (60..75).contains(leaf)) {
        let part = &mut bytes[leaf * LEAF..(leaf + 1) * LEAF];
        if leaf % 2 == 0 {
            blake3::Hasher::new().update(&leaf.to_le_bytes()).finalize_xof().fill(part);
        } else {
            part[5000..30_000].fill(u8::try_from(leaf).unwrap());
        }
    }
    let end = bytes.len();
    bytes[end - 3..].copy_from_slice(b"end");
    bytes
}

#[test]
fn what_qemu_img_writes_is_read() {
    let expected = disk();
    let bench = Bench::new(&expected);
    for options in [
        "refcount_bits=1",
        "cluster_size=512",
        "cluster_size=4k",
        "cluster_size=64k",
        "cluster_size=2M",
        "compat=0.10",
        "compat=0.10,cluster_size=4k",
        "lazy_refcounts=on",
        "preallocation=metadata",
    ] {
        for compress in [&["-c"][..], &[]] {
            if options.starts_with("preallocation") && !compress.is_empty() {
                continue;
            }
            let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
            arguments.extend(compress);
            arguments.extend(["disk.raw", "disk.qcow2"]);
            bench.tell(&arguments);
            assert!(bench.read("disk.qcow2").unwrap() == expected, "{options} {compress:?}");
        }
    }
    bench.tell(&["snapshot", "-c", "before", "disk.qcow2"]);
    assert!(bench.read("disk.qcow2").unwrap() == expected);
}

#[test]
fn what_needs_a_second_file_or_a_feature_is_refused() {
    let bench = Bench::new(&disk());
    let make = |arguments: &[&str]| {
        let _ = fs::remove_file(bench.at("other.qcow2"));
        bench.tell(&[&["create", "-q", "-f", "qcow2"], arguments].concat());
        bench.read("other.qcow2").unwrap_err()
    };
    let backing = make(&["-b", "disk.raw", "-F", "raw", "other.qcow2"]);
    assert!(backing.contains("differences from the backing file `disk.raw`"), "{backing}");
    let data = make(&["-o", "data_file=data.raw", "other.qcow2", "1M"]);
    assert!(data.contains("data_file"), "{data}");
    let extended = make(&["-o", "extended_l2=on", "other.qcow2", "1M"]);
    assert!(extended.contains("extended_l2"), "{extended}");
    let zstd = make(&["-o", "compression_type=zstd", "other.qcow2", "1M"]);
    assert!(zstd.contains("zstd"), "{zstd}");
    let secret = "secret,id=key,data=canary";
    let luks = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let luks = ["create", "-q", "-f", "qcow2", "--object", secret, "-o", luks, "other.qcow2", "1M"];
    // It measures how fast it derives keys, and gives up where the processor's clock is too coarse for that.
    let measured = (0..50).any(|_| bench.ask(&luks).status.success());
    assert!(measured, "qemu-img makes no encrypted image here");
    let luks = bench.read("other.qcow2").unwrap_err();
    assert!(luks.contains("LUKS"), "{luks}");
}

/// Where QEMU reads a damaged image as a whole and we do, too, both read the same.
#[test]
fn damaged_images_are_read_as_qemu_reads_them() {
    let bench = Bench::new(&disk()[..40 * LEAF]);
    for options in [&["-o", "cluster_size=4k"][..], &["-c", "-o", "cluster_size=64k"]] {
        let convert = ["convert", "-f", "raw", "-O", "qcow2"];
        bench.tell(&[&convert[..], options, &["disk.raw", "disk.qcow2"]].concat());
        let image = fs::read(bench.at("disk.qcow2")).unwrap();
        let both = (0..20).filter(|seed| damaged_is_the_same(&bench, &image, *seed)).count();
        assert!(both > 4, "only {both} images were read by both");
    }
}

/// Changes a few words of an image; returns whether both read it.
fn damaged_is_the_same(bench: &Bench, image: &[u8], seed: u64) -> bool {
    let mut image = image.to_vec();
    let mut random = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut number = |most: usize| {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes)).unwrap() % most
    };
    for _ in 0..=seed % 3 {
        // One word of the header in a few cases, else any: tables and streams are a large part of the file.
        let at = if number(4) == 0 { number(13) * 8 } else { number(image.len() / 8) * 8 };
        let entries = image[at..at + 8].first_chunk::<8>().copied().unwrap();
        let entry = u64::from_be_bytes(entries);
        let changed = match number(3) {
            0 => entry ^ (1 << number(64)),
            1 => entry.wrapping_add(4096),
            _ => 0,
        };
        image[at..at + 8].copy_from_slice(&changed.to_be_bytes());
    }
    fs::write(bench.at("damaged.qcow2"), &image).unwrap();
    let _ = fs::remove_file(bench.at("damaged.raw"));
    let Ok(ours) = bench.read("damaged.qcow2") else { return false };
    let arguments = ["convert", "-f", "qcow2", "-O", "raw", "damaged.qcow2", "damaged.raw"];
    if !bench.ask(&arguments).status.success() {
        return false;
    }
    let theirs = fs::read(bench.at("damaged.raw")).unwrap();
    assert!(ours == theirs, "seed {seed}");
    true
}

/// Checks an image: the answer is 0 where it is whole, 3 where clusters are lost, 2 where it is corrupt.
pub(super) fn check(path: &Path) -> Option<i32> {
    let mut command = Command::new("qemu-img");
    command.args(["check", "-q", "-f", "qcow2"]).arg(path).output().unwrap().status.code()
}

impl Bench {
    fn open(&self) -> Qcow2Disk {
        let path = self.at("made.qcow2");
        Qcow2Disk::open(&self.confine(), path, Duration::from_secs(10)).unwrap()
    }

    fn create(&self, capacity: u64) {
        let path = self.at("made.qcow2");
        Qcow2Disk::create(&self.confine(), &path, capacity, Duration::from_secs(10)).unwrap();
    }

    /// QEMU finds nothing wrong and sees the raw disk.
    fn compare(&self) {
        self.tell(&["check", "-f", "qcow2", "made.qcow2"]);
        self.tell(&["compare", "-f", "raw", "-F", "qcow2", "disk.raw", "made.qcow2"]);
    }
}

#[test]
fn what_is_written_is_whole_and_the_same_for_qemu() {
    let mut expected = disk();
    let bench = Bench::new(&expected);
    let capacity = u64::try_from(expected.len()).unwrap();
    bench.create(capacity);
    assert_eq!(check(&bench.at("made.qcow2")), Some(0));
    {
        let writer = bench.open();
        writer.zero(0, capacity).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (writer, expected) = (&writer, &expected);
                scope.spawn(move || {
                    let pieces = (0..).step_by(4 * LEAF).zip(expected.chunks(4 * LEAF));
                    for (at, piece) in pieces.skip(thread).step_by(3) {
                        if piece.iter().any(|byte| *byte != 0) {
                            writer.write(at, piece).unwrap();
                        }
                    }
                });
            }
        });
        writer.sync().unwrap();
    }
    bench.compare();
    // A later round, by another handle: a part is zeroed, a part is new.
    {
        let writer = bench.open();
        expected[3 * LEAF..40 * LEAF].fill(0);
        writer.zero(u64::try_from(3 * LEAF).unwrap(), u64::try_from(37 * LEAF).unwrap()).unwrap();
        expected[90 * LEAF..130 * LEAF].fill(9);
        writer.write(u64::try_from(90 * LEAF).unwrap(), &expected[90 * LEAF..130 * LEAF]).unwrap();
        writer.sync().unwrap();
    }
    fs::write(bench.at("disk.raw"), &expected).unwrap();
    bench.compare();
    assert!(bench.read("made.qcow2").unwrap() == expected);
}

#[test]
fn the_largest_disk_is_whole_and_the_same_for_qemu() {
    let bench = Bench::new(&[]);
    let capacity = 8 << 40;
    fs::File::options()
        .write(true)
        .open(bench.at("disk.raw"))
        .and_then(|raw| raw.set_len(capacity))
        .unwrap();
    bench.create(capacity);
    let raw = fs::File::options().write(true).open(bench.at("disk.raw")).unwrap();
    {
        let writer = bench.open();
        for place in [0, (512 << 20) - (64 << 10), 3 << 40, capacity - (128 << 10)] {
            let data = vec![u8::try_from(place % 251).unwrap() | 1; 2 * LEAF];
            writer.write(place, &data).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&raw, &data, place).unwrap();
        }
        writer.sync().unwrap();
    }
    bench.compare();
}
