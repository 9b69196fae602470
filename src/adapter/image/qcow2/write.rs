//! Writes a qcow2 of version 3 with clusters of 64 KiB, and the block map beside it.
//!
//! # Flow
//!
//! Writes go to clusters that they own, in the order of their arrival; what is known of places is kept in memory until a sync:
//!
//! ```text
//! refcounts of new clusters, new L2 tables ─► durable, the data with them
//!   ─► places of new refcount blocks ─► durable, where there are any
//!   ─► entries of older L2 tables, L1 entries ─► durable
//!   ─► refcounts of what was given up ─► durable, where there are any
//! ```
//!
//! # Guarantees
//!
//! - After a kill or a loss of power at any moment the image is whole: nothing in it refers to what is not durable, and nothing is
//!   used twice, since clusters that were given up are used again only after nothing in the file refers to them. Clusters may be
//!   lost; they are found when the image is opened again, and the next sync corrects their refcounts.
//! - What was written before a sync is read after it, and after the next opening.
//! - After a sync that failed every sync fails: the image must be opened again, as it stands in the file.
//!
//! # Assumptions
//!
//! Nobody but this writes to the image, from its creation until it is a VM's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::time::Duration;
use std::{io, iter};

use rustix::fs::{FallocateFlags, OFlags, fallocate, fsync};

use crate::adapter::confine::Confine;
use crate::adapter::image::locked::{LockedDisk, failed, regular, sync_folder, write_all};
use crate::adapter::image::qcow2::clusters::{BLOCKS_MAX, CLUSTERS_MAX, Clusters};
use crate::adapter::image::qcow2::layout::{CLUSTER_BYTES, ENTRY_BYTES, header, new_header};
use crate::adapter::image::qcow2::tables::{CLUSTER, ENTRIES, Tables, index, number};
use crate::adapter::lock::lock;
use crate::domain::unit::Bytes;
use crate::journal::record::Mend;
use crate::port::{BlockWriter, PortError};

/// The largest disk that is written: its tables take 512 MiB of memory where all of it is allocated, a quarter of what its
/// block map takes. Twice as much fits what one cluster of places of refcount blocks can count.
pub(in crate::adapter::image) const CAPACITY_MAX: Bytes = Bytes(8 << 40);

/// Where the places of refcount blocks stand, in clusters.
const REFCOUNTS_AT: u32 = 1;

/// Where the first refcount block of a new image stands.
const FIRST_BLOCK_AT: u32 = 2;

/// Where the L1 table of a new image stands.
const L1_AT: u32 = 3;

/// An image, locked.
pub(in crate::adapter::image) struct Qcow2Disk {
    files: LockedDisk,
    capacity: u64,
    l1_at: u64,
    /// Held for reading by everything that uses places, and for writing by a sync, which gives them to others.
    gate: RwLock<()>,
    state: Mutex<State>,
}

/// What is known of places.
#[derive(Debug)]
struct State {
    tables: Tables,
    clusters: Clusters,
    /// Where each refcount block stands; 0 where there is none.
    blocks: Vec<u32>,
    /// The clusters that the guest's view does not need any more, but perhaps the tables in the file.
    given_up: BTreeSet<u32>,
}

