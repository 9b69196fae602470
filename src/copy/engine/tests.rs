//! The engine over disks that lose what was not synced.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::copy::memory::{Memory, power_lost, root_of, zlib};
use crate::extent::Extent;
use crate::planted::plant;

const LEAF: usize = 64 << 10;

fn bounds(threads: usize, checkpoint_every: u64) -> Bounds {
    Bounds { threads, memory: Bytes(1 << 20), checkpoint_every: Bytes(checkpoint_every) }
}

fn piece(leaf: u64, stored: Stored, length: usize) -> Piece {
    Piece { offset: leaf * LEAF_BYTES, length: u32::try_from(length).unwrap(), stored }
}

/// How one run of leaves is stored: how many, as what, how many are left out before it, and its first byte.
type Shape = (u64, u8, u64, u8);

/// Lays the runs out, the last leaf cut by `short`, in an order of its own.
fn pieces(shapes: &[Shape], short: usize, order: &[Index]) -> (u64, Vec<Piece>) {
    let mut pieces = Vec::new();
    let mut leaf = 0;
    for (at, (leaves, kind, gap, byte)) in shapes.iter().copied().enumerate() {
        leaf += gap;
        let last = at + 1 == shapes.len();
        let length = usize::try_from(leaves).unwrap() * LEAF - if last { short } else { 0 };
        let mut bytes = vec![0; length];
        // Every second leaf holds something, so that runs of zeros and data lie within one piece.
        for leaf in bytes.chunks_mut(LEAF).step_by(2) {
            leaf[0] = byte;
        }
        let stored = match kind % 3 {
            0 => Stored::Raw(bytes),
            1 => Stored::Zlib(zlib(&bytes)),
            _ => Stored::Zero,
        };
        pieces.push(piece(leaf, stored, length));
        leaf += leaves;
    }
    let capacity = leaf * LEAF_BYTES - u64::try_from(short).unwrap();
    for (at, other) in order.iter().enumerate().take(pieces.len()) {
        let other = other.index(pieces.len());
        pieces.swap(at, other);
    }
    (capacity, pieces)
}

/// Copies with power losses in between, each after so many writes or reads; returns what was violated.
fn campaign(
    (capacity, pieces): (u64, Vec<Piece>),
    bounds: Bounds,
    losses: &[(u8, bool, u64)],
) -> Vec<String> {
    let memory = Memory::new(capacity, pieces);
    let mut job = memory.job();
    let mut violated = Vec::new();
    let mut losses = losses.iter();
    loop {
        let loss = losses.next();
        {
            let mut state = memory.lock();
            let left = |reads| loss.filter(|loss| loss.1 == reads).map(|loss| usize::from(loss.0));
            (state.reads_left, state.writes_left) = (left(true), left(false));
        }
        let mut checkpoint = job.checkpoint.clone();
        let mut hear = |heard| {
            if let Heard::Checkpointed(made) = heard {
                let behind = made.resume.parse().unwrap();
                if let Some(missing) = memory.lock().missing(behind) {
                    violated.push(format!("checkpoint {behind} without {missing}"));
                }
                checkpoint = Some(made);
            }
            Flow::Continue
        };
        let end = copy_disk(&memory, &job, bounds, &mut hear);
        let mut state = memory.lock();
        match (end, loss) {
            (Ok(End::Copied { root, written: _ }), _) => {
                let expected = state.expected(state.pieces.len());
                if state.durable.disk != expected || root != root_of(&expected) || !state.finished {
                    violated.push("the target is not the source".to_owned());
                }
                drop(state);
                for verify in [Verify::Full, Verify::Changed] {
                    let mut hear = |_| Flow::Continue;
                    let verified = verify_disk(&memory, &job, &root, verify, &mut hear);
                    if verified != Ok(Comparison::Equal) {
                        violated.push(format!("{verify:?} says {verified:?}"));
                    }
                }
                return violated;
            }
            (Err(error), Some((_, _, seed))) if error == power_lost() => {
                let mut seed = *seed;
                state.crash(|| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    seed >> 63 == 1
                });
                let behind = checkpoint.as_ref().map_or(0, |made| made.resume.parse().unwrap());
                let read = state.read.iter().max().map_or(0, |last| last + 1);
                let again: u64 = state.pieces[behind..read.max(behind)]
                    .iter()
                    .map(|piece| u64::from(piece.length))
                    .sum();
                let longest = state.pieces.iter().map(|piece| piece.length).max().unwrap_or(0);
                if again >= bounds.checkpoint_every.0 + u64::from(longest) {
                    violated.push(format!("{again} bytes are read again"));
                }
                if let Some(missing) = state.missing(behind) {
                    violated.push(format!("after the crash {missing} is gone"));
                }
            }
            (end, _) => {
                violated.push(format!("it ended with {end:?}"));
                return violated;
            }
        }
        drop(state);
        job.checkpoint = checkpoint;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn power_losses_change_nothing_and_cost_one_checkpoint(
        shapes in proptest::collection::vec((1_u64..5, any::<u8>(), 0_u64..3, any::<u8>()), 1..10),
        short in 0..LEAF,
        order in proptest::collection::vec(any::<Index>(), 0..10),
        losses in proptest::collection::vec((0_u8..30, any::<bool>(), any::<u64>()), 0..6),
        threads in 1_usize..4,
        every in 1_u64..(10 * LEAF_BYTES),
    ) {
        let violated = campaign(pieces(&shapes, short, &order), bounds(threads, every), &losses);
        prop_assert!(violated.is_empty(), "{violated:#?}");
    }
}

