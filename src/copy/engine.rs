//! Copies one disk, and reads it again.
//!
//! # Flow
//!
//! ```text
//!  reader (this thread) ─► lane, bounded in bytes ─► threads: read or inflate, find zeros, hash, write ─┐
//!     ▲                                                                                                 │
//!     └── every `checkpoint_every`: wait for the lane to empty, save the block map, sync ◄──────────────┘
//!                                   and only then say the checkpoint
//! ```
//!
//! # Guarantees
//!
//! - A checkpoint is said after everything before it is durable, the block map with it. A copy that goes on from it reads at
//!   most what was read since once more.
//! - A copy from the start first makes the whole target zeros, whatever an earlier attempt left there, and then writes no
//!   zeros. A copy that goes on zeroes what the source says is zero: an earlier worker may have written there after its last
//!   checkpoint.
//! - Nothing is written outside of the disk's capacity, and no leaf twice.
//! - Every error ends the copy. Nothing is tried again on the same handle: after a failed sync the pages are lost, and only
//!   writing them again, from the last checkpoint, brings them back.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use crate::copy::lane::{Lane, Task};
use crate::copy::protocol::DiskJob;
use crate::copy::tree::{BlockMap, CAPACITY_MAX, LEAF_BYTES, LeafHash, NODE_LEAVES, is_zero};
use crate::domain::unit::Bytes;
use crate::domain::vm::Disk;
use crate::journal::record::{Checkpoint, Disposition, Mend};
use crate::manifest::document::Verify;
use crate::planted::{Bug, planted};
use crate::port::{BlockReader, BlockWriter, Blocks, Images, Piece, PortError, Stored};

/// The longest piece that a reader may return.
pub const PIECE_BYTES_MAX: u32 = 1 << 20;

/// How much is made zeros, or asked about where it should be zeros, in one go: often enough to be stopped in between.
const HOLE_BYTES: u64 = 1 << 30;

/// How much one copy may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Threads that inflate, hash and write; with 0 the thread that reads does that, too, piece by piece.
    pub threads: usize,
    /// Bytes in pieces between reader and disk.
    pub memory: Bytes,
    /// How much of the guest's view may be read between two checkpoints.
    pub checkpoint_every: Bytes,
}

impl Bounds {
    /// Returns how many threads work on what a reader returns. Who waits for a source needs no core: as many as the source is
    /// worth, of which each keeps the memory of one piece.
    fn threads_for(self, blocks: Option<&dyn Blocks>) -> usize {
        let Some(blocks) = blocks.filter(|_| self.threads > 0) else { return self.threads };
        let pieces = usize::try_from(self.memory.0 / u64::from(PIECE_BYTES_MAX));
        blocks.in_flight().min(pieces.unwrap_or(usize::MAX)).max(self.threads)
    }
}

/// What a copy says on its way.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// So much of the disk's capacity is behind.
    Progress(Bytes),
    /// Everything before a position is durable.
    Checkpointed(Checkpoint),
}

/// What whoever listens answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Continue,
    /// Make a checkpoint and end.
    Stop,
}

/// How a copy ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything is copied, durable and compared with the source's checksum.
    Copied {
        /// What was written, zeros left out.
        written: Bytes,
        /// The root of the hash tree, in hexadecimal.
        root: String,
    },
    /// It was told to stop.
    Stopped,
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The target reads as it was copied.
    Equal,
    /// It was told to stop.
    Stopped,
}

