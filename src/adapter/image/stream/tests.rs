//! Hand-made images of both shapes, whole and damaged.

use std::fs;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::adapter::image::LocalImages;
use crate::adapter::image::vmdk_write::write_stream_optimized;
use crate::domain::vm::DiskFormat;
use crate::port::Images;

const GRAIN: usize = 64 << 10;

/// What stands before and behind the disk in its file.
const AROUND: usize = 1536;

/// A disk of so many bytes with data in these grains.
fn disk(capacity: usize, grains: &[usize]) -> Vec<u8> {
    let mut disk = vec![0; capacity];
    for grain in grains {
        for (at, byte) in disk[grain * GRAIN..].iter_mut().take(GRAIN).enumerate() {
            *byte = u8::try_from((at * 31 + grain * 7) % 251).unwrap();
        }
    }
    disk
}

/// As VMware writes it.
fn vmware(disk: &[u8], grains: &[usize]) -> Vec<u8> {
    let mut image = Vec::new();
    let mut pieces = grains.iter().map(|grain| {
        let at = grain * GRAIN;
        (u64::try_from(at).unwrap(), disk[at..(at + GRAIN).min(disk.len())].to_vec())
    });
    let capacity = u64::try_from(disk.len()).unwrap();
    write_stream_optimized(&mut image, "disk.vmdk", capacity, &mut pieces).unwrap();
    image
}

/// As qemu-img writes it: directory and tables in front, no markers but those of the grains, zeros at the end.
fn qemu(disk: &[u8], grains: &[usize]) -> Vec<u8> {
    let vmware = vmware(disk, &[]);
    let mut image = vmware[..GRAIN].to_vec();
    image[4] = 3;
    image[8..12].copy_from_slice(&0x30003_u32.to_le_bytes());
    image[56..64].copy_from_slice(&30_u64.to_le_bytes());
    image[64..72].copy_from_slice(&256_u64.to_le_bytes());
    // A table that looks like nothing else: it must be passed over, not read as grains.
    image.resize(2 * GRAIN, 0xa5);
    for grain in grains {
        let at = grain * GRAIN;
        // The last grain is stored as a whole here, with zeros behind the disk's end.
        let mut bytes = disk[at..(at + GRAIN).min(disk.len())].to_vec();
        bytes.resize(GRAIN, 0);
        image.extend(grain_of(at, &crate::copy::memory::zlib(&bytes)));
    }
    image.resize(image.len().next_multiple_of(GRAIN) + 512, 0);
    image
}

/// A marker and its data, padded.
fn grain_of(at: usize, stored: &[u8]) -> Vec<u8> {
    let mut grain = u64::try_from(at / 512).unwrap().to_le_bytes().to_vec();
    grain.extend(u32::try_from(stored.len()).unwrap().to_le_bytes());
    grain.extend(stored);
    grain.resize(grain.len().next_multiple_of(512), 0);
    grain
}

/// A file with an image in it, and the disk that names it.
struct Fixture {
    folder: tempfile::TempDir,
    disk: Disk,
}

impl Fixture {
    fn new(capacity: usize, image: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.ova");
        let around = [0x55; AROUND];
        fs::write(&path, [&around, image, &around].concat()).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let stored = StoredDisk {
            path: path.to_str().unwrap().to_owned(),
            stamp: Stamp {
                inode: metadata.ino(),
                size: metadata.len(),
                mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            },
            offset: 1536,
            length: u64::try_from(image.len()).unwrap(),
        };
        let disk = Disk {
            key: DiskKey::new("vmdisk1"),
            capacity: Bytes(u64::try_from(capacity).unwrap()),
            stored: None,
            format: DiskFormat::StreamOptimized,
            checksum: Checksum::Sha256(hex::encode(Sha256::digest(image)).to_uppercase()),
            source: stored.to_source(),
        };
        Self { folder, disk }
    }

    fn reader(&self, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        LocalImages::new(Confine::new([self.folder.path().to_owned()])).reader(&self.disk, resume)
    }