fn eight_pieces() -> (u64, Vec<Piece>) {
    pieces(&[(2, 0, 0, 7); 8], 100, &[])
}

#[test]
fn a_checkpoint_before_the_sync_is_caught() {
    let losses = [(6, true, 0), (6, true, 0)];
    assert_eq!(campaign(eight_pieces(), bounds(2, LEAF_BYTES), &losses), [""; 0]);
    plant(Some(Bug::CheckpointBeforeSync));
    let violated = campaign(eight_pieces(), bounds(2, LEAF_BYTES), &losses);
    plant(None);
    assert!(violated[0].starts_with("checkpoint 1 without the data"), "{violated:?}");
    assert!(violated.iter().any(|what| what.contains("after the crash")), "{violated:?}");
}

#[test]
fn a_stop_makes_a_checkpoint_that_the_next_copy_goes_on_from() {
    let (capacity, pieces) = eight_pieces();
    let memory = Memory::new(capacity, pieces);
    let mut job = memory.job();
    let mut heard = Vec::new();
    let mut hear = |now| {
        heard.push(now);
        if heard.len() == 3 { Flow::Stop } else { Flow::Continue }
    };
    let end = copy_disk(&memory, &job, bounds(2, u64::MAX), &mut hear).unwrap();
    assert_eq!(end, End::Stopped);
    let Some(Heard::Checkpointed(checkpoint)) = heard.last() else {
        unreachable!("the last is a checkpoint: {heard:?}")
    };
    assert_eq!((checkpoint.resume.as_str(), checkpoint.done.0), ("3", 6 * LEAF_BYTES));
    assert_eq!(checkpoint.written.0, 3 * LEAF_BYTES);
    job.checkpoint = Some(checkpoint.clone());
    let end = copy_disk(&memory, &job, bounds(2, u64::MAX), &mut |_| Flow::Continue).unwrap();
    let root = root_of(&memory.lock().expected(8));
    assert_eq!(end, End::Copied { written: Bytes(8 * LEAF_BYTES), root });
    assert_eq!(memory.lock().read, (0..8).collect::<Vec<_>>());
}