impl Qcow2Disk {
    /// Makes an image that reads as zeros. Succeeds where one of this capacity stands already, and where an earlier creation
    /// did not end; replaces nothing else.
    pub(in crate::adapter::image) fn create(
        confine: &Confine,
        path: &Path,
        capacity: u64,
        lock_wait: Duration,
    ) -> Result<(), PortError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        let file = regular(File::from(confine.open(path, flags)?), path)?;
        Self::fill(&file, path, capacity, lock_wait)?;
        sync_folder(confine, path)
    }

    /// Makes an image of a file that is open, as [`Self::create`] does; the file's name is not made durable.
    pub(in crate::adapter::image) fn fill(
        file: &File,
        path: &Path,
        capacity: u64,
        lock_wait: Duration,
    ) -> Result<(), PortError> {
        let refused = |why: String, remedy: &str| {
            let text = format!("cannot make {}: {why}", path.display());
            Err(PortError::lasting(text, remedy, Mend::Person))
        };
        if capacity > CAPACITY_MAX.0 || !capacity.is_multiple_of(512) {
            let why = format!(
                "a qcow2 of {capacity} bytes: only whole sectors and at most {CAPACITY_MAX} are written"
            );
            return refused(
                why,
                "choose raw disks: `diskFormat: raw` in the target's Provider, `--target-format raw` of `ferry copy`",
            );
        }
        lock(file, path, lock_wait)?;
        let l1_entries = Tables::new(capacity).count();
        let l1_clusters = (l1_entries * ENTRY_BYTES).div_ceil(CLUSTER).max(1);
        let end = L1_AT + u32::try_from(l1_clusters).expect("the capacity has a bound");
        let length = file.metadata().map_err(|error| failed("look at", path, None, error))?.len();
        match start_of(file, path)? {
            start if start.iter().all(|byte| *byte == 0) && [0, byte_of(end)].contains(&length) => {
            }
            start if header(&start).is_ok_and(|header| header.capacity == capacity) => {
                // Whoever wrote that may have been killed right after it.
                return fsync(file).map_err(|error| failed("sync", path, None, error.into()));
            }
            _ => {
                return refused(
                    "something else stands there".to_owned(),
                    "something else wrote into the target's folder: move it away and begin again",
                );
            }
        }
        lay_out(file, path, capacity, end)
    }

    /// Returns what the guest sees of a file, in bytes; `None` where the file is no qcow2 that is read.
    pub(in crate::adapter::image) fn capacity(
        file: &File,
        path: &Path,
    ) -> Result<Option<u64>, PortError> {
        Ok(header(&start_of(file, path)?).ok().map(|header| header.capacity))
    }

    /// Opens and locks an image and its map. The image must stand there, as [`Self::create`] and this made it; the map is
    /// made.
    pub(in crate::adapter::image) fn open(
        confine: &Confine,
        path: PathBuf,
        lock_wait: Duration,
    ) -> Result<Self, PortError> {
        let files = LockedDisk::open(confine, path, lock_wait)?;
        let header = header(&start_of(files.disk(), files.path())?)
            .map_err(|refusal| foreign(&files, refusal.at, &refusal.why))?;
        let other = |at: u64, what: &str| Err(foreign(&files, at, what));
        if header.version != 3 || header.features || header.cluster() != CLUSTER {
            return other(0, "it has another version, features or clusters");
        }
        if header.capacity > CAPACITY_MAX.0 || header.l1_entries != header.l1_needed() {
            return other(24, "it has another capacity or L1 table");
        }
        let refcounts = (header.refcounts, header.refcount_clusters, header.refcount_order);
        if refcounts != (byte_of(REFCOUNTS_AT), 1, 4) || header.snapshots != 0 {
            return other(48, "it has other refcounts, or snapshots");
        }
        if header.l1 != byte_of(L1_AT) {
            return other(40, "its L1 table stands elsewhere");
        }
        let (capacity, l1_at) = (header.capacity, header.l1);
        let state = State::load(&files, capacity)?;
        Ok(Self { files, capacity, l1_at, gate: RwLock::default(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Refuses what lies behind the disk's end, as a file that is too short does.
    fn within(&self, what: &str, offset: u64, length: u64) -> Result<(), PortError> {
        if offset.checked_add(length).is_some_and(|end| end <= self.capacity) {
            return Ok(());
        }
        let short = io::Error::from(io::ErrorKind::UnexpectedEof);
        Err(failed(what, self.files.path(), Some(offset), short))
    }

    /// Writes clusters as wholes.
    fn write_whole(&self, first: u64, bytes: &[u8]) -> Result<(), PortError> {
        let count = length_of(bytes) / CLUSTER;
        let (runs, fresh) = self.state().places(first, count, &self.files)?;
        let mut rest = bytes;
        for run in runs {
            let (now, later) = rest.split_at(run.len() * CLUSTER_BYTES);
            if let Err(error) = self.files.write(byte_of(run.start), now) {
                let mut state = self.state();
                for nth in fresh {
                    state.give_up(nth);
                }
                return Err(error);
            }
            rest = later;
        }
        Ok(())
    }

    /// Writes a part of a cluster. Where it has no place, what lies around is zeros.
    fn write_part(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        let (nth, within) = (offset / CLUSTER, offset % CLUSTER);
        let mut state = self.state();
        if let Some(cluster) = state.tables.get(nth) {
            drop(state);
            return self.files.write(byte_of(cluster) + within, bytes);
        }
        // Under the lock: another part of this cluster must find either no place or all of these zeros.
        let cluster = state.take(1, &self.files)?.start;
        let mut whole = vec![0; CLUSTER_BYTES];
        whole[index(within)..][..bytes.len()].copy_from_slice(bytes);
        if let Err(error) = self.files.write(byte_of(cluster), &whole) {
            state.clusters.release(cluster);
            return Err(error);
        }
        state.tables.set(nth, cluster);
        Ok(())
    }

    /// Writes everything that is known of places.
    fn publish(&self, state: &mut State) -> Result<(), PortError> {
        let fresh_tables = state.house_tables(&self.files)?;
        let fresh_blocks = state.house_blocks(&self.files)?;
        self.write_blocks(state)?;
        for (table, cluster) in &fresh_tables {
            self.files.write(byte_of(*cluster), &state.tables.bytes(*table, 0..ENTRIES))?;
        }
        self.files.sync_disk()?;
        if !fresh_blocks.is_empty() {
            for block in fresh_blocks {
                let place = byte_of(state.blocks[index(u64::from(block))]);
                let at = byte_of(REFCOUNTS_AT) + u64::from(block) * ENTRY_BYTES;
                self.files.write(at, &place.to_be_bytes())?;
            }
            self.files.sync_disk()?;
        }
        let changed = state.tables.take_changed();
        if !changed.is_empty() {
            for (table, entries) in changed {
                let Some(cluster) = state.tables.home(table) else { continue };
                if fresh_tables.contains_key(&table) {
                    let entry = byte_of(cluster) | super::layout::COPIED;
                    let at = self.l1_at + number(table) * ENTRY_BYTES;
                    self.files.write(at, &entry.to_be_bytes())?;
                } else {
                    let at = byte_of(cluster) + number(entries.start) * ENTRY_BYTES;
                    self.files.write(at, &state.tables.bytes(table, entries))?;
                }
            }
            self.files.sync_disk()?;
        }
        self.release_given_up(state)
    }

    /// Makes what nothing in the file refers to free, and its room the file system's.
    fn release_given_up(&self, state: &mut State) -> Result<(), PortError> {
        let given_up = std::mem::take(&mut state.given_up);
        if given_up.is_empty() {
            return Ok(());
        }
        for cluster in &given_up {
            state.clusters.release(*cluster);
        }
        self.write_blocks(state)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for run in runs(given_up) {
            // Only room is lost where the file system cannot.
            let length = byte_of(run.end - run.start);
            let _ = fallocate(self.files.disk(), punch, byte_of(run.start), length);
        }
        self.files.sync_disk()
    }

    fn write_blocks(&self, state: &mut State) -> Result<(), PortError> {
        for block in std::mem::take(&mut state.clusters.touched) {
            let place = state.blocks[index(u64::from(block))];
            self.files.write(byte_of(place), &state.clusters.block(block))?;
        }
        Ok(())
    }
}

impl BlockWriter for Qcow2Disk {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        let _open = self.gate.read().expect("no holder panics");
        self.within("write", offset, length_of(bytes))?;
        let head = bytes.len().min(index((CLUSTER - offset % CLUSTER) % CLUSTER));
        let (head, rest) = bytes.split_at(head);
        if !head.is_empty() {
            self.write_part(offset, head)?;
        }
        let (whole, tail) = rest.split_at(rest.len() - rest.len() % CLUSTER_BYTES);
        let first = offset + length_of(head);
        if !whole.is_empty() {
            self.write_whole(first / CLUSTER, whole)?;
        }
        if !tail.is_empty() {
            self.write_part(first + length_of(whole), tail)?;
        }
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), PortError> {
        let _open = self.gate.read().expect("no holder panics");
        self.within("zero", offset, length)?;
        let end = offset + length;
        // The last cluster is zeroed as a whole where the disk ends within it.
        let whole_end = if end == self.capacity { end.div_ceil(CLUSTER) } else { end / CLUSTER };
        let whole = offset.div_ceil(CLUSTER)..whole_end;
        let zeros = |from: u64, to: u64| {
            if from == to {
                return Ok(());
            }
            let place = self.state().tables.get(from / CLUSTER);
            let Some(cluster) = place else { return Ok(()) };
            self.files.write(byte_of(cluster) + from % CLUSTER, &vec![0; index(to - from)])
        };
        if whole.is_empty() {
            let boundary = end.min(offset.next_multiple_of(CLUSTER));
            zeros(offset, boundary)?;
            return zeros(boundary, end);
        }
        zeros(offset, whole.start * CLUSTER)?;
        let mut state = self.state();
        let State { tables, given_up, .. } = &mut *state;
        tables.clear(whole.clone(), |cluster| {
            given_up.insert(cluster);
        });
        drop(state);
        zeros((whole.end * CLUSTER).min(end), end)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let _open = self.gate.read().expect("no holder panics");
        self.within("read", offset, length_of(buffer))?;
        // Runs of clusters that follow each other here and there are read in one go.
        let mut parts: Vec<(Option<u64>, usize)> = Vec::new();
        {
            let state = self.state();
            let (mut at, end) = (offset, offset + length_of(buffer));
            while at < end {
                let next = end.min((at / CLUSTER + 1) * CLUSTER);
                let place = state.tables.get(at / CLUSTER);
                let place = place.map(|cluster| byte_of(cluster) + at % CLUSTER);
                let length = index(next - at);
                match parts.last_mut() {
                    Some((known, so_far))
                        if known.map(|first| first + number(*so_far)) == place =>
                    {
                        *so_far += length;
                    }
                    _ => parts.push((place, length)),
                }
                at = next;
            }
        }
        let mut rest = buffer;
        for (place, length) in parts {
            let (now, later) = rest.split_at_mut(length);
            match place {
                Some(place) => self.files.read(place, now)?,
                None => now.fill(0),
            }
            rest = later;
        }
        Ok(())
    }

    fn is_hole(&self, offset: u64, length: u64) -> Result<bool, PortError> {
        let _open = self.gate.read().expect("no holder panics");
        let Some(end) = offset.checked_add(length).filter(|end| *end <= self.capacity) else {
            return Ok(false);
        };
        Ok(self.state().tables.is_clear(offset / CLUSTER..end.div_ceil(CLUSTER)))
    }

    fn read_map(&self) -> Result<Vec<u8>, PortError> {
        self.files.read_map()
    }

    fn write_map(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        self.files.write_map(offset, bytes)
    }

    fn sync(&self) -> Result<(), PortError> {
        let _alone = self.gate.write().expect("no holder panics");
        self.files.usable()?;
        self.publish(&mut self.state()).inspect_err(|_| self.files.give_up())?;
        self.files.sync()
    }
}

impl State {
    /// Reads all tables of an image, and finds out which clusters are used, whatever the refcounts say.
    fn load(files: &LockedDisk, capacity: u64) -> Result<Self, PortError> {
        let mut state = Self {
            tables: Tables::new(capacity),
            clusters: Clusters::default(),
            blocks: vec![0; index(u64::from(BLOCKS_MAX))],
            given_up: BTreeSet::new(),
        };
        let end = u32::try_from(files.length()? / CLUSTER).unwrap_or(u32::MAX).min(CLUSTERS_MAX);
        let l1_clusters = (state.tables.count() * ENTRY_BYTES).div_ceil(CLUSTER).max(1);
        let fixed = L1_AT + u32::try_from(l1_clusters).expect("the capacity has a bound");
        for cluster in (0..fixed).filter(|cluster| *cluster != FIRST_BLOCK_AT) {
            state.clusters.mark(cluster);
        }
        let use_entry = |clusters: &mut Clusters, at: u64, entry: u64, flag: u64| {
            let place = entry & !flag;
            let cluster = u32::try_from(place / CLUSTER).ok().filter(|cluster| {
                place.is_multiple_of(CLUSTER) && *cluster < end && clusters.mark(*cluster)
            });
            cluster.ok_or_else(|| foreign(files, at, &format!("an entry {entry:#x}")))
        };
        let places_at = byte_of(REFCOUNTS_AT);
        for (nth, at, entry) in entries(files, places_at, u64::from(BLOCKS_MAX))? {
            state.blocks[nth] = use_entry(&mut state.clusters, at, entry, 0)?;
        }
        let copied = super::layout::COPIED;
        for (table, at, entry) in entries(files, byte_of(L1_AT), state.tables.count())? {
            let home = use_entry(&mut state.clusters, at, entry, copied)?;
            state.tables.add(table, home);
            for (nth, at, entry) in entries(files, byte_of(home), CLUSTER / ENTRY_BYTES)? {
                let cluster = use_entry(&mut state.clusters, at, entry, copied)?;
                state.tables.load(table, nth, cluster);
            }
        }
        state.compare_blocks(files)?;
        Ok(state)
    }

    /// Finds the refcount blocks that say something else than the tables.
    fn compare_blocks(&mut self, files: &LockedDisk) -> Result<(), PortError> {
        let mut wrong = BTreeSet::new();
        for (block, place) in (0..).zip(self.blocks.iter().copied()) {
            if place == 0 && block >= self.clusters.blocks() {
                continue;
            }
            let mut stored = vec![0; CLUSTER_BYTES];
            if place != 0 {
                files.read(byte_of(place), &mut stored)?;
            }
            if stored != self.clusters.block(block) {
                wrong.insert(block);
            }
        }
        self.clusters.touched = wrong;
        Ok(())
    }

    /// Finds or takes the clusters of a range of the disk; returns them as runs, and which of the range had none.
    fn places(
        &mut self,
        first: u64,
        count: u64,
        files: &LockedDisk,
    ) -> Result<(Vec<Range<u32>>, Vec<u64>), PortError> {
        let mut places: Vec<Range<u32>> = Vec::new();
        let mut fresh = Vec::new();
        let end = first + count;
        let mut at = first;
        while at < end {
            let run = match self.tables.get(at) {
                Some(cluster) => cluster..cluster + 1,
                None => {
                    let lacking = (at..end).take_while(|nth| self.tables.get(*nth).is_none());
                    let lacking = u32::try_from(lacking.count()).unwrap_or(u32::MAX);
                    let taken = self.take(lacking, files).inspect_err(|_| {
                        for nth in &fresh {
                            self.give_up(*nth);
                        }
                    });
                    let taken = taken?;
                    for (nth, cluster) in (at..).zip(taken.clone()) {
                        self.tables.set(nth, cluster);
                        fresh.push(nth);
                    }
                    taken
                }
            };
            at += number(run.len());
            match places.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => places.push(run),
            }
        }
        Ok((places, fresh))
    }

    fn take(&mut self, count: u32, files: &LockedDisk) -> Result<Range<u32>, PortError> {
        self.clusters.take(count).ok_or_else(|| {
            failed("write", files.path(), None, io::Error::from(io::ErrorKind::FileTooLarge))
        })
    }

    /// Makes a cluster of the disk read as zeros.
    fn give_up(&mut self, nth: u64) {
        let Self { tables, given_up, .. } = self;
        tables.clear(nth..nth + 1, |cluster| {
            given_up.insert(cluster);
        });
    }

    /// Takes a cluster for each table that says something and has none.
    fn house_tables(&mut self, files: &LockedDisk) -> Result<BTreeMap<usize, u32>, PortError> {
        let homeless = self.tables.homeless();
        homeless
            .into_iter()
            .map(|table| {
                let home = self.take(1, files)?.start;
                self.tables.house(table, home);
                Ok((table, home))
            })
            .collect()
    }

    /// Takes a cluster for each refcount block that is needed and has none; each may need another.
    fn house_blocks(&mut self, files: &LockedDisk) -> Result<BTreeSet<u32>, PortError> {
        let mut fresh = BTreeSet::new();
        loop {
            let lacks = |block: &&u32| self.blocks[index(u64::from(**block))] == 0;
            let Some(block) = self.clusters.touched.iter().find(lacks).copied() else {
                return Ok(fresh);
            };
            self.blocks[index(u64::from(block))] = self.take(1, files)?.start;
            fresh.insert(block);
        }
    }
}

/// Writes an image that reads as zeros and is so many clusters long.
fn lay_out(file: &File, path: &Path, capacity: u64, end: u32) -> Result<(), PortError> {
    let mut clusters = Clusters::default();
    clusters.take(end).expect("an image begins short");
    let mut places = vec![0; CLUSTER_BYTES];
    places[..8].copy_from_slice(&byte_of(FIRST_BLOCK_AT).to_be_bytes());
    let l1_entries =
        u32::try_from(Tables::new(capacity).count()).expect("the capacity has a bound");
    let head = new_header(capacity, byte_of(L1_AT), l1_entries, byte_of(REFCOUNTS_AT));
    let sync = || fsync(file).map_err(|error| failed("sync", path, None, io::Error::from(error)));
    file.set_len(byte_of(end)).map_err(|error| failed("write", path, None, error))?;
    write_all(file, path, byte_of(REFCOUNTS_AT), &places)?;
    write_all(file, path, byte_of(FIRST_BLOCK_AT), &clusters.block(0))?;
    write_all(file, path, byte_of(L1_AT), &vec![0; index(byte_of(end - L1_AT))])?;
    // The header makes it an image, so that it comes last.
    sync()?;
    write_all(file, path, 0, &head)?;
    sync()
}

/// Reads the entries of a table that are not 0: which one, where it stands, and what it says.
fn entries(files: &LockedDisk, at: u64, count: u64) -> Result<Vec<(usize, u64, u64)>, PortError> {
    let mut bytes = vec![0; index(count * ENTRY_BYTES)];
    files.read(at, &mut bytes)?;
    let entry = |nth: usize| super::layout::u64_at(&bytes, nth * 8);
    let entries = (0..bytes.len() / 8).map(|nth| (nth, at + number(nth) * ENTRY_BYTES, entry(nth)));
    Ok(entries.filter(|(_, _, entry)| *entry != 0).collect())
}

/// Reads the header of a file, or what there is of it.
fn start_of(file: &File, path: &Path) -> Result<Vec<u8>, PortError> {
    use std::os::unix::fs::FileExt;
    let metadata = file.metadata().map_err(|error| failed("look at", path, None, error))?;
    let most = metadata.len().min(number(super::layout::START_BYTES));
    let mut start = vec![0; index(most)];
    file.read_exact_at(&mut start, 0).map_err(|error| failed("read", path, Some(0), error))?;
    Ok(start)
}

/// Puts numbers that follow each other together.
fn runs(clusters: BTreeSet<u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for cluster in clusters {
        match runs.last_mut() {
            Some(last) if last.end == cluster => last.end += 1,
            _ => runs.extend(iter::once(cluster..cluster + 1)),
        }
    }
    runs
}

fn foreign(files: &LockedDisk, at: u64, why: &str) -> PortError {
    let path = files.path().display();
    PortError::lasting(
        format!("{path} is not the image that ferry made, at byte {at}: {why}"),
        "something else wrote to it, as a VM does that was started from it; where none was, begin again",
        Mend::Person,
    )
}

fn byte_of(cluster: u32) -> u64 {
    u64::from(cluster) * CLUSTER
}

fn length_of(bytes: &[u8]) -> u64 {
    number(bytes.len())
}

#[cfg(test)]
mod copied;
#[cfg(test)]
mod tests;
