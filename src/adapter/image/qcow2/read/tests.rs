//! Hand-made images of all shapes, whole and damaged.

use std::fs;

use expect_test::{Expect, expect};
use libdeflater::{CompressionLvl, Compressor};
use proptest::prelude::*;

use super::*;

/// What a hand-made cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Compressed,
    Zero,
    /// It has a place with other bytes, and reads as zeros all the same.
    ZeroAllocated,
}

/// An image with clusters of these kinds, and what the guest sees.
fn image(version: u32, bits: u32, capacity: u64, clusters: &[(u64, Kind)]) -> (Vec<u8>, Vec<u8>) {
    let cluster = 1_u64 << bits;
    let per_table = cluster / 8;
    let l1_entries = capacity.div_ceil(cluster * per_table);
    let mut bytes = vec![0; index(cluster.max(512))];
    let mut put32 = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put32(0, 0x5146_49fb);
    put32(4, version);
    put32(20, bits);
    put32(36, u32::try_from(l1_entries).unwrap());
    if version == 3 {
        put32(96, 4);
        put32(100, 104);
    }
    put64(&mut bytes, 24, capacity);
    put64(&mut bytes, 40, cluster);
    let tables = cluster + (l1_entries * 8).next_multiple_of(cluster);
    bytes.resize(index(tables + l1_entries * cluster), 0);
    for number in 0..l1_entries {
        put64(&mut bytes, index(cluster + 8 * number), (1 << 63) | (tables + number * cluster));
    }
    let mut seen = vec![0; index(capacity)];
    for (nth, kind) in clusters {
        let content: Vec<u8> =
            (0..cluster).map(|at| u8::try_from((at / 3 + nth * 7) % 251).unwrap() | 1).collect();
        let (from, to) = (nth * cluster, ((nth + 1) * cluster).min(capacity));
        if matches!(kind, Kind::Data | Kind::Compressed) {
            seen[index(from)..index(to)].copy_from_slice(&content[..index(to - from)]);
        }
        let entry = match kind {
            Kind::Zero => 1,
            Kind::Data | Kind::ZeroAllocated => {
                let place = bytes.len().next_multiple_of(index(cluster));
                bytes.resize(place, 0xee);
                bytes.extend(content);
                u64::try_from(place).unwrap() | u64::from(*kind == Kind::ZeroAllocated)
            }
            Kind::Compressed => {
                let stream = deflate(&content);
                let (at, length) = (bytes.len(), stream.len());
                bytes.extend(stream);
                let sectors = (at + length - 1) / 512 - at / 512;
                let sectors = u64::try_from(sectors).unwrap() << (62 - (bits - 8));
                (1 << 62) | sectors | u64::try_from(at).unwrap()
            }
        };
        put64(&mut bytes, index(tables + nth * 8), entry);
    }
    (bytes, seen)
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut stream = vec![0; compressor.deflate_compress_bound(bytes.len())];
    let length = compressor.deflate_compress(bytes, &mut stream).unwrap();
    stream.truncate(length);
    stream
}

fn opened(image: &[u8]) -> Result<Qcow2, PortError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    fs::write(&path, image).unwrap();
    Qcow2::open(&Confine::new([folder.path().to_owned()]), &path)
}

/// Reads all of a disk in pieces.
fn whole(disk: &Qcow2, piece: u64) -> Result<Vec<u8>, PortError> {
    let mut all = Vec::new();
    for at in (0..disk.size()).step_by(index(piece)) {
        let mut bytes = vec![0xaa; index(piece.min(disk.size() - at))];
        disk.read(at, &mut bytes)?;
        all.extend(bytes);
    }
    Ok(all)
}

/// Asks until the whole disk is known.
fn all_extents(disk: &Qcow2) -> Result<Vec<Extent>, PortError> {
    let mut all: Vec<Extent> = Vec::new();
    while all.last().map_or(0, Extent::end) < disk.size() {
        let at = all.last().map_or(0, Extent::end);
        let more = disk.extents(at, disk.size() - at)?;
        assert!(!more.is_empty());
        for extent in more {
            assert_eq!(extent.offset, all.last().map_or(0, Extent::end));
            assert!(extent.length > 0 && extent.end() <= disk.size());
            all.push(extent);
        }
    }
    Ok(all)
}

