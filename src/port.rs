//! The traits that the shell needs of the world, owned by us. Adapters implement them for real systems, `sim` from a seed.
//!
//! They are synchronous: an effect runs on a thread of its own, under the simulated world in line. Every call may fail, may
//! have happened although its reply was lost, and may be made again: implementations are idempotent by the keys and tokens
//! that they are given.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::copy::protocol::{Access, Job, WorkerEvent};
use crate::desired::Site;
use crate::domain::id::{
    CommitId, DiskKey, JournalId, ProviderName, RunId, SourceVm, TargetName, Token,
};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Disk, Power, TargetDisk, Vm};
use crate::extent::Extent;
use crate::journal::record::{Disposition, Entry, Fault, Mend, Record};
use crate::observed::{SourceState, TargetState, TargetVm, WorkerState};

/// Why an effect or a look failed: what a person reads, and what the loop does about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} … hint: {}", fault.text, fault.remedy)]
pub struct PortError {
    /// The journaled form.
    pub fault: Fault,
}

impl PortError {
    /// Something that may pass.
    pub fn passing(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (text, remedy) = (text.into(), remedy.into());
        Self { fault: Fault { text, remedy, disposition: Disposition::Retry } }
    }

    /// Something that does not pass by itself.
    pub fn lasting(text: impl Into<String>, remedy: impl Into<String>, mend: Mend) -> Self {
        let (text, remedy) = (text.into(), remedy.into());
        Self { fault: Fault { text, remedy, disposition: Disposition::Stall(mend) } }
    }
}

/// Time. The only clock that the shell knows.
pub trait Clock: Send + Sync {
    /// Returns the time now.
    fn now(&self) -> Timestamp;
    /// Returns the time since some fixed moment, by a clock that nobody sets.
    fn elapsed(&self) -> SignedDuration;
}

/// One regular file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    /// Its path below the configured folder.
    pub path: String,
    /// Its blob's id.
    pub blob: String,
}

/// A commit's files below the configured folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The manifests (`.yaml`, `.yml`), in the order of their paths.
    pub files: Vec<TreeFile>,
    /// What was refused by name, with the reason (a symbolic link, a submodule, a name that is no UTF-8).
    pub refused: Vec<(String, String)>,
}

/// How two commits relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ancestry {
    /// The same commit, or the newer one descends from the older.
    Forward,
    /// It does not: the branch was rewound or replaced.
    Rewound,
}

/// The repository of plans.
pub trait PlanRepo: Send + Sync {
    /// Names the watched branch.
    fn branch(&self) -> &str;
    /// Returns the watched branch's commit; `None` where the branch does not exist.
    fn head(&self) -> Result<Option<CommitId>, PortError>;
    /// Resolves what a person typed (`HEAD~1`, a branch, a commit).
    fn resolve(&self, revision: &str) -> Result<CommitId, PortError>;
    /// Lists a commit's files.
    fn tree(&self, commit: &CommitId) -> Result<Tree, PortError>;
    /// Reads a blob; fails where it is larger than `limit` bytes.
    fn blob(&self, blob: &str, limit: u64) -> Result<Vec<u8>, PortError>;
    /// Tells whether `newer` descends from `older`.
    fn ancestry(&self, older: &CommitId, newer: &CommitId) -> Result<Ancestry, PortError>;
    /// Tells why nobody who may decide stands behind a commit, where the settings ask for signatures; `None` where somebody does,
    /// or where they do not ask.
    fn distrust(&self, commit: &CommitId) -> Result<Option<String>, PortError>;
    /// Returns the status branch's files below a folder, by path within it.
    fn report(&self, folder: &str) -> Result<BTreeMap<String, Vec<u8>>, PortError>;
    /// Makes the status branch hold exactly these files below a folder, in one commit; other folders stay. Equal bytes make
    /// no commit. Returns whether one was made.
    fn publish(
        &self,
        folder: &str,
        files: &BTreeMap<String, Vec<u8>>,
        message: &str,
    ) -> Result<bool, PortError>;
}