/// Copies a disk, from its job's checkpoint on.
pub fn copy_disk(
    images: &dyn Images,
    job: &DiskJob,
    bounds: Bounds,
    hear: &mut dyn FnMut(Heard) -> Flow,
) -> Result<End, PortError> {
    accept(job)?;
    let resume = job.checkpoint.as_ref().map(|checkpoint| checkpoint.resume.as_str());
    let reader = images.reader(&job.disk, resume)?;
    let writer = images.writer(&job.target)?;
    reaches_the_end(writer.as_ref(), job)?;
    let map = match &job.checkpoint {
        Some(_) => saved_map(writer.as_ref(), job)?,
        None => match clean(writer.as_ref(), job, hear)? {
            Some(map) => map,
            None => return Ok(End::Stopped),
        },
    };
    let blocks = reader.blocks();
    let threads = bounds.threads_for(blocks.as_deref());
    let task = Task {
        writer: writer.as_ref(),
        disk: &job.disk.key,
        fresh: job.checkpoint.is_none(),
        blocks: blocks.as_deref(),
    };
    let lane = Lane::new(bounds.memory);
    let mut copy = Copy {
        job,
        reader,
        writer: writer.as_ref(),
        lane: &lane,
        in_line: (threads == 0).then_some(task),
        map,
        touched: BTreeSet::new(),
        seen: BTreeMap::new(),
        done: job.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.done.0),
        written: job.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.written.0),
        last: job.checkpoint.clone(),
    };
    thread::scope(|scope| {
        let _closed_at_the_end = lane.open();
        for _ in 0..threads {
            scope.spawn(|| lane.work(task));
        }
        copy.run(bounds.checkpoint_every, hear).map_err(|error| copy.with_need(error))
    })
}

/// Reads a target again and compares it with its block map, and the block map with the root that its copy ended with.
/// [`Verify::Full`] reads all of it, else what was written is read.
pub fn verify_disk(
    images: &dyn Images,
    job: &DiskJob,
    root: &str,
    verify: Verify,
    hear: &mut dyn FnMut(Heard) -> Flow,
) -> Result<Comparison, PortError> {
    accept(job)?;
    let writer = images.writer(&job.target)?;
    let map = saved_map(writer.as_ref(), job)?;
    if map.root() != root {
        return Err(PortError::lasting(
            format!(
                "the block map beside disk {} is not the one that its copy ended with",
                job.disk.key
            ),
            "something else wrote into the target's folder: begin again",
            Mend::Person,
        ));
    }
    let mut buffer = vec![0; index(u64::from(PIECE_BYTES_MAX))];
    let mut leaf = 0;
    while leaf < map.leaves() {
        let data = map.next_data(leaf).unwrap_or(map.leaves());
        leaf = if data == leaf {
            compare_data(writer.as_ref(), job, &map, leaf, &mut buffer)?
        } else if verify == Verify::Full {
            compare_zeros(writer.as_ref(), job, leaf..data, &mut buffer)?
        } else {
            data
        };
        let done = (leaf * LEAF_BYTES).min(job.disk.capacity.0);
        if hear(Heard::Progress(Bytes(done))) == Flow::Stop {
            return Ok(Comparison::Stopped);
        }
    }
    Ok(Comparison::Equal)
}

/// Tells whether everything that was copied up to the job's checkpoint still stands on the target, of a reader whose pieces
/// ascend; `None` where it was told to stop.
pub fn still_holds(
    images: &dyn Images,
    job: &DiskJob,
    hear: &mut dyn FnMut(Heard) -> Flow,
) -> Result<Option<bool>, PortError> {
    accept(job)?;
    let writer = images.writer(&job.target)?;
    let Ok(map) = saved_map(writer.as_ref(), job) else { return Ok(Some(false)) };
    let done = job.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.done.0) / LEAF_BYTES;
    let mut buffer = vec![0; index(LEAF_BYTES)];
    let mut leaf = 0;
    while let Some(data) = map.next_data(leaf).filter(|data| *data < done) {
        writer.read(data * LEAF_BYTES, &mut buffer)?;
        if Some(LeafHash::of(&buffer)) != map.get(data) {
            return Ok(Some(false));
        }
        leaf = data + 1;
        if hear(Heard::Progress(Bytes(leaf * LEAF_BYTES))) == Flow::Stop {
            return Ok(None);
        }
    }
    Ok(Some(true))
}