#[test]
fn what_a_source_has_behind_its_pieces_is_read_in_parts_and_may_be_stopped() {
    let (capacity, pieces) = eight_pieces();
    let memory = Memory::new(capacity, pieces);
    memory.lock().rest = 5;
    let mut job = memory.job();
    let (mut checkpoint, mut heard) = (None, 0);
    let mut hear = |now| {
        heard += 1;
        if let Heard::Checkpointed(made) = now {
            checkpoint = Some(made);
        }
        if heard == 10 { Flow::Stop } else { Flow::Continue }
    };
    let end = copy_disk(&memory, &job, bounds(2, u64::MAX), &mut hear).unwrap();
    assert_eq!((end, heard, memory.lock().rest), (End::Stopped, 11, 3), "eight pieces, two parts");
    job.checkpoint = checkpoint;
    let end = copy_disk(&memory, &job, bounds(2, u64::MAX), &mut |_| Flow::Continue).unwrap();
    let root = root_of(&memory.lock().expected(8));
    assert_eq!(end, End::Copied { written: Bytes(8 * LEAF_BYTES), root });
    assert_eq!(memory.lock().read, (0..8).collect::<Vec<_>>(), "nothing is read again");
}

/// A disk that is worth many requests at once.
struct Far;

impl Blocks for Far {
    fn size(&self) -> u64 {
        64 << 20
    }

    fn in_flight(&self) -> usize {
        32
    }

    fn extents(&self, _: u64, _: u64) -> Result<Vec<Extent>, PortError> {
        Ok(Vec::new())
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), PortError> {
        Ok(())
    }
}

#[test]
fn requests_on_their_way_fit_into_the_memory() {
    for (threads, pieces, expected) in [(2, 100, 32), (2, 12, 12), (8, 4, 8), (0, 100, 0)] {
        let memory = Bytes(pieces * u64::from(PIECE_BYTES_MAX));
        let bounds = Bounds { threads, memory, checkpoint_every: Bytes(u64::MAX) };
        assert_eq!(bounds.threads_for(Some(&Far)), expected);
        assert_eq!(bounds.threads_for(None), threads);
    }
}

#[test]
fn what_was_copied_is_there_or_it_is_said() {
    let (capacity, pieces) = eight_pieces();
    let memory = Memory::new(capacity, pieces);
    let mut job = memory.job();
    let mut hear = |now| {
        if let Heard::Checkpointed(made) = now {
            job.checkpoint = Some(made);
            return Flow::Stop;
        }
        Flow::Continue
    };
    let copied = memory.job();
    copy_disk(&memory, &copied, bounds(2, 6 * LEAF_BYTES), &mut hear).unwrap();
    let holds = |job: &DiskJob| still_holds(&memory, job, &mut |_| Flow::Continue).unwrap();
    assert_eq!(holds(&job), Some(true));
    assert_eq!(still_holds(&memory, &job, &mut |_| Flow::Stop).unwrap(), None);
    memory.lock().seen.disk[7 * LEAF] ^= 1;
    assert_eq!(holds(&job), Some(true), "behind the checkpoint");
    memory.lock().seen.disk[4 * LEAF + 9] ^= 1;
    assert_eq!(holds(&job), Some(false));

    // A map that is gone would say that all of it is zeros.
    memory.lock().seen.map.clear();
    assert_eq!(holds(&job), Some(false));
    let error = copy_disk(&memory, &job, bounds(2, u64::MAX), &mut |_| Flow::Continue);
    let text = error.unwrap_err().fault.text;
    assert_eq!(text, "cannot use the block map of disk disk-1: it is empty");
}

#[test]
fn a_failed_sync_is_the_end_and_is_not_tried_again() {
    let (capacity, pieces) = eight_pieces();
    let memory = Memory::new(capacity, pieces);
    memory.lock().sync_fails = true;
    let mut checkpoints = 0;
    let mut hear = |heard| {
        checkpoints += usize::from(matches!(heard, Heard::Checkpointed(_)));
        Flow::Continue
    };
    let end = copy_disk(&memory, &memory.job(), bounds(2, LEAF_BYTES), &mut hear);
    assert_eq!(end, Err(power_lost()));
    assert_eq!((checkpoints, memory.lock().syncs), (0, 1));
}

