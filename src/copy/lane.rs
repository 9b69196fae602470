//! The pieces between the thread that reads and those that write, bounded in bytes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use libdeflater::Decompressor;

use crate::copy::tree::{LEAF_BYTES, LeafHash, is_zero};
use crate::domain::id::DiskKey;
use crate::domain::unit::Bytes;
use crate::journal::record::Mend;
use crate::port::{BlockWriter, Blocks, Piece, PortError, Stored};

/// What a piece costs beyond its bytes, so that a lane of zeros is bounded, too.
const PIECE_COST: u64 = 256;

/// What is done with every piece.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    /// Where it is written.
    pub(super) writer: &'a dyn BlockWriter,
    /// Names the disk in errors.
    pub(super) disk: &'a DiskKey,
    /// Whether the target reads as zeros where this copy wrote nothing.
    pub(super) fresh: bool,
    /// Where unread pieces are read from.
    pub(super) blocks: Option<&'a dyn Blocks>,
}

/// What became of pieces.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The leaves and their hashes; `None` for zeros.
    pub(super) leaves: Vec<(u64, Option<LeafHash>)>,
    /// Bytes written.
    pub(super) written: u64,
}

/// The lane.
pub(super) struct Lane {
    memory: u64,
    state: Mutex<State>,
    /// Something is there to be worked on, or the lane is closed.
    work: Condvar,
    /// Something is done.
    room: Condvar,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// The pieces that wait or are worked on, and what they cost.
    pending: usize,
    cost: u64,
    outcome: Outcome,
    failure: Option<PortError>,
    closed: bool,
}

/// Closes the lane when it goes, on every way out.
pub(super) struct Open<'a>(&'a Lane);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

impl Lane {
    pub(super) fn new(memory: Bytes) -> Self {
        let state = Mutex::new(State::default());
        Self { memory: memory.0, state, work: Condvar::new(), room: Condvar::new() }
    }

    /// Keeps the lane open until the answer is dropped.
    pub(super) fn open(&self) -> Open<'_> {
        Open(self)
    }

    /// Hands a piece over; waits while the lane is full. A piece that is larger than the bound passes alone.
    pub(super) fn push(&self, piece: Piece) -> Result<(), PortError> {
        let cost = cost(&piece);
        let full = |state: &mut State| {
            state.failure.is_none() && state.pending > 0 && state.cost + cost > self.memory
        };
        let mut state =
            self.room.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        state.pieces.push_back(piece);
        state.pending += 1;
        state.cost += cost;
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Waits until everything is written, and returns what became of it since the last time.
    pub(super) fn drain(&self) -> Result<Outcome, PortError> {
        let busy = |state: &mut State| state.failure.is_none() && state.pending > 0;
        let mut state =
            self.room.wait_while(self.lock(), busy).unwrap_or_else(PoisonError::into_inner);
        match &state.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(std::mem::take(&mut state.outcome)),
        }
    }

    /// Works on pieces until the lane is closed or something failed.
    pub(super) fn work(&self, task: Task<'_>) {
        let mut decompressor = Decompressor::new();
        let mut buffer = Vec::new();
        loop {
            let idle = |state: &mut State| state.pieces.is_empty() && !state.closed;
            let mut state =
                self.work.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            if state.closed || state.failure.is_some() {
                return;
            }
            let Some(piece) = state.pieces.pop_front() else { continue };
            drop(state);
            let taken = Taken { lane: self, cost: cost(&piece), result: None };
            taken.done(task.run(&piece, &mut decompressor, &mut buffer));
        }
    }

    /// Works on the pieces that wait, on the thread that handed them over.
    pub(super) fn work_off(&self, task: Task<'_>) {
        let mut decompressor = Decompressor::new();
        let mut buffer = Vec::new();
        loop {
            let Some(piece) = self.lock().pieces.pop_front() else { return };
            let taken = Taken { lane: self, cost: cost(&piece), result: None };
            taken.done(task.run(&piece, &mut decompressor, &mut buffer));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece that a thread works on. It counts as failed unless it is done: a thread that panics must not be waited for.
struct Taken<'a> {
    lane: &'a Lane,
    cost: u64,
    result: Option<Result<Outcome, PortError>>,
}

impl Taken<'_> {
    fn done(mut self, result: Result<Outcome, PortError>) {
        self.result = Some(result);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        state.pending -= 1;
        state.cost -= self.cost;
        match self.result.take() {
            Some(Ok(outcome)) => {
                state.outcome.leaves.extend(outcome.leaves);
                state.outcome.written += outcome.written;
            }
            // The first failure is the one that is told.
            Some(Err(error)) => {
                state.failure.get_or_insert(error);
            }
            None => {
                state.failure.get_or_insert_with(|| {
                    PortError::lasting(
                        "a writing thread ended by a bug of ferry",
                        "report it with the worker's log",
                        Mend::Person,
                    )
                });
            }
        }
        drop(state);
        self.lane.room.notify_all();
    }
}

