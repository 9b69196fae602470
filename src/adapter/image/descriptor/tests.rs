//! Descriptors with all kinds of extents, whole and refused.

use std::fs;
use std::os::unix::fs::symlink;

use expect_test::expect;

use super::*;
use crate::adapter::image::sparse::tests::{DESCRIPTOR, image, sample, told};
use crate::adapter::image::vmdk_write::write_stream_optimized;

/// A folder with a descriptor and extents in it.
pub(super) struct Folder(pub(super) tempfile::TempDir);

impl Folder {
    pub(super) fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        Self(folder)
    }

    pub(super) fn open(&self, name: &str) -> Result<Vmdk, PortError> {
        let confine = Confine::new([self.0.path().to_owned()]);
        open_vmdk(&confine, &self.0.path().join(name))
    }

    pub(super) fn blocks(&self, name: &str) -> Result<Box<dyn Blocks>, PortError> {
        match self.open(name)? {
            Vmdk::Blocks(blocks) => Ok(blocks),
            Vmdk::StreamOptimized => Err(unsupported(Path::new(name), "it is a stream")),
        }
    }

    fn refusal(&self, name: &str) -> String {
        let error = self.blocks(name).err().expect("it is refused");
        error.fault.text.replace(self.0.path().to_str().unwrap(), "")
    }
}

/// Returns a descriptor of a kind with these lines.
pub(super) fn descriptor(kind: &str, lines: &str) -> String {
    format!(
        "# Disk DescriptorFile\r\nversion=1\r\nencoding=\"UTF-8\"\r\nCID=fffffffe\r\nparentCID=ffffffff\r\n\
         createType=\"{kind}\"\r\n\r\n# Extent description\r\n{lines}\r\n\r\n# The Disk Data Base\r\n#DDB\r\n\r\n\
         ddb.adapterType = \"lsilogic\"\r\nddb.uuid = \"60 00 C2\"\r\n"
    )
}

/// All of a disk, read in parts that no bound fits, and checked against its extents.
pub(super) fn read(blocks: &dyn Blocks) -> Result<Vec<u8>, PortError> {
    let mut disk = vec![0xee; usize::try_from(blocks.size()).unwrap()];
    let mut at = 0;
    for part in disk.chunks_mut(3 * 4096 + 100) {
        blocks.read(at, part)?;
        at += u64::try_from(part.len()).unwrap();
    }
    let mut at = 0;
    while at < blocks.size() {
        for Extent { offset, length, content } in blocks.extents(at, blocks.size() - at)? {
            assert!(offset == at && length > 0);
            at += length;
            let [from, to] = [offset, at].map(|at| usize::try_from(at).unwrap());
            assert!(content == Content::Data || disk[from..to].iter().all(|byte| *byte == 0));
        }
    }
    assert_eq!(at, blocks.size());
    Ok(disk)
}

fn noise(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 13 + at / 512 + seed) % 251).unwrap()).collect()
}