/// One copy on its way, as the reading thread sees it.
struct Copy<'a> {
    job: &'a DiskJob,
    reader: Box<dyn BlockReader>,
    writer: &'a dyn BlockWriter,
    lane: &'a Lane,
    /// What is done with each piece where no other thread does it.
    in_line: Option<Task<'a>>,
    map: BlockMap,
    /// The nodes whose part of the map is not saved.
    touched: BTreeSet<u64>,
    /// One bit for each leaf that this reader returned, by node.
    seen: BTreeMap<u64, u64>,
    /// The end of the farthest piece.
    done: u64,
    written: u64,
    last: Option<Checkpoint>,
}

impl Copy<'_> {
    fn run(
        &mut self,
        checkpoint_every: Bytes,
        hear: &mut dyn FnMut(Heard) -> Flow,
    ) -> Result<End, PortError> {
        let mut since = 0;
        while let Some(piece) = self.reader.next()? {
            self.admit(&piece)?;
            since += u64::from(piece.length);
            self.lane.push(piece)?;
            if let Some(task) = self.in_line {
                self.lane.work_off(task);
            }
            let mut flow = hear(Heard::Progress(Bytes(self.done)));
            if flow == Flow::Stop || since >= checkpoint_every.0 {
                let checkpoint = self.checkpoint()?;
                if hear(Heard::Checkpointed(checkpoint)) == Flow::Stop {
                    flow = Flow::Stop;
                }
                since = 0;
            }
            if flow == Flow::Stop {
                return Ok(End::Stopped);
            }
        }
        self.settle()?;
        while !self.reader.finish()? {
            if hear(Heard::Progress(Bytes(self.done))) == Flow::Stop {
                let checkpoint = self.checkpoint()?;
                hear(Heard::Checkpointed(checkpoint));
                return Ok(End::Stopped);
            }
        }
        self.writer.sync()?;
        Ok(End::Copied { written: Bytes(self.written), root: self.map.root() })
    }

    /// Refuses what no honest reader returns, before any of it is written.
    fn admit(&mut self, piece: &Piece) -> Result<(), PortError> {
        let Piece { offset, length, stored } = piece;
        let (offset, length) = (*offset, u64::from(*length));
        let capacity = self.job.disk.capacity.0;
        let refused = |why: String| {
            let key = &self.job.disk.key;
            PortError::lasting(
                format!("the source of disk {key} returned {length} bytes at byte {offset}: {why}"),
                "the image is damaged or hostile: export the VM again",
                Mend::Source,
            )
        };
        let end = offset.saturating_add(length);
        if end > capacity {
            return Err(refused(format!("the disk ends at byte {capacity}")));
        }
        let whole = length.is_multiple_of(LEAF_BYTES) || end == capacity;
        if length == 0 || length > u64::from(PIECE_BYTES_MAX) {
            return Err(refused(format!("a piece has 1 to {PIECE_BYTES_MAX} bytes")));
        }
        if !offset.is_multiple_of(LEAF_BYTES) || !whole {
            return Err(refused(format!("pieces are multiples of {LEAF_BYTES} bytes")));
        }
        if let Stored::Raw(bytes) = stored
            && bytes.len() != index(length)
        {
            return Err(refused(format!("it holds {} bytes", bytes.len())));
        }
        for leaf in offset / LEAF_BYTES..end.div_ceil(LEAF_BYTES) {
            let bit = 1 << (leaf % NODE_LEAVES);
            let node = self.seen.entry(leaf / NODE_LEAVES).or_default();
            if *node & bit != 0 {
                return Err(refused(format!("byte {} came before", leaf * LEAF_BYTES)));
            }
            *node |= bit;
        }
        self.done = self.done.max(end);
        Ok(())
    }

    /// Makes everything up to the last piece durable, then says where that is.
    fn checkpoint(&mut self) -> Result<Checkpoint, PortError> {
        self.settle()?;
        let position = self.reader.position()?;
        if !planted(Bug::CheckpointBeforeSync) {
            self.writer.sync()?;
        }
        let checkpoint = Checkpoint {
            disk: self.job.disk.key.clone(),
            resume: position.resume,
            read: position.read,
            done: Bytes(self.done),
            written: Bytes(self.written),
        };
        self.last = Some(checkpoint.clone());
        Ok(checkpoint)
    }

    /// Waits until every piece is written, and saves the touched parts of the block map.
    fn settle(&mut self) -> Result<(), PortError> {
        let outcome = self.lane.drain()?;
        self.written += outcome.written;
        for (leaf, hash) in outcome.leaves {
            self.map.set(leaf, hash);
            self.touched.insert(leaf / NODE_LEAVES);
        }
        // Parts that lie side by side are written as one.
        let mut run: Option<(u64, Vec<u8>)> = None;
        for node in std::mem::take(&mut self.touched) {
            let (offset, bytes) = self.map.part(node);
            match &mut run {
                Some((start, parts)) if *start + length_of(parts) == offset => parts.extend(bytes),
                _ => {
                    if let Some((start, parts)) = run.replace((offset, bytes)) {
                        self.writer.write_map(start, &parts)?;
                    }
                }
            }
        }
        run.map_or(Ok(()), |(start, parts)| self.writer.write_map(start, &parts))
    }

    /// Says how much room the rest needs where the target is full, from the last checkpoint on: what the source stores of
    /// it, by what one stored byte became so far, and at most the rest of the capacity.
    fn with_need(&self, mut error: PortError) -> PortError {
        if let Disposition::Stall(Mend::Space(need)) = &mut error.fault.disposition {
            let Disk { capacity, stored, .. } = &self.job.disk;
            let rest = match (&self.last, stored) {
                (None, _) => capacity.0,
                (Some(last), None) => capacity.saturating_sub(last.done).0,
                (Some(last), Some(stored)) => {
                    let by_ratio = u128::from(stored.saturating_sub(last.read).0)
                        * u128::from(last.written.0)
                        / u128::from(last.read.0.max(1));
                    let by_ratio = u64::try_from(by_ratio).unwrap_or(u64::MAX);
                    capacity.saturating_sub(last.done).0.min(by_ratio)
                }
            };
            need.0 = need.0.max(rest);
        }
        error
    }
}