    /// Reads everything into a disk; opens the reader anew after every `hop` pieces.
    fn read(&self, hop: usize) -> Result<Vec<u8>, PortError> {
        let mut disk = vec![0; usize::try_from(self.disk.capacity.0).unwrap()];
        let mut reader = self.reader(None)?;
        let mut pieces = 0;
        while let Some(Piece { offset, length, stored }) = reader.next()? {
            let at = usize::try_from(offset).unwrap();
            let into = &mut disk[at..at + usize::try_from(length).unwrap()];
            match stored {
                Stored::Raw(bytes) => into.copy_from_slice(&bytes),
                Stored::Zlib(bytes) => {
                    let inflated = Decompressor::new().zlib_decompress(&bytes, into);
                    assert_eq!(inflated, Ok(into.len()));
                }
                Stored::Zero | Stored::Unread => into.fill(0),
            }
            pieces += 1;
            if pieces % hop == 0 {
                reader = self.reader(Some(&reader.position()?.resume))?;
            }
        }
        reader = self.reader(Some(&reader.position()?.resume))?;
        assert_eq!(reader.next()?, None);
        reader.finish()?;
        assert_eq!(reader.position()?.read.0, StoredDisk::parse(&self.disk.source).unwrap().length);
        Ok(disk)
    }

    fn refusal(&self) -> String {
        self.read(1000).unwrap_err().fault.text
    }
}

type Hash = fn(&[u8]) -> Checksum;

