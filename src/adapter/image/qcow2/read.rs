//! Reads a qcow2 of version 2 or 3 at any place.
//!
//! # Guarantees
//!
//! - No second file is opened: images with a backing file or an external data file are refused (safety rule 24).
//! - No number of the file is believed. A read follows L1, L2 and data, and nothing else, so that no image makes it run for
//!   ever; memory is bounded by the constants below and the L1 table, which the capacity and the file's length bound.
//! - What lies behind the file's end is refused and never taken for zeros: a transfer that was cut off is found out.
//!
//! # Assumptions
//!
//! Nobody writes to the file meanwhile. Refcounts and internal snapshots are not looked at.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use libdeflater::{DecompressionError, Decompressor};

use crate::adapter::confine::Confine;
use crate::adapter::image::flat::{self, RawImage};
use crate::adapter::image::qcow2::layout::{
    ENTRY_BYTES, Header, Mapping, Refusal, START_BYTES, header, l1_entry, l2_entry, u64_at,
};
use crate::extent::{Content, Extent};
use crate::journal::record::Mend;
use crate::port::{Blocks, PortError};

/// How many requests are worth having on their way: a file on a disk of this machine.
const IN_FLIGHT: usize = 4;

/// How many bytes of L2 tables are kept, twice: with clusters of 64 KiB that is 32 GiB of the disk.
const TABLES_BYTES: u64 = 4 << 20;

/// How many inflated clusters are kept, for reads of less than one: one for each request.
const INFLATED: usize = IN_FLIGHT;

/// How many L2 tables one question after extents looks at, so that an answer comes soon.
const TABLES_PER_ANSWER: u64 = 256;

/// How many extents one answer has at most.
const EXTENTS_PER_ANSWER: usize = 4096;

/// The reader.
pub(in crate::adapter::image) struct Qcow2 {
    file: RawImage,
    header: Header,
    l1: Vec<u64>,
    tables: Mutex<Tables>,
    inflated: Mutex<Vec<(Stream, Arc<[u8]>)>>,
}

/// An L2 table and where it stands.
type Table = (u64, Arc<[u64]>);

/// Where a compressed cluster stands, and how long it is at most.
type Stream = (u64, u64);

/// The L2 tables that were used last, by their places: when the younger ones are too many, the older ones go.
struct Tables {
    /// How many each of the two may hold.
    most: usize,
    young: HashMap<u64, Arc<[u64]>>,
    old: HashMap<u64, Arc<[u64]>>,
}

/// A part of the disk whose bytes are made in one go.
#[derive(Clone, Copy, Debug)]
struct Run {
    length: u64,
    mapping: Mapping,
}

impl Qcow2 {
    /// Opens an image. It must be whole in one file.
    pub(in crate::adapter::image) fn open(
        confine: &Confine,
        path: &Path,
    ) -> Result<Self, PortError> {
        let file = flat::open(confine, path)?;
        if file.is_device() {
            return Err(PortError::lasting(
                format!("{} is no regular file", path.display()),
                "name the image's file",
                Mend::Source,
            ));
        }
        Self::of(file)
    }

    /// Takes an image that is open already.
    pub(in crate::adapter::image) fn of(file: RawImage) -> Result<Self, PortError> {
        let (path, length) = (file.path(), file.size());
        let most = u64::try_from(START_BYTES).expect("lengths fit 64 bits").min(length);
        let mut start = vec![0; index(most)];
        file.read(0, &mut start)?;
        let header = header(&start).map_err(|refusal| refused(path, refusal))?;
        let l1_bytes = header.l1_needed() * ENTRY_BYTES;
        if header.l1.checked_add(l1_bytes).is_none_or(|end| end > length) {
            let why = format!("its L1 table of {l1_bytes} bytes ends behind the file's {length}");
            return Err(refused(path, Refusal::damaged(header.l1, why)));
        }
        let mut l1 = vec![0; index(l1_bytes)];
        file.read(header.l1, &mut l1)?;
        Ok(Self {
            file,
            l1: entries(&l1),
            header,
            tables: Mutex::new(Tables {
                most: index(TABLES_BYTES / header.cluster()),
                young: HashMap::new(),
                old: HashMap::new(),
            }),
            inflated: Mutex::default(),
        })
    }

