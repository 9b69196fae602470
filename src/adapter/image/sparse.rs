//! Reads one sparse extent of a VMDK at any place: `KDMV` without compression (VMware Virtual Disk Format 5.0; QEMU's
//! `block/vmdk.c`). A directory names grain tables, a grain table names grains.
//!
//! # Guarantees
//!
//! - Bounded memory: directory and tables are read when they are needed, in parts, and [`PARTS_MAX`] of them are kept.
//! - No number of the file is believed: what a header, a directory or a table names lies within the file and outside of the
//!   header, or reading fails with the place of the number.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::adapter::image::flat::{EXTENTS_MAX, IN_FLIGHT, RawImage, end_within, push};
use crate::adapter::image::vmdk::{DESCRIPTOR_BYTES_MAX, SECTOR, TABLE_ENTRIES};
use crate::extent::{Content, Extent};
use crate::port::{Blocks, PortError};

/// What a sparse extent begins with.
pub(super) const MAGIC: [u8; 4] = *b"KDMV";

/// The sectors of a grain: from a page of the guest to what QEMU allows.
const GRAIN_SECTORS: std::ops::RangeInclusive<u64> = 8..=0x20_0000;

/// The most tables, as in QEMU.
const TABLES_MAX: u64 = 32 << 20;

/// How many tables and parts of the directory are kept: 2 KiB each, enough for some readers that go through the disk at
/// places of their own.
const PARTS_MAX: usize = 64;

/// How many tables one call for extents looks at: 2 MiB of reading for 32 GiB of a disk.
const TABLES_PER_CALL: u64 = 1024;

const FLAG_LINE_ENDS: u32 = 1;
const FLAG_ZERO_ENTRIES: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;

/// One sparse extent.
#[derive(Debug)]
pub(super) struct Sparse {
    file: RawImage,
    layout: Layout,
    /// What was read last of directory and tables, by its place in the file, the newest at the end.
    parts: Mutex<VecDeque<(u64, Arc<[u32]>)>>,
}

/// What the header says, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// What the guest sees.
    capacity: u64,
    /// The bytes of one grain.
    grain: u64,
    /// The entries of one table.
    entries: u64,
    /// Where the directory stands.
    directory: u64,
    /// Where the first grain may stand.
    overhead: u64,
    /// Where the descriptor stands and how long it is, padding included; `None` where there is none.
    descriptor: Option<(u64, u64)>,
    /// Whether the entry 1 means a grain of zeros.
    zero_entries: bool,
}

/// A grain table and where it stands.
#[derive(Clone, Debug)]
struct Table {
    place: u64,
    entries: Arc<[u32]>,
}

/// Tells whether a header is that of a stream-optimized VMDK, which is read forward.
pub(super) fn is_compressed(sector: &[u8; 512]) -> bool {
    sector[..4] == MAGIC && u32_at(sector, 8) & FLAG_COMPRESSED != 0
}

impl Sparse {
    /// Reads the header and checks it against the file.
    pub(super) fn open(file: RawImage) -> Result<Self, PortError> {
        if file.size() < SECTOR {
            return Err(file.damaged(file.size(), "it ends within its header"));
        }
        let mut sector = [0; 512];
        file.read(0, &mut sector)?;
        let layout = layout(&sector).map_err(|(at, why)| file.damaged(at, why))?;
        let size = file.size();
        if layout.overhead > size {
            let why = format!("its data starts at byte {}: it is truncated", layout.overhead);
            return Err(file.damaged(64, why));
        }
        let length = layout.tables() * 4;
        if layout.directory.checked_add(length).is_none_or(|end| end > size) {
            let why = format!(
                "the directory of {length} bytes at byte {} goes past the file's end",
                layout.directory
            );
            return Err(file.damaged(56, why));
        }
        Ok(Self { file, layout, parts: Mutex::default() })
    }

    /// Returns the file.
    pub(super) fn file(&self) -> &RawImage {
        &self.file
    }