impl Task<'_> {
    fn run(
        self,
        piece: &Piece,
        decompressor: &mut Decompressor,
        buffer: &mut Vec<u8>,
    ) -> Result<Outcome, PortError> {
        let bytes: &[u8] = match &piece.stored {
            Stored::Raw(bytes) => bytes,
            Stored::Zlib(stored) => {
                buffer.resize(usize::try_from(piece.length).expect("32 bits fit"), 0);
                let inflated = decompressor.zlib_decompress(stored, buffer);
                self.check_inflated(piece, inflated)?;
                buffer
            }
            Stored::Zero => return self.zero(piece.offset, u64::from(piece.length)),
            Stored::Unread => {
                buffer.resize(usize::try_from(piece.length).expect("32 bits fit"), 0);
                let blocks = self.blocks.expect("only readers with blocks return unread pieces");
                blocks.read(piece.offset, buffer)?;
                buffer
            }
        };
        let mut outcome = Outcome::default();
        let leaf_bytes = usize::try_from(LEAF_BYTES).expect("64 KiB fit");
        let leaves: Vec<&[u8]> = bytes.chunks(leaf_bytes).collect();
        let mut at = piece.offset;
        let mut rest = bytes;
        for run in leaves.chunk_by(|one, other| is_zero(one) == is_zero(other)) {
            let (now, later) = rest.split_at(run.iter().map(|leaf| leaf.len()).sum());
            let length = u64::try_from(now.len()).expect("lengths fit 64 bits");
            if is_zero(run[0]) {
                outcome.leaves.extend(self.zero(at, length)?.leaves);
            } else {
                self.writer.write(at, now)?;
                outcome.written += length;
                let hashes = run.iter().map(|leaf| Some(LeafHash::of(leaf)));
                outcome.leaves.extend((at / LEAF_BYTES..).zip(hashes));
            }
            at += length;
            rest = later;
        }
        Ok(outcome)
    }

    fn zero(self, offset: u64, length: u64) -> Result<Outcome, PortError> {
        if self.fresh {
            return Ok(Outcome::default());
        }
        self.writer.zero(offset, length)?;
        let leaves = offset / LEAF_BYTES..(offset + length).div_ceil(LEAF_BYTES);
        Ok(Outcome { leaves: leaves.map(|leaf| (leaf, None)).collect(), written: 0 })
    }

    fn check_inflated(
        self,
        piece: &Piece,
        inflated: Result<usize, libdeflater::DecompressionError>,
    ) -> Result<(), PortError> {
        let why = match inflated {
            Ok(length) if Ok(length) == usize::try_from(piece.length) => return Ok(()),
            Ok(length) => format!("it inflates to {length} bytes instead of {}", piece.length),
            Err(libdeflater::DecompressionError::InsufficientSpace) => {
                format!("it inflates to more than {} bytes", piece.length)
            }
            Err(libdeflater::DecompressionError::BadData) => "it is no zlib stream".to_owned(),
        };
        Err(PortError::lasting(
            format!("the source of disk {} is damaged at byte {}: {why}", self.disk, piece.offset),
            "compare the file with its checksums and export the VM again",
            Mend::Source,
        ))
    }
}

fn cost(piece: &Piece) -> u64 {
    let length = |bytes: &Vec<u8>| u64::try_from(bytes.len()).expect("lengths fit 64 bits");
    PIECE_COST
        + match &piece.stored {
            Stored::Raw(bytes) => length(bytes),
            Stored::Zlib(bytes) => length(bytes) + u64::from(piece.length),
            Stored::Unread => u64::from(piece.length),
            Stored::Zero => 0,
        }
}