    /// Returns an L2 table by its number; `None` where its whole range is zeros.
    fn table(&self, number: u64) -> Result<Option<Table>, PortError> {
        let place = l1_entry(self.l1[index(number)], self.header.cluster_bits)
            .map_err(|why| self.damaged(self.header.l1 + number * ENTRY_BYTES, why))?;
        let Some(place) = place else { return Ok(None) };
        if let Some(table) = self.tables.lock().expect("no holder panics").get(place) {
            return Ok(Some((place, table)));
        }
        let cluster = self.header.cluster();
        if place.saturating_add(cluster) > self.file.size() {
            let why = format!("an L2 table ends behind the file's {} bytes", self.file.size());
            return Err(self.damaged(place, why));
        }
        let mut bytes = vec![0; index(cluster)];
        self.file.read(place, &mut bytes)?;
        let table: Arc<[u64]> = entries(&bytes).into();
        self.tables.lock().expect("no holder panics").put(place, table.clone());
        Ok(Some((place, table)))
    }

    /// Returns what the disk holds from one byte on, as far as one table says and at most `most` bytes.
    fn run(&self, table: Option<&Table>, at: u64, most: u64) -> Result<Run, PortError> {
        let (covers, cluster) = (self.header.table_covers(), self.header.cluster());
        let most = most.min(covers - at % covers);
        let Some((table_place, table)) = table else {
            return Ok(Run { length: most, mapping: Mapping::Zero });
        };
        let mut run: Option<Run> = None;
        let mut behind = 0;
        while behind < most {
            let place = at + behind;
            let nth = place % covers / cluster;
            let within = place % cluster;
            let mapping = l2_entry(table[index(nth)], &self.header)
                .map_err(|why| self.damaged(table_place + nth * ENTRY_BYTES, why))?;
            let mapping = match mapping {
                Mapping::Data(place) => Mapping::Data(place + within),
                same => same,
            };
            let goes_on = match (run.map(|run| run.mapping), mapping) {
                (None, _) => true,
                (Some(Mapping::Zero), Mapping::Zero) => true,
                (Some(Mapping::Data(first)), Mapping::Data(place)) => first + behind == place,
                (Some(_), _) => false,
            };
            if !goes_on {
                break;
            }
            behind = (behind + cluster - within).min(most);
            run = Some(Run { length: behind, mapping: run.map_or(mapping, |run| run.mapping) });
            if matches!(mapping, Mapping::Compressed { .. }) {
                break;
            }
        }
        Ok(run.expect("no range is empty"))
    }

    /// Fills a buffer from within one cluster that is compressed.
    fn inflate(&self, stream: Stream, within: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let known = |list: &[(Stream, Arc<[u8]>)]| {
            list.iter().find(|(known, _)| *known == stream).map(|(_, bytes)| bytes.clone())
        };
        let found = known(&self.inflated.lock().expect("no holder panics"));
        let bytes = match found {
            Some(bytes) => bytes,
            None => {
                let bytes: Arc<[u8]> = self.inflated(stream)?.into();
                let mut list = self.inflated.lock().expect("no holder panics");
                if buffer.len() < bytes.len() && known(&list).is_none() {
                    list.truncate(INFLATED - 1);
                    list.insert(0, (stream, bytes.clone()));
                }
                bytes
            }
        };
        buffer.copy_from_slice(&bytes[index(within)..][..buffer.len()]);
        Ok(())
    }

    fn inflated(&self, (at, length): Stream) -> Result<Vec<u8>, PortError> {
        // The last sector of the last stream need not be stored as a whole.
        let length = length.min(self.file.size().saturating_sub(at));
        if length == 0 {
            let why = format!("a compressed cluster stands behind the file's {}", self.file.size());
            return Err(self.damaged(at, why));
        }
        let mut stored = vec![0; index(length)];
        self.file.read(at, &mut stored)?;
        let mut bytes = vec![0; index(self.header.cluster())];
        match Decompressor::new().deflate_decompress(&stored, &mut bytes) {
            Ok(inflated) if inflated == bytes.len() => Ok(bytes),
            Ok(inflated) => {
                let why = format!("a compressed cluster inflates to {inflated} bytes");
                Err(self.damaged(at, why))
            }
            Err(DecompressionError::InsufficientSpace) => {
                Err(self.damaged(at, "a compressed cluster inflates to more than a cluster"))
            }
            Err(DecompressionError::BadData) => {
                Err(self.damaged(at, "a compressed cluster is no deflate stream"))
            }
        }
    }