#[test]
fn a_full_target_says_how_much_the_rest_needs() {
    let (capacity, pieces) = eight_pieces();
    let memory = Memory::new(capacity, pieces);
    let mut job = memory.job();
    job.checkpoint = Some(Checkpoint {
        disk: job.disk.key.clone(),
        resume: "4".to_owned(),
        read: Bytes(4),
        done: Bytes(8 * LEAF_BYTES),
        written: Bytes(4 * LEAF_BYTES),
    });
    memory.lock().full = true;
    memory.lock().seen.map = vec![0; 16];
    let need = |job: &DiskJob| {
        let end = copy_disk(&memory, job, bounds(1, u64::MAX), &mut |_| Flow::Continue);
        end.unwrap_err().fault.disposition
    };
    let space = |need| Disposition::Stall(Mend::Space(Bytes(need)));
    assert_eq!(need(&job), space(capacity - 8 * LEAF_BYTES));
    job.disk.stored = Some(Bytes(7));
    assert_eq!(need(&job), space(3 * LEAF_BYTES));
    job.checkpoint = None;
    assert_eq!(need(&job), space(capacity));
}

/// Copies these pieces to a disk of four leaves and a half, and returns the error.
fn refused(pieces: Vec<Piece>) -> String {
    let memory = Memory::new(9 * LEAF_BYTES / 2, pieces);
    let end = copy_disk(&memory, &memory.job(), bounds(2, u64::MAX), &mut |_| Flow::Continue);
    assert!(!memory.lock().finished);
    end.unwrap_err().fault.text
}

#[test]
fn what_no_honest_reader_returns_is_refused_with_its_place() {
    let data = |leaf, length: usize| piece(leaf, Stored::Raw(vec![1; length]), length);
    let mut shifted = data(1, LEAF);
    shifted.offset += 512;
    let mut wrapped = data(1, LEAF);
    wrapped.offset = u64::MAX - LEAF_BYTES + 1;
    let bytes = zlib(&vec![1; LEAF]);
    let cases = [
        (vec![data(0, LEAF), data(0, LEAF)], "byte 0 came before"),
        (
            vec![data(0, 2 * LEAF), data(1, LEAF)],
            "65536 bytes at byte 65536: byte 65536 came before",
        ),
        (vec![data(4, LEAF)], "at byte 262144: the disk ends at byte 294912"),
        (vec![wrapped], "the disk ends at byte 294912"),
        (vec![shifted], "multiples of 65536"),
        (vec![data(0, 100)], "multiples of 65536"),
        (vec![data(0, 0)], "a piece has 1 to 1048576 bytes"),
        (vec![piece(0, Stored::Raw(vec![1; 3]), LEAF)], "it holds 3 bytes"),
        (
            vec![piece(0, Stored::Zlib(bytes.clone()), 2 * LEAF)],
            "inflates to 65536 bytes instead of 131072",
        ),
        (vec![piece(4, Stored::Zlib(bytes.clone()), LEAF / 2)], "inflates to more than 32768"),
        (
            vec![piece(3, Stored::Zlib(bytes[..9].to_vec()), LEAF)],
            "at byte 196608: it is no zlib stream",
        ),
    ];
    for (pieces, expected) in cases {
        let text = refused(pieces);
        assert!(text.contains(expected) && text.contains("disk-1"), "{text}");
    }
}

#[test]
fn a_job_that_cannot_be_right_opens_nothing() {
    let memory = Memory::new(LEAF_BYTES, Vec::new());
    let fails = |job: &DiskJob| {
        copy_disk(&memory, job, bounds(1, 1), &mut |_| Flow::Continue).unwrap_err().fault.text
    };
    let mut job = memory.job();
    job.disk.capacity = Bytes(u64::MAX);
    assert!(fails(&job).contains("more than the 64.0 TiB"));
    let mut job = memory.job();
    job.checkpoint = Some(Checkpoint {
        disk: job.disk.key.clone(),
        resume: "0".to_owned(),
        read: Bytes(0),
        done: Bytes(LEAF_BYTES + 1),
        written: Bytes(0),
    });
    assert!(fails(&job).contains("belongs to another disk"));
}