#[test]
fn extents_of_all_kinds_make_one_disk() {
    let (split, split_disk) = image(4805, &[3, 4, 600], "");
    let flat = noise(1, 20 * 512);
    let lines = "RW 16 FLAT \"a b-flat.vmdk\" 2\r\nRW 100 ZERO\r\nRDONLY 4805 SPARSE \"a-s002.vmdk\"\r\n\
        rw = \"a comment of somebody\"\r\nRW 20 VMFS \"a b-flat.vmdk\"\r\nRW 2 FLAT \"a b-flat.vmdk\" 0";
    let text = descriptor("twoGbMaxExtentFlat", lines);
    let folder = Folder::new(&[
        ("a.vmdk", text.as_bytes()),
        ("a b-flat.vmdk", &flat),
        ("a-s002.vmdk", &split),
    ]);
    let expected =
        [&flat[2 * 512..18 * 512], &vec![0; 100 * 512], &split_disk, &flat, &flat[..2 * 512]]
            .concat();
    let blocks = folder.blocks("a.vmdk").unwrap();
    assert_eq!(blocks.in_flight(), 4);
    assert!(read(blocks.as_ref()).unwrap() == expected);
    let told = told(&blocks.extents(0, blocks.size()).unwrap());
    // ZERO and the empty start of the sparse extent are one.
    expect![[r#"
        0+8192 Data
        8192+63488 Zero
        71680+8192 Data
        79872+2437120 Zero
        2516992+13824 Data
    "#]]
    .assert_eq(&told);
}

#[test]
fn a_sparse_file_is_a_disk_of_its_own() {
    let (image, disk) = sample();
    let folder = Folder::new(&[("a.vmdk", &image)]);
    assert!(read(folder.blocks("a.vmdk").unwrap().as_ref()).unwrap() == disk);
}

#[test]
fn a_stream_is_left_to_its_reader() {
    let mut stream = Vec::new();
    write_stream_optimized(&mut stream, "a.vmdk", 65_536, &mut std::iter::empty()).unwrap();
    let folder = Folder::new(&[("a.vmdk", &stream)]);
    assert!(matches!(folder.open("a.vmdk"), Ok(Vmdk::StreamOptimized)));
}

#[test]
fn what_is_no_hosted_disk_is_refused_by_name() {
    let long = descriptor("vmfs", "") + &" ".repeat(1 << 20);
    let files: [&[u8]; 6] = [
        b"",
        b"KDMV",
        b"COWD\x01\0\0\0",
        b"\xbe\xba\xfe\xca\0\0\0\0\x01",
        b"QFI\xfb\0\0\0\x03 and more",
        long.as_bytes(),
    ];
    let refusal = |file| Folder::new(&[("a.vmdk", file)]).refusal("a.vmdk") + "\n";
    expect![[r#"
        cannot read /a.vmdk at byte 0 of 0: it starts with ``: it is no VMDK
        cannot read /a.vmdk at byte 4 of 4: it ends within its header
        cannot read /a.vmdk: it is a snapshot of ESXi (`vmfsSparse`) and holds only the differences
        cannot read /a.vmdk: it is a snapshot of ESXi (`seSparse`) and holds only the differences
        cannot read /a.vmdk at byte 0 of 17: it starts with `QFI\xfb\x00\x00\x00\x03`: it is no VMDK
        cannot read /a.vmdk at byte 0 of 1048792: a descriptor of 1048792 bytes: at most 1048576
    "#]]
    .assert_eq(&files.map(refusal).concat());
}

#[test]
fn embedded_descriptors_are_checked() {
    let refusal = |(from, to)| {
        let (image, _) = image(4805, &[0], &DESCRIPTOR.replace(from, to));
        Folder::new(&[("a.vmdk", &image)]).refusal("a.vmdk") + "\n"
    };
    let changes = [
        ("=ffffffff", "=0000abcd"),
        ("monolithicSparse", "vmfsSparse"),
        ("createType", "kind"),
        ("# Disk", "# Dusk"),
        ("\n#DDB", "\nwhat is this"),
    ];
    expect![[r#"
        cannot read /a.vmdk: it holds only the differences from a parent disk (parentCID 0000abcd)
        cannot read /a.vmdk: createType `vmfsSparse` is not read here
        cannot read /a.vmdk at byte 512 of 11264: its descriptor is refused in line 1: it names no createType
        cannot read /a.vmdk at byte 512 of 11264: its descriptor is refused in line 1: it starts with `# Dusk Descripto` instead of `# Disk DescriptorFile`
        cannot read /a.vmdk at byte 512 of 11264: its descriptor is refused in line 11: `what is this` is neither a setting nor an extent
    "#]].assert_eq(&changes.map(refusal).concat());
    let (mut image, _) = sample();
    image[28..44].fill(0);
    expect!["cannot read /a.vmdk at byte 28 of 39936: it has no descriptor: it is one extent of a disk, name the disk's descriptor"].assert_eq(&Folder::new(&[("a.vmdk", &image)]).refusal("a.vmdk"));
}

/// Returns what is said of a descriptor with a text replaced, a line for each of the replacements.
fn refusals(changes: &[(&str, &str)]) -> String {
    let refusal = |(from, to): &(&str, &str)| {
        let text = descriptor("monolithicFlat", "RW 20 FLAT \"a-flat.vmdk\" 0");
        assert!(text.contains(from));
        let text = text.replacen(from, to, 1);
        let folder = Folder::new(&[("a.vmdk", text.as_bytes()), ("a-flat.vmdk", &[7; 20 * 512])]);
        folder.refusal("a.vmdk") + "\n"
    };
    changes.iter().map(refusal).collect()
}

#[test]
fn settings_that_make_it_another_disk_are_refused() {
    let changes = [
        ("version=1", "version=4"),
        ("parentCID=ffffffff", "parentCID=12345678"),
        ("parentCID=ffffffff", "x=y"),
        ("CID=fffffffe", "parentCID=ffffffff"),
        ("#DDB", "parentFileNameHint=\"base.vmdk\""),
        ("#DDB", "encryptionKeys=\"vmware:key\""),
        ("monolithicFlat", "vmfsSparse"),
        ("monolithicFlat", "seSparse"),
        ("monolithicFlat", "fullDevice"),
        ("createType", "#"),
        ("#DDB", "createType=\"vmfs\""),
        ("ddb.adapterType =", "ddb adapterType"),
    ];
    expect![[r#"
        cannot read /a.vmdk in line 2: version 4 of descriptors is unknown
        cannot read /a.vmdk: it holds only the differences from a parent disk (parentCID 12345678)
        cannot read /a.vmdk in line 1: it has no parentCID
        cannot read /a.vmdk in line 5: parentCID is there twice
        cannot read /a.vmdk: it holds only the differences from a parent disk (`base.vmdk`)
        cannot read /a.vmdk: it is encrypted
        cannot read /a.vmdk: createType `vmfsSparse` is not read here
        cannot read /a.vmdk: createType `seSparse` is not read here
        cannot read /a.vmdk: createType `fullDevice` is not read here
        cannot read /a.vmdk in line 1: it names no createType
        cannot read /a.vmdk in line 12: createType is there twice
        cannot read /a.vmdk in line 14: `ddb adapterType \"lsilogic\"` is neither a setting nor an extent
    "#]].assert_eq(&refusals(&changes));
}

#[test]
fn extent_lines_that_cannot_be_are_refused() {
    let large = "RW 9007199254740992 ZERO\n".repeat(2) + "RW 20 FLAT";
    let many = "RW 1 ZERO\n".repeat(1024) + "RW 20 FLAT";
    let changes = [
        ("RW 20 FLAT \"a-flat.vmdk\" 0", ""),
        ("RW", "NOACCESS"),
        ("RW", "WO"),
        ("20", "0"),
        ("20", "-20"),
        ("20", "+20"),
        ("20", "99999999999999999999"),
        ("20", "18014398509481984"),
        ("FLAT", "VMFSRDM"),
        ("FLAT", "VMFSSPARSE"),
        ("FLAT", "SESPARSE"),
        ("FLAT", "VMFS"),
        ("FLAT", "ZERO"),
        ("FLAT", "FLAT FLAT"),
        ("vmdk\" 0", "vmdk\""),
        ("vmdk\" 0", "vmdk\" -1"),
        ("vmdk\" 0", "vmdk"),
        ("RW 20 FLAT", &large),
        ("RW 20 FLAT", &many),
    ];
    expect![[r#"
        cannot read /a.vmdk in line 1: it names no extents
        cannot read /a.vmdk in line 9: an extent that nobody may read (`NOACCESS`)
        cannot read /a.vmdk in line 9: `WO 20 FLAT \"a-flat.vmdk\" 0` is neither a setting nor an extent
        cannot read /a.vmdk in line 9: an extent of `0` sectors
        cannot read /a.vmdk in line 9: an extent of `-20` sectors
        cannot read /a.vmdk in line 9: an extent of `+20` sectors
        cannot read /a.vmdk in line 9: an extent of `99999999999999999999` sectors
        cannot read /a.vmdk in line 9: an extent of `18014398509481984` sectors
        cannot read /a.vmdk in line 9: extents of type `VMFSRDM` are not read
        cannot read /a.vmdk in line 9: extents of type `VMFSSPARSE` are not read
        cannot read /a.vmdk in line 9: extents of type `SESPARSE` are not read
        cannot read /a.vmdk in line 9: the extent of type `VMFS` is malformed
        cannot read /a.vmdk in line 9: the extent of type `ZERO` is malformed
        cannot read /a.vmdk in line 9: the extent of type `FLAT` is malformed
        cannot read /a.vmdk in line 9: the extent of type `FLAT` is malformed
        cannot read /a.vmdk in line 9: the extent of type `FLAT` is malformed
        cannot read /a.vmdk in line 9: the extent of type `FLAT` is malformed
        cannot read /a.vmdk in line 10: the extents are more than any disk has
        cannot read /a.vmdk in line 1033: more than 1024 extents
    "#]].assert_eq(&refusals(&changes));
}

#[test]
fn extents_elsewhere_or_too_short_are_refused() {
    let long = "x".repeat(256);
    let changes = [
        ("a-flat.vmdk", "../a-flat.vmdk"),
        ("a-flat.vmdk", "/etc/passwd"),
        ("a-flat.vmdk", ".."),
        ("a-flat.vmdk", ""),
        ("a-flat.vmdk", &long),
        ("a-flat.vmdk", "a\0b"),
        ("a-flat.vmdk", "missing"),
        ("a-flat.vmdk", "a.vmdk"),
        ("vmdk\" 0", "vmdk\" 1"),
        ("RW 20", "RW 21"),
        ("FLAT \"a-flat.vmdk\" 0", "SPARSE \"a-flat.vmdk\""),
    ];
    expect![[r#"
        cannot read /a.vmdk in line 9: the extent's file `../a-flat.vmdk` does not lie in the descriptor's own folder
        cannot read /a.vmdk in line 9: the extent's file `/etc/passwd` does not lie in the descriptor's own folder
        cannot read /a.vmdk in line 9: the extent's file `..` does not lie in the descriptor's own folder
        cannot read /a.vmdk in line 9: the extent's file `` has no name that a file can have
        cannot read /a.vmdk in line 9: the extent's file `x…` has no name that a file can have
        cannot read /a.vmdk in line 9: the extent of type `FLAT` is malformed
        cannot open /missing: No such file or directory (os error 2)
        cannot read /a.vmdk in line 9: the extent's file `a.vmdk` is the descriptor itself
        cannot read /a-flat.vmdk at byte 10240 of 10240: the file ends there, line 9 of /a.vmdk says that it has 10240 bytes from byte 512 on
        cannot read /a-flat.vmdk at byte 10240 of 10240: the file ends there, line 9 of /a.vmdk says that it has 10752 bytes from byte 0 on
        cannot read /a-flat.vmdk at byte 0 of 10240: it starts with `\x07\x07\x07\x07` instead of `KDMV`
    "#]].assert_eq(&refusals(&changes).replace(&long, "x…"));
}

#[test]
fn links_and_the_descriptor_by_another_name_are_no_extents() {
    let text = descriptor("vmfs", "RW 1 VMFS \"a-flat.vmdk\"");
    let folder = Folder::new(&[("a.vmdk", text.as_bytes())]);
    let extent = folder.0.path().join("a-flat.vmdk");
    fs::hard_link(folder.0.path().join("a.vmdk"), &extent).unwrap();
    expect![
        "cannot read /a.vmdk in line 9: the extent's file `a-flat.vmdk` is the descriptor itself"
    ]
    .assert_eq(&folder.refusal("a.vmdk"));
    fs::remove_file(&extent).unwrap();
    symlink("/etc/passwd", &extent).unwrap();
    expect!["cannot open /a-flat.vmdk: Too many levels of symbolic links (os error 40)"]
        .assert_eq(&folder.refusal("a.vmdk"));
}

#[test]
fn sparse_extents_are_those_of_their_line() {
    let mut stream = Vec::new();
    write_stream_optimized(&mut stream, "a.vmdk", 4805 * 512, &mut std::iter::empty()).unwrap();
    let delta = DESCRIPTOR.replace("=ffffffff", "=01234567");
    let extents = [
        image(4800, &[0], "").0,
        b"COWD".to_vec(),
        [&b"COWD"[..], &[0; 600]].concat(),
        image(4805, &[0], &delta).0,
        stream,
    ];
    let text = descriptor("twoGbMaxExtentSparse", "RW 4805 SPARSE \"a-s001.vmdk\"");
    let refusal = |extent: Vec<u8>| {
        let folder = Folder::new(&[("a.vmdk", text.as_bytes()), ("a-s001.vmdk", &extent)]);
        folder.refusal("a.vmdk") + "\n"
    };
    expect![[r#"
        cannot read /a-s001.vmdk at byte 12 of 11264: its header says 2457600 bytes, line 9 of /a.vmdk says 2460160
        cannot read /a-s001.vmdk at byte 4 of 4: it ends within its header
        cannot read /a-s001.vmdk at byte 0 of 604: it starts with `COWD` instead of `KDMV`
        cannot read /a-s001.vmdk: it holds only the differences from a parent disk (parentCID 01234567)
        cannot read /a-s001.vmdk at byte 8 of 68096: flags 0x30001 and compression 1 are those of a stream: only a stream-optimized VMDK as a whole is read so
    "#]].assert_eq(&extents.map(refusal).concat());
}
