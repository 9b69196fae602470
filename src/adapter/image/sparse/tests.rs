//! Hand-made sparse extents, whole and damaged.

use std::fs;
use std::path::PathBuf;

use expect_test::expect;

use super::*;
use crate::adapter::confine::Confine;
use crate::adapter::image::flat;

/// The bytes of a grain here: the smallest.
pub(in crate::adapter::image) const GRAIN: usize = 4096;

/// Where the directory stands.
pub(in crate::adapter::image) const DIRECTORY: usize = 5 * 512;

/// Where the first table stands; the others follow.
pub(in crate::adapter::image) const TABLES: usize = 6 * 512;

/// The descriptor of a disk in one file.
pub(in crate::adapter::image) const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=12345678\n\
    parentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n# Extent description\nRW 4805 SPARSE \"a.vmdk\"\n\n\
    # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n";

/// The grains of [`sample`] in the order that they stand in.
pub(in crate::adapter::image) const GRAINS: [usize; 8] = [0, 1, 2, 511, 512, 600, 7, 6];

/// Returns an extent of 4,805 sectors, which ends within its grain 600, and the disk that it holds.
pub(in crate::adapter::image) fn sample() -> (Vec<u8>, Vec<u8>) {
    image(4805, &GRAINS, DESCRIPTOR)
}

/// Returns an extent of so many sectors with data in these grains, and the disk that it holds.
pub(in crate::adapter::image) fn image(
    sectors: usize,
    grains: &[usize],
    descriptor: &str,
) -> (Vec<u8>, Vec<u8>) {
    let tables = sectors.div_ceil(512 * 8);
    let overhead = TABLES + tables * 2048;
    let mut image = vec![0; overhead];
    let mut disk = vec![0; sectors * 512];
    let put = |image: &mut Vec<u8>, at: usize, value: usize, bytes: usize| {
        let value = u64::try_from(value).unwrap().to_le_bytes();
        image[at..at + bytes].copy_from_slice(&value[..bytes]);
    };
    image[..4].copy_from_slice(b"KDMV");
    image[73..77].copy_from_slice(b"\n \r\n");
    for (at, value, bytes) in [(4, 1, 4), (8, 1, 4), (12, sectors, 8), (20, 8, 8), (44, 512, 4)] {
        put(&mut image, at, value, bytes);
    }
    for (at, value) in [(28, 1), (36, 4), (56, DIRECTORY / 512), (64, overhead / 512)] {
        put(&mut image, at, value, 8);
    }
    image[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
    for table in 0..tables {
        put(&mut image, DIRECTORY + table * 4, TABLES / 512 + table * 4, 4);
    }
    for grain in grains {
        let sector = image.len() / 512;
        put(&mut image, TABLES + grain * 4, sector, 4);
        let content: Vec<u8> =
            (0..GRAIN).map(|at| u8::try_from((at * 31 + grain * 7) % 250 + 1).unwrap()).collect();
        let on_disk = &mut disk[grain * GRAIN..];
        let length = on_disk.len().min(GRAIN);
        on_disk[..length].copy_from_slice(&content[..length]);
        image.extend(content);
    }
    (image, disk)
}

/// Writes extents, one a line.
pub(in crate::adapter::image) fn told(extents: &[Extent]) -> String {
    let mut told = String::new();
    for Extent { offset, length, content } in extents {
        told += &format!("{offset}+{length} {content:?}\n");
    }
    told
}

/// A folder with an image in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(image: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.vmdk"), image).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("a.vmdk")
    }

    fn open(&self) -> Result<Sparse, PortError> {
        let confine = Confine::new([self.0.path().to_owned()]);
        Sparse::open(flat::open(&confine, &self.path())?)
    }

    /// Returns why opening or reading fails.
    fn refusal(&self) -> String {
        let read = self.open().and_then(|sparse| {
            sparse.extents(0, sparse.size())?;
            let mut disk = vec![0; usize::try_from(sparse.size()).unwrap()];
            sparse.read(0, &mut disk)
        });
        let text = read.expect_err("it is refused").fault.text;
        text.replace(self.0.path().to_str().unwrap(), "")
    }
}