#[test]
fn each_kind_of_checksum_is_checked_while_the_disk_is_read() {
    let image = vmware(&disk(3 * GRAIN, &[0, 2]), &[0, 2]);
    let mut fixture = Fixture::new(3 * GRAIN, &image);
    let checksums: [(&str, Hash); 3] = [
        ("SHA-1", |bytes| Checksum::Sha1(hex::encode(sha1::Sha1::digest(bytes)))),
        ("SHA-256", |bytes| Checksum::Sha256(hex::encode(Sha256::digest(bytes)))),
        ("SHA-512", |bytes| Checksum::Sha512(hex::encode(sha2::Sha512::digest(bytes)))),
    ];
    for (method, checksum) in checksums {
        fixture.disk.checksum = checksum(&image);
        fixture.read(1).unwrap();
        fixture.disk.checksum = checksum(b"something else");
        let error = fixture.read(1).unwrap_err();
        assert!(error.fault.text.contains(&format!("its {method} is ")), "{error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_shapes_are_read_whole_and_from_every_piece(
        grains in proptest::collection::btree_set(0_usize..600, 0..8),
        short in 0_usize..127, beyond in 0_usize..200_000, hop in 1_usize..4,
    ) {
        let grains: Vec<_> = grains.into_iter().collect();
        let capacity = (grains.last().unwrap_or(&0) + 1) * GRAIN - short * 512;
        let expected = disk(capacity, &grains);
        for image in [vmware(&expected, &grains), qemu(&expected, &grains)] {
            // The VM's description may say more than the header: the rest is zeros.
            let mut described = expected.clone();
            described.resize(capacity + beyond, 0);
            let fixture = Fixture::new(described.len(), &image);
            prop_assert!(fixture.read(hop)? == described);
        }
    }

    #[test]
    fn a_damaged_image_is_never_read_to_a_good_end(
        at in 0_usize..300_000, byte in 1_u8.., cut in any::<bool>(),
    ) {
        let expected = disk(5 * GRAIN, &[0, 2, 4]);
        let mut image = vmware(&expected, &[0, 2, 4]);
        let at = at % image.len();
        let checksum = Fixture::new(expected.len(), &image).disk.checksum;
        if cut { image.truncate(at) } else { image[at] ^= byte }
        let mut fixture = Fixture::new(expected.len(), &image);
        fixture.disk.checksum = checksum;
        let mut reader = fixture.reader(None);
        let result = reader.as_mut().map_err(|error| error.clone()).and_then(|reader| {
            while reader.next()?.is_some() {}
            reader.finish()
        });
        prop_assert!(result.is_err());
    }
}

/// The offset of the first grain in these images.
const FIRST: usize = GRAIN;

#[test]
fn hostile_headers_and_markers_are_refused_with_their_place() {
    let expected = disk(3 * GRAIN, &[0, 1]);
    let good = vmware(&expected, &[0, 1]);
    let cases: [(usize, &[u8], &str); 16] = [
        (0, b"COWD", "at byte 0 of"),
        (0, b"\x1f\x8b\x08\x00", "it starts with `\\x1f\\x8b\\x08\\x00`"),
        (4, &[4], "at byte 4 of"),
        (8, &[3, 0, 0, 0], "flags 0x3 are not those"),
        (12, &[0xff; 8], "a capacity of 18446744073709551615 sectors"),
        (12, &[0, 0, 0, 0, 1], "the VM's description says 196608"),
        (20, &[0; 8], "a grain of 0 sectors"),
        (20, &[129], "a grain of 129 sectors"),
        (36, &[0xff; 4], "a descriptor of"),
        (28, &[127], "does not lie between"),
        (64, &[0xff, 0xff, 0xff], "it is truncated"),
        (73, b"\n \n\n", "a transfer as text"),
        (77, &[2], "compression method 2"),
        (FIRST, &[0xff; 8], "is on no disk"),
        (FIRST, &[64], "a grain for byte 32768"),
        (FIRST + 8, &[1, 0, 3], "a grain of 196609 compressed bytes"),
    ];
    for (at, bytes, expected_text) in cases {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let text = Fixture::new(expected.len(), &image).refusal();
        assert!(text.contains(expected_text) && text.contains("vm.ova"), "{at}: {text}");
    }
}

#[test]
fn a_descriptor_that_means_another_disk_is_refused() {
    let expected = disk(GRAIN, &[0]);
    for (old, new, why) in [
        ("streamOptimized", "twoGbMaxExtent!", "createType `twoGbMaxExtent!`"),
        ("parentCID=ffffffff", "parentCID=0badcafe", "differences from a parent"),
        ("createType", "CreateTypo", "names no createType"),
    ] {
        let mut image = vmware(&expected, &[0]);
        let at = image.windows(old.len()).position(|bytes| bytes == old.as_bytes()).unwrap();
        image[at..at + new.len()].copy_from_slice(new.as_bytes());
        let text = Fixture::new(GRAIN, &image).refusal();
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn an_unknown_marker_and_a_short_last_grain_are_refused() {
    let mut image = vmware(&disk(GRAIN, &[0]), &[])[..FIRST].to_vec();
    let front = image.clone();
    image.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    image.resize(FIRST + 1024, 0);
    assert!(Fixture::new(GRAIN, &image).refusal().contains("unknown type 9"));

    let mut image = front;
    image[12..20].copy_from_slice(&100_u64.to_le_bytes());
    image.extend(grain_of(0, &crate::copy::memory::zlib(&[1; 512])));
    image.resize(image.len() + 512, 0);
    assert!(Fixture::new(100 * 512, &image).refusal().contains("inflates to 512 bytes"));
}

/// Where the last grain fills its sectors, qemu-img's file ends right behind it: then the tables in front tell whether it is
/// whole.
#[test]
fn an_end_without_a_mark_is_one_where_the_tables_name_what_was_read() {
    let expected = disk(2 * GRAIN, &[0, 1]);
    let mut image = qemu(&expected, &[0, 1]);
    let end = image.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512);
    image.truncate(end);
    let (directory, table) = (30 * 512, GRAIN);
    let sector = u32::try_from(table / 512).unwrap();
    image[directory..directory + 4].copy_from_slice(&sector.to_le_bytes());
    image[table..table + 2048].fill(0);
    image[table..table + 8].copy_from_slice(&[0, 1, 0, 0, 1, 1, 0, 0]);
    assert!(Fixture::new(expected.len(), &image).read(1).unwrap() == expected);
    // The same end one grain earlier.
    let short = qemu(&expected, &[0]);
    let end = short.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512);
    let text = Fixture::new(expected.len(), &image[..end]).refusal();
    assert!(text.contains("it is truncated"), "{text}");
}

#[test]
fn every_truncation_and_a_wrong_checksum_are_told() {
    let expected = disk(2 * GRAIN, &[0, 1]);
    let image = qemu(&expected, &[0, 1]);
    // Cut at the end of the last grain: no zeros behind it.
    let end = image.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512);
    for cut in [end, end - 100, FIRST + 700, 600, 100] {
        let text = Fixture::new(expected.len(), &image[..cut]).refusal();
        assert!(text.contains("it is truncated"), "{cut}: {text}");
    }
    let mut fixture = Fixture::new(expected.len(), &image);
    fixture.disk.checksum = Checksum::Sha256("00".repeat(32));
    let text = fixture.refusal();
    assert!(text.contains("is not what was exported: its SHA-256 is "), "{text}");
}