/// Refuses a job that cannot be right, before anything is opened.
fn accept(job: &DiskJob) -> Result<(), PortError> {
    let DiskJob { disk, target: _, checkpoint, copied: _ } = job;
    if disk.capacity > CAPACITY_MAX {
        return Err(PortError::lasting(
            format!(
                "disk {} has {}, more than the {CAPACITY_MAX} that a disk may have",
                disk.key, disk.capacity
            ),
            "check the capacity in the VM's description",
            Mend::Source,
        ));
    }
    let foreign = checkpoint
        .as_ref()
        .is_some_and(|checkpoint| checkpoint.disk != disk.key || checkpoint.done > disk.capacity);
    if foreign {
        return Err(PortError::lasting(
            format!("the checkpoint of disk {} belongs to another disk", disk.key),
            "the journal is damaged: start a new attempt with a new Migration",
            Mend::Person,
        ));
    }
    Ok(())
}

/// Refuses a target that is shorter than the disk: what it lacks could be zeros, which nobody would write.
fn reaches_the_end(writer: &dyn BlockWriter, job: &DiskJob) -> Result<(), PortError> {
    let last = job.disk.capacity.0.checked_sub(1);
    last.map_or(Ok(()), |last| writer.read(last, &mut [0]))
}

fn saved_map(writer: &dyn BlockWriter, job: &DiskJob) -> Result<BlockMap, PortError> {
    let saved = writer.read_map()?;
    let written = job.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.written.0 > 0);
    let parsed = if saved.is_empty() && written {
        // It would say that all of the disk is zeros.
        Err("it is empty".to_owned())
    } else {
        BlockMap::parse(job.disk.capacity, &saved).map_err(|error| error.to_string())
    };
    parsed.map_err(|error| {
        PortError::lasting(
            format!("cannot use the block map of disk {}: {error}", job.disk.key),
            "something else wrote into the target's folder: begin again",
            Mend::Person,
        )
    })
}

