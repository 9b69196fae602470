//! The engine copies to an image, is stopped, goes on, and compares.

use super::tests::Bench;
use super::{CLUSTER, CLUSTER_BYTES, index};
use crate::copy::engine::{Bounds, Comparison, End, Flow, Heard, copy_disk, verify_disk};
use crate::copy::memory::{Memory, root_of};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Disk, TargetDisk};
use crate::manifest::document::Verify;
use crate::port::{BlockReader, BlockWriter, Images, Piece, PortError, Stored};

/// A source in memory, and an image as its target.
struct Through<'a> {
    source: Memory,
    bench: &'a Bench,
}

impl Images for Through<'_> {
    fn reader(&self, disk: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        self.source.reader(disk, resume)
    }

    fn writer(&self, _: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError> {
        Ok(Box::new(self.bench.open()?))
    }
}

#[test]
fn a_copy_goes_on_where_it_stopped_and_is_compared() {
    let capacity = 40 * CLUSTER + 1536;
    let piece = |nth: u64, stored: Stored| Piece {
        offset: nth * CLUSTER,
        length: u32::try_from((capacity - nth * CLUSTER).min(CLUSTER)).unwrap(),
        stored,
    };
    let pieces: Vec<Piece> = (0..41)
        .filter(|nth| nth % 5 != 2)
        .map(|nth| match nth {
            40 => piece(nth, Stored::Raw(vec![40; 1536])),
            nth if nth % 5 == 3 => piece(nth, Stored::Zero),
            nth => piece(nth, Stored::Raw(vec![u8::try_from(nth).unwrap() | 64; CLUSTER_BYTES])),
        })
        .collect();
    let count = pieces.len();
    let source = Memory::new(capacity, pieces);
    let expected = source.lock().expected(count);
    let bench = Bench::empty(capacity);
    let mut job = source.job();
    let images = Through { source, bench: &bench };
    let bounds = Bounds { threads: 2, memory: Bytes(1 << 20), checkpoint_every: Bytes(5 << 16) };
    let mut stops = 0;
    let root = loop {
        let mut checkpoint = None;
        let mut heard = 0;
        let mut hear = |now| {
            heard += 1;
            if let Heard::Checkpointed(made) = now {
                checkpoint = Some(made);
            }
            if heard == 9 { Flow::Stop } else { Flow::Continue }
        };
        match copy_disk(&images, &job, bounds, &mut hear).unwrap() {
            End::Stopped => job.checkpoint = checkpoint,
            End::Copied { root, .. } => break root,
        }
        stops += 1;
    };
    assert!(stops > 2);
    assert_eq!(root, root_of(&expected));
    let verify = || verify_disk(&images, &job, &root, Verify::Full, &mut |_| Flow::Continue);
    assert_eq!(verify(), Ok(Comparison::Equal));
    assert_eq!(bench.refcounts(), (0, 0));
    let writer = bench.open().unwrap();
    let mut bytes = vec![0xaa; index(capacity)];
    writer.read(0, &mut bytes).unwrap();
    assert!(bytes == expected);
    // A byte where zeros should be is found.
    writer.write(7 * CLUSTER + 5, b"!").unwrap();
    writer.sync().unwrap();
    drop(writer);
    assert!(verify().unwrap_err().fault.text.contains("at byte 458752"));
}