#[test]
fn a_file_that_is_replaced_before_or_during_the_copy_is_told() {
    let expected = disk(2 * GRAIN, &[0, 1]);
    let image = vmware(&expected, &[0, 1]);
    let replace = |fixture: &Fixture| {
        let path = fixture.folder.path().join("vm.ova");
        let copy = fixture.folder.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        fs::rename(&copy, &path).unwrap();
    };
    let touch = |fixture: &Fixture| {
        let file = fs::File::options().append(true).open(fixture.folder.path().join("vm.ova"));
        file.unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(9)).unwrap();
    };
    let remove = |fixture: &Fixture| fs::remove_file(fixture.folder.path().join("vm.ova")).unwrap();
    let changes: [&dyn Fn(&Fixture); 3] = [&replace, &touch, &remove];
    for change in changes {
        let fixture = Fixture::new(expected.len(), &image);
        let mut reader = fixture.reader(None).unwrap();
        reader.next().unwrap();
        change(&fixture);
        while reader.next().unwrap().is_some() {}
        let text = reader.finish().unwrap_err().fault.text;
        assert!(text.contains("was replaced during the copy"), "{text}");
        assert!(fixture.reader(None).is_err());
    }
}

#[test]
fn a_place_outside_of_the_file_and_a_strange_checkpoint_are_refused() {
    let expected = disk(GRAIN, &[0]);
    let mut fixture = Fixture::new(GRAIN, &vmware(&expected, &[0]));
    let strange = fixture.reader(Some(
        r#"{"at":0,"capacity":65536,"grain":65536,"grains":0,"ended":false,"hash":"00"}"#,
    ));
    assert!(strange.err().unwrap().fault.text.contains("holds no state of its checksum"));
    let strange = fixture.reader(Some(
        r#"{"at":9999999999,"capacity":1,"grain":65536,"grains":0,"ended":false,"hash":null}"#,
    ));
    assert!(strange.err().unwrap().fault.text.contains("lies outside"));
    let mut stored = StoredDisk::parse(&fixture.disk.source).unwrap();
    stored.length = u64::MAX;
    fixture.disk.source = stored.to_source();
    assert!(fixture.refusal().contains("outside of the file"));
}

#[test]
fn other_formats_are_nothing_or_refused() {
    let mut fixture = Fixture::new(GRAIN, &[]);
    fixture.disk.format = DiskFormat::Empty;
    let mut reader = fixture.reader(None).unwrap();
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(reader.finish(), Ok(true));
    fixture.disk.format = DiskFormat::Unsupported("qcow2".to_owned());
    assert!(fixture.reader(None).err().unwrap().fault.text.contains("stored as `qcow2`"));
}

/// What qemu-img itself writes is read.
#[cfg(feature = "peers")]
#[test]
#[expect(clippy::disallowed_methods, reason = "the peer is another program")]
fn what_qemu_img_writes_is_read() {
    let noise = |capacity: usize| {
        let mut bytes = vec![0; capacity];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    };
    let disks = [
        disk(40 * GRAIN, &[0, 7, 39]),
        disk(9 * GRAIN - 3 * 512, &[2, 8]),
        // Grains that do not become smaller: the file ends with the last one.
        noise(3 * GRAIN),
    ];
    for expected in disks {
        let capacity = expected.len();
        let folder = tempfile::tempdir().unwrap();
        let (raw, vmdk) = (folder.path().join("raw"), folder.path().join("vmdk"));
        fs::write(&raw, &expected).unwrap();
        let done = std::process::Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"])
            .args([&raw, &vmdk])
            .status();
        assert!(done.unwrap().success());
        let image = fs::read(&vmdk).unwrap();
        assert!(Fixture::new(capacity, &image).read(2).unwrap() == expected);
    }
}
