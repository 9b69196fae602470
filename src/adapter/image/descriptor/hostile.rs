//! Images with fields, entries and lines changed: whatever is read of them, nothing panics and memory stays bounded.

use std::fs;

use proptest::prelude::*;

use super::tests::{Folder, descriptor};
use super::*;
use crate::adapter::image::sparse::tests::{DIRECTORY, TABLES, image, sample};

/// How much of a disk is read: what a changed header claims may be EiB.
const READ_BYTES_MAX: u64 = 4 << 20;

/// One change.
#[derive(Clone, Debug)]
enum Change {
    /// Of a field of the header: where it stands, and its bytes.
    Header(usize, u64),
    /// Of an entry of the directory.
    Directory(usize, u32),
    /// Of an entry of a table.
    Table(usize, u32),
    /// Of any byte.
    Byte(prop::sample::Index, u8),
    /// Of where the file ends.
    End(prop::sample::Index),
    /// Of a word of a descriptor's line.
    Word(prop::sample::Index, &'static str),
}

/// Numbers at bounds, and others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..100,
        (0_u32..64, -2_i64..3).prop_map(|(bit, near)| (1_u64 << bit).wrapping_add_signed(near)),
        any::<u64>(),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let word = prop::sample::select(
        &[
            "RW",
            "RDONLY",
            "NOACCESS",
            "FLAT",
            "ZERO",
            "VMFS",
            "SPARSE",
            "0",
            "1",
            "4805",
            "-1",
            "9223372036854775807",
            "18446744073709551615",
            "36028797018963967",
            "\"",
            "\"b.vmdk\"",
            "\"..\"",
            "\"a.vmdk\"",
            "\"s.vmdk\"",
            "\"f.vmdk\"",
            "=",
            "\n",
            "\0",
            "\u{fffd}",
            "",
        ][..],
    );
    let field = prop::sample::select(&[4_usize, 8, 12, 20, 28, 36, 44, 48, 56, 64, 72, 77][..]);
    let entry = || number().prop_map(|number| u32::try_from(number & 0xffff_ffff).unwrap());
    prop_oneof![
        (field, number()).prop_map(|(at, value)| Change::Header(at, value)),
        (0_usize..4, entry()).prop_map(|(at, value)| Change::Directory(at, value)),
        (0_usize..1024, entry()).prop_map(|(at, value)| Change::Table(at, value)),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Change::Byte(at, to)),
        any::<prop::sample::Index>().prop_map(Change::End),
        (any::<prop::sample::Index>(), word).prop_map(|(at, to)| Change::Word(at, to)),
    ]
}

fn apply(file: &mut Vec<u8>, change: &Change) {
    let mut put = |at: usize, value: &[u8]| {
        if let Some(place) = file.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    };
    match change {
        // The fields of 4 bytes are those before the capacity, and the tables' length.
        Change::Header(at @ (4 | 8 | 44), value) => put(*at, &value.to_le_bytes()[..4]),
        Change::Header(at @ (72 | 77), value) => put(*at, &value.to_le_bytes()[..1]),
        Change::Header(at, value) => put(*at, &value.to_le_bytes()),
        Change::Directory(at, value) => put(DIRECTORY + at * 4, &value.to_le_bytes()),
        Change::Table(at, value) => put(TABLES + at * 4, &value.to_le_bytes()),
        Change::Byte(at, to) if !file.is_empty() => {
            let at = at.index(file.len());
            file[at] = *to;
        }
        Change::End(at) if !file.is_empty() => file.truncate(at.index(file.len())),
        Change::Word(at, to) => {
            let Ok(text) = str::from_utf8(file) else { return };
            let mut words: Vec<&str> = text.split_inclusive([' ', '\n', '=']).collect();
            if !words.is_empty() {
                let at = at.index(words.len());
                words[at] = to;
                *file = words.join(" ").into_bytes();
            }
        }
        Change::Byte(..) | Change::End(_) => {}
    }
}

/// Reads the start, the end and the extents of a disk; failures are answers.
fn visit(blocks: &dyn Blocks) {
    let size = blocks.size();
    let length = size.min(READ_BYTES_MAX);
    let mut buffer = vec![0xee; usize::try_from(length).unwrap()];
    let whole = blocks.read(0, &mut buffer);
    let mut end = vec![0; usize::try_from(length.min(10_000)).unwrap()];
    let _ = blocks.read(size - length.min(10_000), &mut end);
    let mut at = 0;
    for _ in 0..4 {
        let Ok(extents) = blocks.extents(at, size - at) else { break };
        assert!(!extents.is_empty() && extents.len() <= 2 * EXTENTS_MAX);
        for extent in extents {
            assert!(extent.offset == at && extent.length > 0);
            at = extent.end();
            // What is told to be zeros reads as zeros.
            let [from, to] = [extent.offset, at].map(|at| usize::try_from(at.min(length)).unwrap());
            let zeros = buffer[from..to].iter().all(|byte| *byte == 0);
            assert!(zeros || whole.is_err() || extent.content == Content::Data);
        }
        assert!(at <= size);
        if at == size {
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_sparse_file_is_read_or_refused(changes in prop::collection::vec(change(), 1..4)) {
        let (mut file, _) = sample();
        for change in &changes {
            apply(&mut file, change);
        }
        let folder = Folder::new(&[("a.vmdk", &file)]);
        if let Ok(blocks) = folder.blocks("a.vmdk") {
            visit(blocks.as_ref());
        }
    }

    #[test]
    fn changed_descriptors_and_extents_are_read_or_refused(
        text_changes in prop::collection::vec(change(), 0..4),
        sparse_changes in prop::collection::vec(change(), 0..3),
        flat_changes in prop::collection::vec(change(), 0..2),
    ) {
        let lines = "RW 4805 SPARSE \"s.vmdk\"\nRW 100 ZERO\nRW 30 FLAT \"f.vmdk\" 2\nRW 8 VMFS \"f.vmdk\"";
        let mut text = descriptor("twoGbMaxExtentSparse", lines).into_bytes();
        let (mut sparse, _) = image(4805, &[0, 3, 600], "");
        let mut flat = vec![7; 32 * 512];
        for (file, changes) in
            [(&mut text, text_changes), (&mut sparse, sparse_changes), (&mut flat, flat_changes)]
        {
            for change in &changes {
                apply(file, change);
            }
        }
        let folder =
            Folder::new(&[("a.vmdk", &text), ("s.vmdk", &sparse), ("f.vmdk", &flat)]);
        if let Ok(blocks) = folder.blocks("a.vmdk") {
            visit(blocks.as_ref());
            // An extent that is cut off while the disk is open fails or reads, too.
            fs::File::options()
                .write(true)
                .open(folder.0.path().join("s.vmdk"))
                .unwrap()
                .set_len(5000)
                .unwrap();
            visit(blocks.as_ref());
        }
    }
}
