//! Hostile manifests: whatever stands in files, reading and resolving them ends, quickly, without a panic, and says only what
//! can be shown. `PROPTEST_CASES` makes it as long as one likes; what ever failed is played again from [`CORPUS`].

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use crate::desired::{FileVersions, Memo, load, load_with};
use crate::manifest::parse::{Limits, ParsedFile, parse_file};
use crate::policy::review;

/// Good manifests to start from: those that people copy.
const SEEDS: [&str; 6] = [
    include_str!("../../sample-plans/single-ova/providers.yaml"),
    include_str!("../../sample-plans/ova-batch/databases.yaml"),
    include_str!("../../sample-plans/ova-batch/networks.yaml"),
    include_str!("../../sample-plans/windows-and-cutovers/windows.yaml"),
    include_str!("../../sample-plans/windows-and-cutovers/plan.yaml"),
    include_str!("../../sample-plans/policy-and-waiver/policy.yaml"),
];

/// Pieces that mean something to YAML, to a schema, or to a terminal.
const PIECES: [&str; 34] = [
    "\n",
    "\t",
    " ",
    "---\n",
    "...\n",
    "- ",
    ": ",
    ":",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!str ",
    "|\n",
    ">-\n",
    "'",
    "\"",
    "#",
    "%YAML 1.1\n",
    "? ",
    "<<: ",
    "\u{feff}",
    "\u{0}",
    "\u{1b}[2J",
    "\u{202e}",
    "spec:\n",
    "kind: Plan\n",
    "name: x\n",
    ".inf",
    "0x7f",
    "2026-02-30",
    "password: x",
];

/// One change of a text.
#[derive(Clone, Debug)]
enum Change {
    /// Puts a piece in.
    Insert(usize, usize),
    /// Takes so many bytes away.
    Remove(usize, usize),
    /// Repeats so many bytes, some times.
    Repeat(usize, usize, usize),
    /// Takes a line to another place.
    Move(usize, usize),
    /// Sets one byte.
    Byte(usize, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>;
    prop_oneof![
        4 => (at(), 0..PIECES.len()).prop_map(|(at, piece)| Change::Insert(at, piece)),
        3 => (at(), 0..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (at(), 0..60_usize, 0..40_usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        2 => (at(), at()).prop_map(|(from, to)| Change::Move(from, to)),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        let place = |at: usize| at % (length + 1);
        match change {
            Change::Insert(at, piece) => {
                let at = place(*at);
                bytes.splice(at..at, PIECES[*piece].bytes());
            }
            Change::Remove(at, count) => {
                let at = place(*at);
                bytes.drain(at..(at + count).min(length));
            }
            Change::Repeat(at, count, times) => {
                let at = place(*at);
                let piece = bytes[at..(at + count).min(length)].repeat(*times);
                bytes.splice(at..at, piece);
            }
            Change::Move(from, to) => {
                let mut lines: Vec<Vec<u8>> =
                    bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
                if !lines.is_empty() {
                    let line = lines.remove(from % lines.len());
                    lines.insert(to % (lines.len() + 1), line);
                }
                bytes = lines.concat();
            }
            Change::Byte(at, byte) => {
                if let Some(found) = bytes.get_mut(place(*at)) {
                    *found = *byte;
                }
            }
        }
    }
    bytes
}

/// Small limits are reached by small texts.
fn limits() -> impl Strategy<Value = Limits> {
    let small = Limits { bytes: 2000, documents: 3, depth: 5, nodes: 40 };
    prop_oneof![3 => Just(Limits::default()), 1 => Just(small)]
}

/// Everything that ever failed is kept there, and comes first in every run.
const CORPUS: &str = "tests/corpus/manifests.txt";

fn config() -> ProptestConfig {
    let kept = FileFailurePersistence::Direct(CORPUS);
    ProptestConfig { failure_persistence: Some(Box::new(kept)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_stands_in_files_is_read_to_its_end(
        files in prop::collection::vec((0..SEEDS.len(), prop::collection::vec(change(), 0..6)), 1..4),
        before in prop::collection::vec(change(), 0..2),
        limits in limits(),
    ) {
        let parsed: Vec<ParsedFile> = files
            .iter()
            .enumerate()
            .map(|(number, (seed, changes))| {
                let bytes = changed(SEEDS[*seed].as_bytes().to_vec(), changes);
                parse_file(&format!("{number}.yaml"), &bytes, &limits)
            })
            .collect();
        let good = parse_file("0.yaml", &changed(SEEDS[files[0].0].as_bytes().to_vec(), &before), &limits);
        let versions: Vec<FileVersions<'_>> = parsed
            .iter()
            .enumerate()
            .map(|(number, now)| FileVersions { now, last_good: (number == 0 && good.whole()).then_some(&good) })
            .collect();
        let wanted = load(&versions);
        let findings = wanted.findings.iter().cloned().chain(review(&wanted));
        for finding in findings {
            let told = finding.to_string();
            prop_assert!(!told.contains(['\u{1b}', '\u{202e}', '\u{0}']), "{told:?}");
        }
        // What is remembered of one commit changes nothing of what the next one says, whatever it changed.
        let mut memo = Memo::default();
        prop_assert_eq!(&load_with(&versions, &mut memo), &wanted);
        let fewer = &versions[1..];
        prop_assert_eq!(load_with(fewer, &mut memo), load(fewer));
        let other = [vec![FileVersions { now: &good, last_good: None }], fewer.to_vec()].concat();
        prop_assert_eq!(load_with(&other, &mut memo), load(&other));
        prop_assert_eq!(load_with(&other, &mut memo), load(&other));
        prop_assert_eq!(load_with(&versions, &mut memo), wanted);
    }
}
