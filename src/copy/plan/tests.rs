//! Plans over disks whose answers are short, uneven or lies.

use proptest::prelude::*;

use super::*;
use crate::copy::engine::{Bounds, End, Flow, Heard, copy_disk};
use crate::copy::memory::{Memory, root_of};
use crate::domain::vm::{Disk, TargetDisk};
use crate::port::{BlockWriter, Images};

const LEAF: usize = 64 << 10;

/// A disk in memory that tells at most so much of it in one answer.
#[derive(Clone, Debug, Default)]
struct Scripted {
    disk: Vec<u8>,
    extents: Vec<Extent>,
    most: u64,
}

impl Scripted {
    /// Makes a disk of runs: their length, and the byte that they hold.
    fn new(runs: &[(u64, u8)], most: u64) -> Self {
        let mut scripted = Self { most, ..Self::default() };
        for (length, byte) in runs.iter().copied() {
            let offset = u64::try_from(scripted.disk.len()).unwrap();
            let content = if byte == 0 { Content::Zero } else { Content::Data };
            scripted.extents.push(Extent { offset, length, content });
            scripted.disk.resize(scripted.disk.len() + usize::try_from(length).unwrap(), byte);
        }
        scripted
    }
}

impl Blocks for Scripted {
    fn size(&self) -> u64 {
        u64::try_from(self.disk.len()).unwrap()
    }

    fn in_flight(&self) -> usize {
        3
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        let end = offset + length.min(self.most);
        let within = self.extents.iter().filter(|one| one.end() > offset && one.offset < end);
        let cut = |one: &Extent| {
            let from = one.offset.max(offset);
            Extent { offset: from, length: one.end().min(end) - from, content: one.content }
        };
        Ok(within.map(cut).collect())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        buffer.copy_from_slice(&self.disk[usize::try_from(offset).unwrap()..][..buffer.len()]);
        Ok(())
    }
}

/// From a scripted disk to one in memory.
struct Pair(Arc<Scripted>, Memory);

impl Images for Pair {
    fn reader(&self, _: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        Ok(Box::new(Planned::new(self.0.clone(), resume)?))
    }

    fn writer(&self, target: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError> {
        self.1.writer(target)
    }
}

proptest! {
    #[test]
    fn whatever_is_answered_the_copy_is_the_disk(
        runs in prop::collection::vec((1_u64..200_000, 0_u8..3), 1..12),
        most in 1_u64..300_000,
        stop in 1_usize..6,
        threads in 0_usize..3,
    ) {
        let source = Arc::new(Scripted::new(&runs, most));
        let memory = Memory::new(source.size(), Vec::new());
        let mut job = memory.job();
        let pair = Pair(source.clone(), memory.clone());
        let bounds = Bounds { threads, memory: Bytes(1 << 20), checkpoint_every: Bytes(1 << 17) };
        let mut left = stop;
        let end = loop {
            let mut checkpoint = None;
            let end = copy_disk(&pair, &job, bounds, &mut |heard| {
                if let Heard::Checkpointed(made) = heard {
                    checkpoint = Some(made);
                }
                left = left.saturating_sub(1);
                if left == 1 { Flow::Stop } else { Flow::Continue }
            }).unwrap();
            if let End::Copied { root, .. } = end {
                break root;
            }
            memory.lock().crash(|| false);
            job.checkpoint = Some(checkpoint.unwrap());
        };
        prop_assert!(memory.lock().durable.disk == source.disk);
        prop_assert_eq!(end, root_of(&source.disk));
    }
}

#[test]
fn zeros_are_passed_over_and_data_is_asked_for_in_pieces() {
    let leaf = u64::try_from(LEAF).unwrap();
    let runs = [(leaf, 0), (20 * leaf, 1), (5 * leaf, 0), (leaf / 2, 2), (leaf, 0)];
    let mut plan = Planned::new(Arc::new(Scripted::new(&runs, u64::MAX >> 1)), None).unwrap();
    let mut found = Vec::new();
    while let Some(piece) = plan.next().unwrap() {
        found.push((piece.offset / leaf, u64::from(piece.length) / leaf));
    }
    assert_eq!(found, [(1, 16), (17, 4), (26, 1)]);
}

#[test]
fn lies_about_what_a_disk_holds_are_refused() {
    let mut source = Scripted::new(&[(100_000, 1), (100_000, 0)], u64::MAX >> 1);
    source.extents[1].offset = 100_001;
    let error = Planned::new(Arc::new(source), None).unwrap().next().unwrap_err();
    expect_test::expect![[
        r#"the source tells of 99999 bytes at byte 100001 where it was asked about byte 100000 … hint: its allocation cannot be trusted: look at the server or the image"#
    ]]
    .assert_eq(&error.to_string());
}

#[test]
fn a_checkpoint_beyond_the_disk_is_refused() {
    let source = Arc::new(Scripted::new(&[(100_000, 1)], 1 << 20));
    for text in ["", "65536", "x 1", "131072 1"] {
        Planned::new(source.clone(), Some(text)).unwrap_err();
    }
}