/// What an image is refused with, at once or when it is read.
fn refusal(image: &[u8]) -> String {
    let read = opened(image).and_then(|disk| whole(&disk, 1 << 20));
    let error = read.expect_err("it is refused");
    let text = error.to_string();
    let place = text.find("disk.qcow2").expect("the error names the file");
    text[place..].to_owned()
}

/// What happens to an image.
type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

/// Makes each change to an image that is whole, and lists what it is refused with.
fn check(changes: &[Change<'_>], expected: Expect) {
    let (whole, _) = image(3, 16, 3 << 16, &[(0, Kind::Data), (2, Kind::Compressed)]);
    let refusals = changes.iter().map(|change| {
        let mut image = whole.clone();
        change(&mut image);
        refusal(&image) + "\n"
    });
    expected.assert_eq(&refusals.collect::<String>());
}

/// Appends a stream and makes it the first cluster.
fn put_stream(image: &mut Vec<u8>, length: usize) {
    let place = image.len();
    image.extend(deflate(&vec![7; length]));
    put64(image, L2, (1 << 62) | u64::try_from(place).unwrap());
}

/// Where [`check`]'s image has its L1 and its L2 table.
const L1: usize = 1 << 16;
const L2: usize = 2 << 16;

#[test]
fn clusters_of_every_kind_and_size_are_read() {
    let kinds = [
        (0, Kind::Data),
        (1, Kind::Data),
        (3, Kind::Compressed),
        (4, Kind::Compressed),
        (6, Kind::ZeroAllocated),
        (7, Kind::Data),
        (9, Kind::Zero),
        (10, Kind::Data),
    ];
    for (version, bits) in [(2, 9), (3, 9), (2, 12), (3, 12), (3, 16), (2, 16), (3, 21)] {
        // Zero flags are of version 3; the last cluster is cut off by the disk's end.
        let kinds: Vec<_> = kinds
            .into_iter()
            .filter(|(_, kind)| version == 3 || matches!(kind, Kind::Data | Kind::Compressed))
            .collect();
        let capacity = (10 << bits) + if bits == 9 { 512 } else { 1024 };
        let (image, seen) = image(version, bits, capacity, &kinds);
        let disk = opened(&image).unwrap();
        assert_eq!((disk.size(), disk.in_flight()), (capacity, 4));
        for piece in [1 << 20, 3 << (bits - 1), 65_536 - 512] {
            assert!(whole(&disk, piece).unwrap() == seen, "{version} {bits} {piece}");
        }
        disk.read(capacity, &mut []).unwrap();
    }
}

#[test]
fn extents_tell_what_is_zeros() {
    let kinds =
        [(1, Kind::Data), (2, Kind::Compressed), (4, Kind::ZeroAllocated), (70, Kind::Data)];
    let (image, seen) = image(3, 9, 200 * 512, &kinds);
    let disk = opened(&image).unwrap();
    let mut text = String::new();
    for Extent { offset, length, content } in all_extents(&disk).unwrap() {
        if content == Content::Zero {
            assert!(seen[index(offset)..index(offset + length)].iter().all(|byte| *byte == 0));
        }
        text += &format!("{} {} {content:?}\n", offset / 512, length / 512);
    }
    expect![[r#"
        0 1 Zero
        1 2 Data
        3 67 Zero
        70 1 Data
        71 129 Zero
    "#]]
    .assert_eq(&text);
    let inner = disk.extents(700, 600).unwrap();
    assert_eq!(inner, [Extent { offset: 700, length: 600, content: Content::Data }]);
}

#[test]
fn answers_about_extents_are_bounded() {
    // Every L1 entry names one table, and every second cluster is data: 512 tables, 32,768 extents.
    let (mut image, _) = image(3, 9, 512 << 15, &[]);
    let table = image.len() - 512;
    let data = u64::try_from(table).unwrap();
    for nth in (0..64).step_by(2) {
        put64(&mut image, table + 8 * nth, data);
    }
    for number in 0..512 {
        put64(&mut image, 512 + 8 * number, data);
    }
    let disk = opened(&image).unwrap();
    let first = disk.extents(0, disk.size()).unwrap();
    assert_eq!(first.len(), EXTENTS_PER_ANSWER);
    assert_eq!(all_extents(&disk).unwrap().len(), 512 * 64);
}

#[test]
fn what_is_no_plain_qcow2_is_refused() {
    let compression = |image: &mut Vec<u8>, kind| {
        (image[79], image[103], image[104]) = (8, 112, kind);
    };
    let backing = |image: &mut Vec<u8>| {
        put64(image, 8, 300);
        image[19] = 8;
        image[300..308].copy_from_slice(b"ba\x1b\xffraw\n");
    };
    let hostile_backing = |image: &mut Vec<u8>| {
        put64(image, 8, u64::MAX);
        image[16..20].fill(0xff);
    };
    check(
        &[
            &|image| image.truncate(71),
            &|image| image.truncate(90),
            &|image| image[..4].copy_from_slice(b"KDMV"),
            &|image| image[7] = 4,
            &backing,
            &hostile_backing,
            &|image| image[35] = 1,
            &|image| image[35] = 2,
            &|image| image[35] = 9,
            &|image| image[79] = 2,
            &|image| image[79] = 4,
            &|image| image[79] = 16,
            &|image| image[79] = 32,
            &|image| compression(image, 1),
            &|image| compression(image, 7),
        ],
        expect![[r#"
            disk.qcow2 at byte 0: it is shorter than the header of a qcow2 … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 0: it is shorter than the header of a qcow2 … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 0: it starts with `KDMV` instead of `QFI\xfb`: it is no qcow2 … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 4: version 4 of the format is unknown, 2 and 3 are read … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 8: it holds only the differences from the backing file `ba\u{1b}�raw\n` … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 8: it holds only the differences from the backing file `` … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 32: it is encrypted (AES) … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 32: it is encrypted (LUKS) … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 32: it is encrypted by the unknown method 9 … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 72: QEMU marked it as corrupt … hint: repair a copy of it with `qemu-img check -r all`, and check what it holds
            disk.qcow2 at byte 72: its data lies in a second file (`data_file`) … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 72: it has subclusters (`extended_l2`) … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 72: it needs features that are unknown (bits 0x20) … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 104: it is compressed with zstd … hint: make a plain image of it: `qemu-img convert -O qcow2 OLD NEW`
            disk.qcow2 at byte 104: compression type 7 with feature bits 0x8 … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
        "#]],
    );
}

#[test]
fn hostile_headers_are_refused_with_their_place() {
    check(
        &[
            &|image| image[103] = 96,
            &|image| image[23] = 8,
            &|image| image[23] = 22,
            &|image| image[31] = 1,
            &|image| image[24..30].fill(0xff),
            &|image| image[39] = 0,
            &|image| image[36] = 0xff,
            &|image| image[47] = 1,
            &|image| put64(image, 40, 0xffff_ffff_ffff_0000),
        ],
        expect![[r#"
            disk.qcow2 at byte 100: a header of 96 bytes … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 20: clusters of 2^8 bytes … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 20: clusters of 2^22 bytes … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 24: a capacity of 196609 bytes: no sectors … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 36: an L1 table of 1 entries for 18446744073709486080 bytes: 34359738368 are needed, at most 4194304 read … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 36: an L1 table of 0 entries for 196608 bytes: 1 are needed, at most 4194304 read … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 36: an L1 table of 4278190081 entries for 196608 bytes: 1 are needed, at most 4194304 read … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 40: an L1 table at byte 65537: not at a cluster … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 18446744073709486080: its L1 table of 8 bytes ends behind the file's 262722 … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
        "#]],
    );
}

#[test]
fn hostile_tables_and_streams_are_refused_with_their_place() {
    check(
        &[
            &|image| put64(image, L1, 2),
            &|image| put64(image, L1, 0x200),
            &|image| put64(image, L1, 0x7fff_0000_0000),
            &|image| put64(image, L2, 2),
            &|image| put64(image, L2, 1 << 61),
            &|image| put64(image, L2, 0x200),
            &|image| put64(image, L2, 0x00ff_ffff_ffff_0000),
            &|image| (image[7], image[L2 + 7]) = (2, 1),
            &|image| put64(image, L2, (1 << 62) | 0xffff_ffff),
            &|image| put64(image, L2, (1 << 62) | 3),
            &|image| put_stream(image, 65_535),
            &|image| put_stream(image, 65_537),
            // A transfer that was cut off.
            &|image| image.truncate((4 << 16) - 1),
        ],
        expect![[r#"
            disk.qcow2 at byte 65536: an L1 entry 0x2 with reserved bits … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 65536: an L2 table at byte 512: not at a cluster … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 140733193388032: an L2 table ends behind the file's 262722 bytes … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 131072: an L2 entry 0x2 with reserved bits … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 131072: an L2 entry 0x2000000000000000 with reserved bits … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 131072: a cluster at byte 512: not at a multiple of its size … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 72057594037862400: data ends behind the file's 262722 bytes … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 131072: an L2 entry 0x30001 with reserved bits … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 4294967295: a compressed cluster stands behind the file's 262722 … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 3: a compressed cluster inflates to 1 bytes … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 262722: a compressed cluster inflates to 65535 bytes … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 262722: a compressed cluster inflates to more than a cluster … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
            disk.qcow2 at byte 196608: data ends behind the file's 262143 bytes … hint: compare the file with its source; `qemu-img check` says what else is wrong with it
        "#]],
    );
}

#[test]
fn a_disk_is_not_read_behind_its_end_and_tables_may_overlap() {
    let (mut image, _) = image(3, 16, 3 << 16, &[(0, Kind::Data)]);
    let disk = opened(&image).unwrap();
    for (offset, length) in [(3 << 16, 1), (0, (3 << 16) + 1), (u64::MAX, 2)] {
        let error = disk.read(offset, &mut vec![0; length]).unwrap_err().fault.text;
        assert!(error.contains("it has 196608"), "{error}");
        assert!(disk.extents(offset, u64::try_from(length).unwrap()).is_err());
    }
    // The L1 table is its own L2 table, whose first cluster is the table again.
    put64(&mut image, L1, 1 << 16);
    let disk = opened(&image).unwrap();
    assert_eq!(whole(&disk, 1 << 16).unwrap()[..8], (1_u64 << 16).to_be_bytes());
    // The header as a table.
    put64(&mut image, 40, 0);
    assert!(opened(&image).and_then(|disk| whole(&disk, 1 << 16)).is_err());
}

#[test]
fn dirty_images_and_empty_disks_are_read() {
    let (mut dirty, seen) = image(3, 16, 3 << 16, &[(1, Kind::Data)]);
    dirty[79] = 1;
    assert!(whole(&opened(&dirty).unwrap(), 1 << 20).unwrap() == seen);
    let (empty, _) = image(3, 16, 0, &[]);
    assert_eq!(whole(&opened(&empty).unwrap(), 1).unwrap(), b"");
}

#[test]
fn only_regular_files_below_the_allowed_folders_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        let confine = Confine::new([folder.path().to_owned()]);
        Qcow2::open(&confine, path).err().expect("it is refused").fault.text
    };
    assert!(open(folder.path()).contains("is no regular file"));
    assert!(open(Path::new("/etc/passwd")).contains("allowPaths"));
}

#[test]
fn tables_are_kept_within_bounds() {
    let mut tables = Tables { most: 2, young: HashMap::new(), old: HashMap::new() };
    for place in 0..9 {
        tables.put(place, Arc::from([place]));
        assert!(tables.young.len() <= 2 && tables.old.len() <= 2);
    }
    // One that is used stays.
    for place in 9..20 {
        assert_eq!(tables.get(8).as_deref(), Some(&[8][..]));
        tables.put(place, Arc::from([place]));
    }
    assert_eq!(tables.get(1), None);
}

proptest! {
    /// Whatever happens to the numbers of an image, it is read or refused.
    #[test]
    fn damaged_images_are_read_or_refused(
        bits in prop_oneof![Just(9_u32), Just(12)],
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..3, any::<u64>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let kinds = [(0, Kind::Data), (1, Kind::Compressed), (3, Kind::Zero), (5, Kind::Data)];
        let (mut image, _) = image(3, bits, 9 << bits, &kinds);
        let cluster = 1_usize << bits;
        for (place, whither, value) in changes {
            // The header's fields, an entry of a table, or any byte.
            let at = match whither {
                0 => place.index(28) * 4,
                1 => cluster + place.index(2 * cluster / 8) * 8,
                _ => place.index(image.len() - 8),
            };
            let value = if value % 2 == 0 { value } else { (value % 64) << (bits - 1) };
            put64(&mut image, at, value);
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        if let Ok(disk) = opened(&image) {
            // A disk may have become large: its start, its end and a part of its extents are looked at.
            let most = disk.size().min(1 << 17);
            for at in [0, disk.size() - most] {
                let _ = disk.read(at, &mut vec![0; index(most)]);
                let _ = disk.extents(at, disk.size() - at);
            }
        }
    }
}