    /// Reads the embedded descriptor, its padding included, and where it stands; `None` where there is none.
    pub(super) fn descriptor(&self) -> Result<Option<(u64, Vec<u8>)>, PortError> {
        let Some((at, length)) = self.layout.descriptor else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(length).expect("at most 1 MiB")];
        self.file.read(at, &mut bytes)?;
        Ok(Some((at, bytes)))
    }

    /// Finds how far what begins at `at` goes on in one piece, up to `end` at most: its length, and where it stands in the
    /// file; `None` for zeros.
    fn stretch(&self, at: u64, end: u64) -> Result<(u64, Option<u64>), PortError> {
        let Layout { grain, .. } = self.layout;
        let span = self.layout.span();
        let mut held: Option<(u64, Option<Table>)> = None;
        let mut first = None;
        let mut here = at;
        while here < end {
            let number = here / span;
            let table = match &held {
                Some((of, table)) if *of == number => table,
                _ => &held.insert((number, self.table(number)?)).1,
            };
            let (next, place) = match table {
                None => ((number + 1) * span, None),
                Some(table) => {
                    let start = here - here % grain;
                    let place = self.place(table, start)?;
                    (start + grain, place.map(|place| place + here % grain))
                }
            };
            let follows = match first {
                None => true,
                Some(None) => place.is_none(),
                Some(Some(first)) => place == Some(first + (here - at)),
            };
            if !follows {
                break;
            }
            first = first.or(Some(place));
            here = next.min(end);
        }
        Ok((here - at, first.flatten()))
    }

    /// Finds the grain that the guest sees at `start`.
    fn place(&self, table: &Table, start: u64) -> Result<Option<u64>, PortError> {
        let Layout { grain, entries, capacity, overhead, zero_entries, .. } = self.layout;
        let index = start / grain % entries;
        let entry = table.entries[usize::try_from(index).expect("below 512")];
        if entry == 0 || (entry == 1 && zero_entries) {
            return Ok(None);
        }
        let place = u64::from(entry) * SECTOR;
        let refused = |why: &str| {
            let why = format!("the grain for byte {start} of the disk at byte {place} {why}");
            self.file.damaged(table.place + index * 4, why)
        };
        if place < overhead {
            return Err(refused("stands within header and tables"));
        }
        if place + grain.min(capacity - start) > self.file.size() {
            return Err(refused("goes past the file's end"));
        }
        Ok(Some(place))
    }

    /// Returns a grain table; `None` where none of its grains was ever written.
    fn table(&self, number: u64) -> Result<Option<Table>, PortError> {
        // The directory is read in parts of the size of a table.
        let first = number - number % TABLE_ENTRIES;
        let count = TABLE_ENTRIES.min(self.layout.tables() - first);
        let part = self.words(self.layout.directory + first * 4, count)?;
        let entry = part[usize::try_from(number - first).expect("below 512")];
        if entry == 0 {
            return Ok(None);
        }
        let place = u64::from(entry) * SECTOR;
        if place + self.layout.entries * 4 > self.file.size() {
            let why = format!("grain table {number} at byte {place} goes past the file's end");
            return Err(self.file.damaged(self.layout.directory + number * 4, why));
        }
        let entries = self.words(place, self.layout.entries)?;
        Ok(Some(Table { place, entries }))
    }

    /// Reads a part of directory or tables, at most 512 numbers, or finds it among those that are kept.
    fn words(&self, at: u64, count: u64) -> Result<Arc<[u32]>, PortError> {
        let count = usize::try_from(count).expect("at most 512");
        let is_it = |(place, words): &&(u64, Arc<[u32]>)| *place == at && words.len() == count;
        let found = self.kept().iter().rev().find(is_it).cloned();
        if let Some((_, words)) = found {
            return Ok(words);
        }
        let mut bytes = vec![0; count * 4];
        self.file.read(at, &mut bytes)?;
        let (words, _) = bytes.as_chunks();
        let words: Arc<[u32]> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let mut kept = self.kept();
        if kept.len() == PARTS_MAX {
            kept.pop_front();
        }
        kept.push_back((at, Arc::clone(&words)));
        Ok(words)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(u64, Arc<[u32]>)>> {
        // Every change of it is one call: a thread that panicked left it whole.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks for Sparse {
    fn size(&self) -> u64 {
        self.layout.capacity
    }

    fn state(&self) -> Result<String, PortError> {
        self.file().state()
    }

    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        let length = length.min(TABLES_PER_CALL * self.layout.span());
        let end = end_within(offset, length, self.size());
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < EXTENTS_MAX {
            let (length, place) = self.stretch(at, end)?;
            let content = if place.is_some() { Content::Data } else { Content::Zero };
            push(&mut extents, at, at + length, content);
            at += length;
        }
        Ok(extents)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let length = u64::try_from(buffer.len()).expect("memory is below 16 EiB");
        let end = end_within(offset, length, self.size());
        let mut rest = buffer;
        let mut at = offset;
        while at < end {
            let (length, place) = self.stretch(at, end)?;
            let part = rest.split_off_mut(..usize::try_from(length).expect("within the buffer"));
            let part = part.expect("a stretch ends before the buffer does");
            match place {
                Some(place) => self.file.read(place, part)?,
                None => part.fill(0),
            }
            at += length;
        }
        Ok(())
    }
}