/// Makes target and map zeros, whatever an attempt before the first checkpoint left there. `None` where it was told to stop.
fn clean(
    writer: &dyn BlockWriter,
    job: &DiskJob,
    hear: &mut dyn FnMut(Heard) -> Flow,
) -> Result<Option<BlockMap>, PortError> {
    let capacity = job.disk.capacity.0;
    let mut at = 0;
    while at < capacity {
        let length = HOLE_BYTES.min(capacity - at);
        writer.zero(at, length)?;
        at += length;
        if at < capacity && hear(Heard::Progress(Bytes(0))) == Flow::Stop {
            return Ok(None);
        }
    }
    let old = writer.read_map()?;
    let zeros = vec![0; 64 << 10];
    for (part, bytes) in (0_u64..).zip(old.chunks(zeros.len())) {
        if !is_zero(bytes) {
            writer.write_map(part * length_of(&zeros), &zeros[..bytes.len()])?;
        }
    }
    Ok(Some(BlockMap::new(job.disk.capacity)))
}

/// Reads the leaves with data from one on, one buffer at most; returns the leaf behind them.
fn compare_data(
    writer: &dyn BlockWriter,
    job: &DiskJob,
    map: &BlockMap,
    first: u64,
    buffer: &mut [u8],
) -> Result<u64, PortError> {
    let most = first + length_of(buffer) / LEAF_BYTES;
    let end = (first..most.min(map.leaves())).find(|leaf| map.get(*leaf).is_none());
    let end = end.unwrap_or(most.min(map.leaves()));
    let start = first * LEAF_BYTES;
    let bytes = &mut buffer[..index((end * LEAF_BYTES).min(job.disk.capacity.0) - start)];
    writer.read(start, bytes)?;
    for (leaf, bytes) in (first..end).zip(bytes.chunks(index(LEAF_BYTES))) {
        if map.get(leaf) != Some(LeafHash::of(bytes)) {
            return Err(differs(job, leaf * LEAF_BYTES));
        }
    }
    Ok(end)
}

/// Compares a part of a range of leaves with zeros; returns the leaf behind that part.
fn compare_zeros(
    writer: &dyn BlockWriter,
    job: &DiskJob,
    leaves: std::ops::Range<u64>,
    buffer: &mut [u8],
) -> Result<u64, PortError> {
    let start = leaves.start * LEAF_BYTES;
    let until = |most: u64| (leaves.start + most / LEAF_BYTES).min(leaves.end);
    let length = |end: u64| (end * LEAF_BYTES).min(job.disk.capacity.0) - start;
    let end = until(HOLE_BYTES);
    if writer.is_hole(start, length(end))? {
        return Ok(end);
    }
    let end = until(length_of(buffer));
    let bytes = &mut buffer[..index(length(end))];
    writer.read(start, bytes)?;
    let mut leaves = (leaves.start..end).zip(bytes.chunks(index(LEAF_BYTES)));
    match leaves.find(|(_, bytes)| !is_zero(bytes)) {
        Some((leaf, _)) => Err(differs(job, leaf * LEAF_BYTES)),
        None => Ok(end),
    }
}

fn differs(job: &DiskJob, offset: u64) -> PortError {
    PortError::lasting(
        format!(
            "disk {} reads differently from what was copied, within the {LEAF_BYTES} bytes at byte {offset}",
            job.disk.key
        ),
        "check the target's storage, then begin again",
        Mend::Person,
    )
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("pieces and windows fit into memory")
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("lengths fit 64 bits")
}

#[cfg(test)]
mod tests;