#[test]
fn a_target_that_changed_is_told_with_its_place() {
    let (capacity, pieces) = pieces(&[(2, 0, 0, 7), (2, 0, 3, 7)], 100, &[]);
    let memory = Memory::new(capacity, pieces);
    let job = memory.job();
    let end = copy_disk(&memory, &job, bounds(2, u64::MAX), &mut |_| Flow::Continue).unwrap();
    let End::Copied { root, .. } = end else { unreachable!("it was not stopped") };
    let verify = |verify| verify_disk(&memory, &job, &root, verify, &mut |_| Flow::Continue);
    let flip = |at: usize| memory.lock().seen.disk[at] ^= 1;
    let text = |result: Result<Comparison, PortError>| result.unwrap_err().fault.text;

    flip(5 * LEAF + 9);
    assert!(text(verify(Verify::Full)).contains("at byte 327680"));
    assert!(text(verify(Verify::Changed)).contains("at byte 327680"));
    flip(5 * LEAF + 9);
    flip(3 * LEAF);
    assert!(text(verify(Verify::Full)).contains("at byte 196608"));
    assert_eq!(verify(Verify::Changed), Ok(Comparison::Equal));
    flip(3 * LEAF);
    let last = index(capacity) - 1;
    flip(last);
    assert!(text(verify(Verify::Full)).contains("at byte 393216"));
    flip(last);
    assert_eq!(verify(Verify::Full), Ok(Comparison::Equal));
    memory.lock().seen.map[0] ^= 1;
    assert!(text(verify(Verify::Full)).contains("block map beside disk disk-1"));
    let mut stop = |_| Flow::Stop;
    memory.lock().seen.map[0] ^= 1;
    assert_eq!(verify_disk(&memory, &job, &root, Verify::Full, &mut stop), Ok(Comparison::Stopped));
}

#[test]
fn memory_is_bounded_by_what_is_pending() {
    // A bound that is smaller than one piece lets one through at a time.
    let (capacity, pieces) = eight_pieces();
    let memory = Memory::new(capacity, pieces);
    let tight = Bounds { threads: 3, memory: Bytes(1), checkpoint_every: Bytes(u64::MAX) };
    let end = copy_disk(&memory, &memory.job(), tight, &mut |_| Flow::Continue).unwrap();
    assert!(matches!(end, End::Copied { .. }));
}

#[test]
fn a_copy_that_goes_on_zeroes_what_an_earlier_worker_may_have_written() {
    let zeros = || vec![0; LEAF];
    let pieces = vec![
        piece(0, Stored::Zero, LEAF),
        piece(1, Stored::Raw(zeros()), LEAF),
        piece(2, Stored::Zlib(zlib(&zeros())), LEAF),
    ];
    let memory = Memory::new(3 * LEAF_BYTES, pieces);
    // Rubbish stands on the whole target, and hashes of it in the map.
    memory.lock().seen.map = vec![0xdd; 48];
    let mut job = memory.job();
    job.checkpoint = Some(Checkpoint {
        disk: job.disk.key.clone(),
        resume: "0".to_owned(),
        read: Bytes(0),
        done: Bytes(0),
        written: Bytes(0),
    });
    let end = copy_disk(&memory, &job, bounds(2, u64::MAX), &mut |_| Flow::Continue).unwrap();
    let root = root_of(&vec![0; 3 * LEAF]);
    assert_eq!(end, End::Copied { written: Bytes(0), root });
    let state = memory.lock();
    assert!(is_zero(&state.durable.disk) && is_zero(&state.durable.map));
}

#[test]
fn a_fresh_target_gets_no_zeros_but_the_first() {
    let (capacity, pieces) = pieces(&[(2, 0, 0, 7), (4, 2, 1, 0), (1, 0, 0, 7)], 0, &[]);
    let memory = Memory::new(capacity, pieces);
    // One call that zeroes everything, one for the old map, one for each run of data, one for the new map.
    memory.lock().writes_left = Some(99);
    let end = copy_disk(&memory, &memory.job(), bounds(1, u64::MAX), &mut |_| Flow::Continue);
    assert!(matches!(end, Ok(End::Copied { written: Bytes(131_072), .. })), "{end:?}");
    assert_eq!(memory.lock().writes_left, Some(99 - 5));
}