impl Layout {
    /// Returns how much of the disk one table describes.
    fn span(&self) -> u64 {
        self.entries * self.grain
    }

    /// Returns how many tables there are.
    fn tables(&self) -> u64 {
        self.capacity.div_ceil(self.span())
    }
}

/// Reads the header. The error says why it is refused, and at which byte of the header.
fn layout(sector: &[u8; 512]) -> Result<Layout, (u64, String)> {
    if sector[..4] != MAGIC {
        let found = sector[..4].escape_ascii();
        return Err((0, format!("it starts with `{found}` instead of `KDMV`")));
    }
    let version = u32_at(sector, 4);
    if !(1..=3).contains(&version) {
        return Err((4, format!("version {version} of the format is unknown")));
    }
    let flags = u32_at(sector, 8);
    if flags & FLAG_LINE_ENDS != 0 && sector[73..77] != *b"\n \r\n" {
        return Err((73, "a transfer as text changed its line ends".to_owned()));
    }
    let method = u16::from_le_bytes([sector[77], sector[78]]);
    if flags & (FLAG_COMPRESSED | FLAG_MARKERS) != 0 || method != 0 {
        let why = format!("flags {flags:#x} and compression {method} are those of a stream");
        return Err((8, why + ": only a stream-optimized VMDK as a whole is read so"));
    }
    let grain = u64_at(sector, 20);
    if !grain.is_power_of_two() || !GRAIN_SECTORS.contains(&grain) {
        return Err((20, format!("a grain of {grain} sectors: only 8 to 2097152 are read")));
    }
    let entries = u64::from(u32_at(sector, 44));
    if !(1..=TABLE_ENTRIES).contains(&entries) {
        return Err((44, format!("a grain table of {entries} entries: only 1 to 512 are read")));
    }
    let bytes = |at: usize, what: &str| {
        let sectors = u64_at(sector, at);
        let place = u64::try_from(at).expect("below 512");
        let refused = || (place, format!("{what} of {sectors} sectors is more than any disk has"));
        let bytes = sectors.checked_mul(SECTOR);
        bytes.filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(refused)
    };
    if u64_at(sector, 56) == u64::MAX {
        return Err((56, "its directory is at its end: only a stream has it there".to_owned()));
    }
    let mut layout = Layout {
        capacity: bytes(12, "a capacity")?,
        grain: grain * SECTOR,
        entries,
        directory: bytes(56, "a directory's place")?,
        overhead: bytes(64, "metadata")?,
        descriptor: None,
        zero_entries: flags & FLAG_ZERO_ENTRIES != 0,
    };
    if layout.capacity == 0 {
        return Err((12, "it holds no disk".to_owned()));
    }
    if layout.tables() > TABLES_MAX {
        let tables = layout.tables();
        return Err((12, format!("{tables} grain tables: at most {TABLES_MAX} are read")));
    }
    if layout.directory == 0 {
        return Err((56, "the directory stands within the header".to_owned()));
    }
    if layout.overhead == 0 {
        return Err((64, "the data starts within the header".to_owned()));
    }
    let (at, length) = (bytes(28, "a descriptor's place")?, bytes(36, "a descriptor")?);
    if at != 0 {
        layout.descriptor = Some((at, length));
        if length == 0 || length > DESCRIPTOR_BYTES_MAX {
            return Err((36, format!("a descriptor of {length} bytes")));
        }
        if at + length > layout.overhead {
            return Err((28, "the descriptor does not lie between header and data".to_owned()));
        }
    }
    Ok(layout)
}

fn u32_at(sector: &[u8; 512], at: usize) -> u32 {
    u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes of a sector"))
}

fn u64_at(sector: &[u8; 512], at: usize) -> u64 {
    u64::from_le_bytes(sector[at..at + 8].try_into().expect("eight bytes of a sector"))
}

#[cfg(test)]
pub(super) mod tests;