fn u64_of(value: usize) -> u64 {
    u64::try_from(value).unwrap()
}

#[test]
fn every_range_reads_as_the_disk() {
    let (image, disk) = sample();
    let folder = Folder::new(&image);
    let sparse = folder.open().unwrap();
    assert_eq!((sparse.size(), sparse.in_flight()), (u64_of(disk.len()), 4));
    let bounds =
        [0, 1, 4095, 4096, 3 * GRAIN + 5, 6 * GRAIN, 511 * GRAIN + 9, 513 * GRAIN, 600 * GRAIN];
    for from in bounds {
        for to in bounds.into_iter().chain([disk.len() - 1, disk.len()]).filter(|to| from < *to) {
            let mut buffer = vec![0xee; to - from];
            sparse.read(u64_of(from), &mut buffer).unwrap();
            assert!(buffer == disk[from..to], "{from}..{to}");
        }
    }
}

#[test]
fn extents_are_told_by_the_tables_and_merged() {
    let folder = Folder::new(&sample().0);
    let sparse = folder.open().unwrap();
    let told = |from, length| told(&sparse.extents(from, length).unwrap());
    expect![[r#"
        0+12288 Data
        12288+12288 Zero
        24576+8192 Data
        32768+2060288 Zero
        2093056+8192 Data
        2101248+356352 Zero
        2457600+2560 Data
    "#]]
    .assert_eq(&told(0, sparse.size()));
    expect![[r#"
        5000+7288 Data
        12288+12288 Zero
        24576+424 Data
    "#]]
    .assert_eq(&told(5000, 20_000));
}

#[test]
fn grains_that_follow_each_other_are_one_stretch() {
    let folder = Folder::new(&sample().0);
    let sparse = folder.open().unwrap();
    let grain = u64_of(GRAIN);
    let stretch = |at| sparse.stretch(at, sparse.size()).unwrap();
    let first = sparse.layout.overhead;
    assert_eq!(stretch(100), (3 * grain - 100, Some(first + 100)));
    assert_eq!(stretch(3 * grain), (3 * grain, None));
    // 6 and 7 stand the wrong way round.
    assert_eq!(stretch(6 * grain), (grain, Some(first + 7 * grain)));
    // From the last grain of one table to the first of the next.
    assert_eq!(stretch(511 * grain), (2 * grain, Some(first + 3 * grain)));
    assert_eq!(stretch(600 * grain), (5 * 512, Some(first + 5 * grain)));
}

/// Returns what is said of the image with one number changed, a line for each change.
fn refusals(changes: &[(usize, u64, usize)]) -> String {
    let refusal = |(at, number, bytes): &(usize, u64, usize)| {
        let (mut image, _) = sample();
        image[*at..at + bytes].copy_from_slice(&number.to_le_bytes()[..*bytes]);
        Folder::new(&image).refusal() + "\n"
    };
    changes.iter().map(refusal).collect()
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let fields = [
        (0, u64::from(u32::from_le_bytes(*b"VMDK")), 4),
        (4, 4, 4),
        (4, 0, 4),
        (8, 0x10001, 4),
        (8, 0x20001, 4),
        (12, 0, 8),
        (12, u64::MAX, 8),
        (12, 1 << 54, 8),
        (12, 1 << 40, 8),
        (12, 1 << 25, 8),
        (20, 0, 8),
        (20, 4, 8),
        (20, 24, 8),
        (20, 0x40_0000, 8),
        (28, 200, 8),
        (36, 0, 8),
        (36, 4096, 8),
        (44, 0, 4),
        (44, 513, 4),
        (56, 0, 8),
        (56, u64::MAX, 8),
        (56, 5000, 8),
        (64, 0, 8),
        (64, 5000, 8),
        (73, 0x0a0a_200a, 4),
        (77, 1, 2),
    ];
    expect![[r#"
        cannot read /a.vmdk at byte 0 of 39936: it starts with `VMDK` instead of `KDMV`
        cannot read /a.vmdk at byte 4 of 39936: version 4 of the format is unknown
        cannot read /a.vmdk at byte 4 of 39936: version 0 of the format is unknown
        cannot read /a.vmdk at byte 8 of 39936: flags 0x10001 and compression 0 are those of a stream: only a stream-optimized VMDK as a whole is read so
        cannot read /a.vmdk at byte 8 of 39936: flags 0x20001 and compression 0 are those of a stream: only a stream-optimized VMDK as a whole is read so
        cannot read /a.vmdk at byte 12 of 39936: it holds no disk
        cannot read /a.vmdk at byte 12 of 39936: a capacity of 18446744073709551615 sectors is more than any disk has
        cannot read /a.vmdk at byte 12 of 39936: a capacity of 18014398509481984 sectors is more than any disk has
        cannot read /a.vmdk at byte 12 of 39936: 268435456 grain tables: at most 33554432 are read
        cannot read /a.vmdk at byte 7168 of 39936: the grain for byte 268435456 of the disk at byte 809571975680 goes past the file's end
        cannot read /a.vmdk at byte 20 of 39936: a grain of 0 sectors: only 8 to 2097152 are read
        cannot read /a.vmdk at byte 20 of 39936: a grain of 4 sectors: only 8 to 2097152 are read
        cannot read /a.vmdk at byte 20 of 39936: a grain of 24 sectors: only 8 to 2097152 are read
        cannot read /a.vmdk at byte 20 of 39936: a grain of 4194304 sectors: only 8 to 2097152 are read
        cannot read /a.vmdk at byte 28 of 39936: the descriptor does not lie between header and data
        cannot read /a.vmdk at byte 36 of 39936: a descriptor of 0 bytes
        cannot read /a.vmdk at byte 36 of 39936: a descriptor of 2097152 bytes
        cannot read /a.vmdk at byte 44 of 39936: a grain table of 0 entries: only 1 to 512 are read
        cannot read /a.vmdk at byte 44 of 39936: a grain table of 513 entries: only 1 to 512 are read
        cannot read /a.vmdk at byte 56 of 39936: the directory stands within the header
        cannot read /a.vmdk at byte 56 of 39936: its directory is at its end: only a stream has it there
        cannot read /a.vmdk at byte 56 of 39936: the directory of 8 bytes at byte 2560000 goes past the file's end
        cannot read /a.vmdk at byte 64 of 39936: the data starts within the header
        cannot read /a.vmdk at byte 64 of 39936: its data starts at byte 2560000: it is truncated
        cannot read /a.vmdk at byte 73 of 39936: a transfer as text changed its line ends
        cannot read /a.vmdk at byte 8 of 39936: flags 0x1 and compression 1 are those of a stream: only a stream-optimized VMDK as a whole is read so
    "#]].assert_eq(&refusals(&fields));
}

#[test]
fn places_outside_of_the_file_or_within_its_header_are_refused() {
    let entries = [
        // The second table.
        (DIRECTORY + 4, u64::from(u32::MAX), 4),
        (DIRECTORY + 4, 77, 4),
        // The grains 1 and 600.
        (TABLES + 4, u64::from(u32::MAX), 4),
        (TABLES + 4, 13, 4),
        (TABLES + 4, 1, 4),
        (TABLES + 600 * 4, 74, 4),
    ];
    expect![[r#"
        cannot read /a.vmdk at byte 2564 of 39936: grain table 1 at byte 2199023255040 goes past the file's end
        cannot read /a.vmdk at byte 2564 of 39936: grain table 1 at byte 39424 goes past the file's end
        cannot read /a.vmdk at byte 3076 of 39936: the grain for byte 4096 of the disk at byte 2199023255040 goes past the file's end
        cannot read /a.vmdk at byte 3076 of 39936: the grain for byte 4096 of the disk at byte 6656 stands within header and tables
        cannot read /a.vmdk at byte 3076 of 39936: the grain for byte 4096 of the disk at byte 512 stands within header and tables
        cannot read /a.vmdk at byte 5472 of 39936: the grain for byte 2457600 of the disk at byte 37888 goes past the file's end
    "#]].assert_eq(&refusals(&entries));
}

#[test]
fn files_that_end_too_early_are_refused() {
    let image = sample().0;
    let cut = |length: usize| Folder::new(&image[..length]).refusal() + "\n";
    expect![[r#"
        cannot read /a.vmdk at byte 100 of 100: it ends within its header
        cannot read /a.vmdk at byte 64 of 2560: its data starts at byte 7168: it is truncated
        cannot read /a.vmdk at byte 3096 of 39935: the grain for byte 24576 of the disk at byte 35840 goes past the file's end
    "#]].assert_eq(&[100, DIRECTORY, image.len() - 1].map(cut).concat());
    // The last grain may be as short as the disk makes it.
    let (image, disk) = self::image(4805, &[0, 600], DESCRIPTOR);
    let folder = Folder::new(&image[..image.len() - 3 * 512]);
    let mut end = vec![0; 6 * 512];
    folder.open().unwrap().read(u64_of(disk.len() - end.len()), &mut end).unwrap();
    assert!(end == disk[disk.len() - end.len()..]);
    // Cut off while it is open.
    let folder = Folder::new(&image);
    let sparse = folder.open().unwrap();
    fs::File::options().write(true).open(folder.path()).unwrap().set_len(8192).unwrap();
    let mut grain = vec![0; GRAIN];
    let error = sparse.read(0, &mut grain).unwrap_err().fault.text;
    expect![
        "cannot read /a.vmdk at byte 8192: it ends there, it had 15360 bytes when it was opened"
    ]
    .assert_eq(&error.replace(folder.0.path().to_str().unwrap(), ""));
}

#[test]
fn an_entry_of_1_is_a_grain_of_zeros_where_the_header_says_so() {
    let (mut image, mut disk) = sample();
    image[8] |= 4;
    image[TABLES + 4..TABLES + 8].copy_from_slice(&1_u32.to_le_bytes());
    disk[GRAIN..2 * GRAIN].fill(0);
    // A table that was never made, an unclean end, and line ends that are not said to be there.
    image[DIRECTORY + 4..DIRECTORY + 8].fill(0);
    disk[512 * GRAIN..].fill(0);
    image[8] &= !1;
    image[72..77].copy_from_slice(&[1, 0, 0, 0, 0]);
    let folder = Folder::new(&image);
    let sparse = folder.open().unwrap();
    let mut read = vec![0xee; disk.len()];
    sparse.read(0, &mut read).unwrap();
    assert!(read == disk);
    let zeros = sparse.extents(GRAIN.try_into().unwrap(), 4096).unwrap();
    assert_eq!(zeros, [Extent { offset: 4096, length: 4096, content: Content::Zero }]);
}

#[test]
fn the_tables_of_a_large_disk_are_read_as_they_are_needed() {
    let (mut image, _) = sample();
    // 62 TiB in grains of 64 KiB: two million tables, all of them the same one, a directory of 8 MiB.
    let tables = (62_u64 << 40) / (32 << 20);
    image[12..20].copy_from_slice(&((62_u64 << 40) / 512).to_le_bytes());
    image[20..28].copy_from_slice(&128_u64.to_le_bytes());
    image[56..64].copy_from_slice(&200_u64.to_le_bytes());
    image[TABLES..TABLES + 2048].fill(0);
    image.resize(200 * 512, 7);
    image[TABLES..TABLES + 4].copy_from_slice(&14_u32.to_le_bytes());
    for _ in 0..tables {
        image.extend(6_u32.to_le_bytes());
    }
    let folder = Folder::new(&image);
    let sparse = folder.open().unwrap();
    let extents = sparse.extents(0, sparse.size()).unwrap();
    let end = extents.last().unwrap().end();
    assert_eq!((extents.len(), end), (2048, 32 << 30));
    let mut last = [0; 4096];
    sparse.read(sparse.size() - 4096, &mut last).unwrap();
    assert_eq!(last, [0; 4096]);
    for table in 0..200 {
        sparse.read(table * (64 << 30), &mut last).unwrap();
        assert_ne!(last, [0; 4096]);
    }
    assert_eq!(sparse.kept().len(), PARTS_MAX);
    assert!(sparse.kept().iter().all(|(_, words)| words.len() <= 512));
}