    /// Refuses what no caller asks for that knows the disk's size.
    fn within(&self, offset: u64, length: u64) -> Result<(), PortError> {
        let capacity = self.header.capacity;
        if offset.checked_add(length).is_some_and(|end| end <= capacity) {
            return Ok(());
        }
        Err(PortError::lasting(
            format!(
                "cannot read {length} bytes at byte {offset} of the disk in {}: it has {capacity}",
                self.file.path().display()
            ),
            "check the capacity in the VM's description",
            Mend::Source,
        ))
    }

    fn damaged(&self, at: u64, why: impl Into<String>) -> PortError {
        refused(self.file.path(), Refusal::damaged(at, why))
    }
}

impl Blocks for Qcow2 {
    fn size(&self) -> u64 {
        self.header.capacity
    }

    fn state(&self) -> Result<String, PortError> {
        self.file.state()
    }

    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        self.within(offset, length)?;
        let covers = self.header.table_covers();
        let (mut at, end) = (offset, offset + length);
        let mut extents: Vec<Extent> = Vec::new();
        let mut stored = 0;
        while at < end && stored < TABLES_PER_ANSWER && extents.len() < EXTENTS_PER_ANSWER {
            let number = at / covers;
            let table = self.table(number)?;
            stored += u64::from(table.is_some());
            let table_end = end.min((number + 1) * covers);
            while at < table_end && extents.len() < EXTENTS_PER_ANSWER {
                let run = self.run(table.as_ref(), at, table_end - at)?;
                let content = match run.mapping {
                    Mapping::Zero => Content::Zero,
                    Mapping::Data(_) | Mapping::Compressed { .. } => Content::Data,
                };
                match extents.last_mut() {
                    Some(last) if last.content == content => last.length += run.length,
                    _ => extents.push(Extent { offset: at, length: run.length, content }),
                }
                at += run.length;
            }
        }
        Ok(extents)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let mut length = u64::try_from(buffer.len()).expect("lengths fit 64 bits");
        self.within(offset, length)?;
        let covers = self.header.table_covers();
        let mut at = offset;
        let mut rest = buffer;
        let mut table = None;
        while length > 0 {
            let number = at / covers;
            if table.is_none() || at.is_multiple_of(covers) {
                table = Some(self.table(number)?);
            }
            let run = self.run(table.as_ref().and_then(Option::as_ref), at, length)?;
            let (now, later) = rest.split_at_mut(index(run.length));
            match run.mapping {
                Mapping::Zero => now.fill(0),
                Mapping::Data(place) if place.saturating_add(run.length) > self.file.size() => {
                    let why = format!("data ends behind the file's {} bytes", self.file.size());
                    return Err(self.damaged(place, why));
                }
                Mapping::Data(place) => self.file.read(place, now)?,
                Mapping::Compressed { at: place, length } => {
                    self.inflate((place, length), at % self.header.cluster(), now)?;
                }
            }
            rest = later;
            at += run.length;
            length -= run.length;
        }
        Ok(())
    }
}

impl Tables {
    fn get(&mut self, place: u64) -> Option<Arc<[u64]>> {
        if let Some(table) = self.young.get(&place) {
            return Some(table.clone());
        }
        let table = self.old.remove(&place)?;
        self.put(place, table.clone());
        Some(table)
    }

    fn put(&mut self, place: u64, table: Arc<[u64]>) {
        if self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(place, table);
    }
}

fn entries(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|entry| u64_at(entry, 0)).collect()
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what is kept in memory has bounds")
}

fn refused(path: &Path, refusal: Refusal) -> PortError {
    let Refusal { at, why, remedy } = refusal;
    let text = format!("cannot read the disk in {} at byte {at}: {why}", path.display());
    PortError::lasting(text, remedy, Mend::Source)
}

#[cfg(test)]
mod tests;