/// Where VMs come from.
pub trait Source: Send + Sync {
    /// Lists the VMs.
    fn observe(&self, site: &Site) -> Result<SourceState, PortError>;
    /// Reads one VM again; `None` where it is certainly not there.
    fn look(&self, site: &Site, vm: &SourceVm) -> Result<Option<Vm>, PortError>;
    /// Tells how a worker reaches the disks of a server; `None` where they are files of this machine.
    fn access(&self, site: &Site) -> Result<Option<Access>, PortError> {
        let _ = site;
        Ok(None)
    }
    /// Writes the mark. Succeeds where this very token stands already; fails lastingly where another does.
    fn claim(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError>;
    /// Takes this token's mark away; a mark of another token stays.
    fn release(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError>;
    /// Turns the mark into "migrated".
    fn mark_migrated(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError>;
    /// Asks the guest to shut down.
    fn shut_down(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError>;
    /// Cuts power.
    fn power_off(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError>;
    /// Powers on.
    fn power_on(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError>;
    /// Tells whether the VM was powered on at any moment since it was seen off.
    fn powered_on_since(
        &self,
        site: &Site,
        vm: &SourceVm,
        since: Timestamp,
    ) -> Result<PoweredOn, PortError>;
}

/// What a source knows of a VM's power since a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoweredOn {
    /// It was off all the time.
    Never,
    /// It was on: what was copied is void.
    Yes,
    /// The source cannot tell.
    Unknown,
}

/// What is to be made on a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint<'a> {
    /// Its name.
    pub name: &'a TargetName,
    /// The source VM.
    pub vm: &'a Vm,
    /// For each network card that is kept, in order: its network there and its hardware address.
    pub nics: Vec<(crate::desired::Network, Option<String>)>,
}

/// Where VMs go. Everything that it makes carries the token of the area, so that nothing else is ever touched.
pub trait Target: Send + Sync {
    /// Lists what stands there and what fits.
    fn observe(&self, site: &Site) -> Result<TargetState, PortError>;
    /// Reads one name again; `None` where it is certainly free.
    fn look(&self, site: &Site, name: &TargetName) -> Result<Option<TargetVm>, PortError>;
    /// Makes the partial area with its empty disks. Succeeds where they stand already. The disks stay valid when the area
    /// becomes the VM of this name.
    fn create_disks(
        &self,
        site: &Site,
        area: &Token,
        name: &TargetName,
        vm: &Vm,
    ) -> Result<Vec<(DiskKey, TargetDisk)>, PortError>;
    /// Turns the area into a VM, off. Succeeds where this area became that VM already; never replaces anything.
    fn create_vm(
        &self,
        site: &Site,
        area: &Token,
        blueprint: &Blueprint<'_>,
    ) -> Result<(), PortError>;
    /// Starts the VM that was made from this area.
    fn start(&self, site: &Site, area: &Token, name: &TargetName) -> Result<Power, PortError>;
    /// Deletes the area, or the VM made from it, which was never started. Succeeds where nothing of it is left.
    fn remove(&self, site: &Site, area: &Token, name: &TargetName) -> Result<(), PortError>;
}

/// A piece of a disk, as the source stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the guest sees it: a multiple of [`crate::copy::tree::LEAF_BYTES`].
    pub offset: u64,
    /// How long it is: a multiple of a leaf but at the end of the disk, at most [`crate::copy::engine::PIECE_BYTES_MAX`].
    pub length: u32,
    /// What it holds.
    pub stored: Stored,
}

/// What a piece holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The bytes as the guest sees them.
    Raw(Vec<u8>),
    /// A zlib stream of them. It is inflated by whoever has a core free.
    Zlib(Vec<u8>),
    /// Zeros.
    Zero,
    /// It is not read yet: whoever has time reads it from the reader's [`BlockReader::blocks`].
    Unread,
}

/// A disk that is read at any place, by several threads at once.
pub trait Blocks: Send + Sync {
    /// Returns how many bytes the guest sees.
    fn size(&self) -> u64;
    /// Tells in which state all the files that it is made of are: another answer means that something wrote to one of them.
    /// Empty where there is nothing to compare.
    fn state(&self) -> Result<String, PortError> {
        Ok(String::new())
    }
    /// Returns how many requests are worth having on their way at once.
    fn in_flight(&self) -> usize;
    /// Tells what a range within the disk holds: extents that begin at `offset` and follow each other. They may end before
    /// the range does, never behind it, and there is at least one.
    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError>;
    /// Fills the buffer from a place within the disk.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError>;
}

/// How far a reader came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// What [`Images::reader`] goes on from; understood by that reader only.
    pub resume: String,
    /// How much of what the source stores is behind.
    pub read: Bytes,
}

/// Reads one disk forward, from where it was opened. What it never returns reads as zeros.
pub trait BlockReader: Send {
    /// Returns the next piece; `None` at the end. Offsets ascend within one reader or not, but no leaf comes twice.
    fn next(&mut self) -> Result<Option<Piece>, PortError>;
    /// Returns where its unread pieces are read from; a reader that can only go forward has none and returns no such piece.
    fn blocks(&self) -> Option<Arc<dyn Blocks>> {
        None
    }
    /// Returns the position behind the last piece returned.
    fn position(&self) -> Result<Position, PortError>;
    /// Reads what is stored behind the last piece and compares the whole with the source's checksum, where it has one, and
    /// the source with what it was when it was observed. Returns whether that is done: a long rest is read a part at a time.
    fn finish(&mut self) -> Result<bool, PortError>;
}

/// Writes one disk and the block map beside it. Holds a lock on both until it is dropped.
pub trait BlockWriter: Send + Sync {
    /// Writes all of the bytes.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError>;
    /// Makes a range read as zeros.
    fn zero(&self, offset: u64, length: u64) -> Result<(), PortError>;
    /// Fills the buffer.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError>;
    /// Tells whether a range is known to read as zeros without being read.
    fn is_hole(&self, offset: u64, length: u64) -> Result<bool, PortError> {
        let _ = (offset, length);
        Ok(false)
    }
    /// Reads the block map as it was last saved; empty where none was.
    fn read_map(&self) -> Result<Vec<u8>, PortError>;
    /// Overwrites a part of the block map.
    fn write_map(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError>;
    /// Returns when everything written to disk and map is durable.
    fn sync(&self) -> Result<(), PortError>;
}

/// Opens disks, by what their [`Disk::source`] and [`TargetDisk`] say.
pub trait Images: Send + Sync {
    /// Opens a disk of a source, at the start or where an earlier reader stopped.
    fn reader(&self, disk: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError>;
    /// Opens a disk of a target and locks it; waits a bounded time for a lock that is held.
    fn writer(&self, disk: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError>;
}

/// What a guest's conversion ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// The overlays hold it, durably.
    Done {
        /// What the converter warned of, one sentence each.
        warnings: Vec<String>,
    },
    /// It was told to stop; nothing of it counts.
    Stopped,
}

/// Makes one guest fit for KVM. It is bound to its disks when it is made, and holds a lock beside them until it is dropped and
/// every process that it started is gone.
pub trait Converter: Send {
    /// Converts on new overlays over the disks, which stay as they are; overlays of an earlier try go first. `doing` is told
    /// in the converter's words what happens, several times a minute at least, and answers whether to go on.
    fn convert(&mut self, doing: &mut dyn FnMut(&str) -> bool) -> Result<Conversion, PortError>;
    /// Writes the overlay of a disk into it and returns when that is durable; the overlay stays. `doing` is told and asked as
    /// while converting. May be made again, after a crash or a stop at any point of an earlier one, too.
    fn commit(
        &mut self,
        disk: &TargetDisk,
        doing: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Conversion, PortError>;
}

/// The data plane, in processes of its own.
pub trait Workers: Send + Sync {
    /// Starts a worker, or finds that it runs already.
    fn start(&self, job: Job) -> Result<(), PortError>;
    /// Tells which workers live.
    fn states(&self) -> BTreeMap<RunId, WorkerState>;
    /// Takes what the workers said since the last call, in order. What is not acknowledged is said again.
    fn take(&self) -> Vec<WorkerEvent>;
    /// Acknowledges everything of a worker up to a number: it is journaled.
    fn acknowledge(&self, run: &RunId, number: u64);
    /// Stops a worker at a boundary and waits for its end.
    fn stop(&self, run: &RunId) -> Result<(), PortError>;
}

/// Where facts are kept. What `append` returned for is durable.
pub trait JournalStore: Send {
    /// Returns the journal's own random id.
    fn id(&self) -> JournalId;
    /// Reads everything, in order.
    fn read(&self) -> Result<Vec<Record>, PortError>;
    /// Adds entries, all or none, and returns when they are durable.
    fn append(&mut self, at: Timestamp, entries: &[Entry]) -> Result<(), PortError>;
}

/// The emergency brake: a file in the state folder.
pub trait Hold: Send + Sync {
    /// Tells whether it is on.
    fn engaged(&self) -> bool;
}

/// Everything of the world that the controller needs.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Time.
    pub clock: &'a dyn Clock,
    /// The repository.
    pub repo: &'a dyn PlanRepo,
    /// Sources, by what kind of site they are.
    pub source: &'a dyn Source,
    /// Targets, by what kind of site they are.
    pub target: &'a dyn Target,
    /// The data plane.
    pub workers: &'a dyn Workers,
    /// The brake.
    pub hold: &'a dyn Hold,
}

impl std::fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

/// Names a provider beside where it is, for looks over all of them.
pub type Sites = BTreeMap<ProviderName, Site>;
