//! Reads a stream-optimized VMDK, forward only, as VMware and as qemu-img write them: a part of a file, or what a server sends.
//!
//! # Guarantees
//!
//! - One pass: what is read for the disk is what is hashed, every byte of the member once. A copy that goes on reads nothing
//!   before its checkpoint: the state of the checksum travels in the position.
//! - A file is the one that was observed when it is opened and when it is finished.
//! - No number of the file is believed: places and sizes have bounds, and no second file is opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use libdeflater::Decompressor;
use serde::{Deserialize, Serialize};

use crate::adapter::checksum::Running;
use crate::adapter::confine::Confine;
use crate::adapter::image::vmdk::{
    GRAIN_BYTES, GRAIN_MARKER_BYTES, Header, Marker, SECTOR, TABLE_BYTES, TABLE_ENTRIES,
    check_descriptor, directory, header, marker,
};
use crate::adapter::location::{Stamp, StoredDisk};
use crate::domain::id::DiskKey;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Disk};
use crate::journal::record::Mend;
use crate::port::{BlockReader, Piece, PortError, Position, Stored};

/// How much is read from the file at once.
const WINDOW_BYTES: usize = 1 << 20;

/// How much is read in one go that no piece comes of: one second of a slow disk, so that a copy still says that it goes on.
pub(super) const STEP_BYTES: u64 = 128 << 20;

/// Where the bytes of a stored disk come from.
pub(in crate::adapter) trait Supply: Send {
    /// Names it for people.
    fn shown(&self) -> &str;
    /// Returns how many bytes it has; `None` where only its end tells.
    fn length(&self) -> Option<u64>;
    /// Reads the bytes that follow the first `at`, which were read before; returns how many, 0 at the end.
    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, PortError>;
    /// Fills the buffer from a place that may be behind; returns whether it can.
    fn look_back(&self, at: u64, buffer: &mut [u8]) -> Result<bool, PortError>;
    /// Fails where it is not what it was when it was opened.
    fn unchanged(&self) -> Result<(), PortError>;
}

/// The reader.
pub(in crate::adapter) struct Stream {
    key: DiskKey,
    supply: Box<dyn Supply>,
    /// How long the stored disk is, once that is known.
    length: Option<u64>,
    checksum: Checksum,
    /// What the VM's description says that the guest sees.
    described: u64,
    /// What the header says: at most `described`; what lies between is zeros.
    capacity: u64,
    /// What was read and not used: `window[used..]` stands at `at`.
    window: Vec<u8>,
    used: usize,
    /// How many grains are behind.
    grains: u64,
    /// How much of the stored disk is behind.
    at: u64,
    hash: Option<Running>,
    grain: u64,
    ended: bool,
}

/// Where a stream goes on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    /// How much of the stored disk is behind.
    at: u64,
    /// What the header says that the guest sees.
    capacity: u64,
    /// The bytes of a grain.
    grain: u64,
    /// How many grains are behind.
    grains: u64,
    /// Whether only padding follows.
    ended: bool,
    /// The state of the checksum over what is behind, in hexadecimal.
    hash: Option<String>,
}

impl Stream {
    pub(in crate::adapter) fn open(
        supply: Box<dyn Supply>,
        disk: &Disk,
        resume: Option<&str>,
    ) -> Result<Self, PortError> {
        let mut stream = Self {
            key: disk.key.clone(),
            length: supply.length(),
            supply,
            checksum: disk.checksum.clone(),
            described: disk.capacity.0,
            capacity: 0,
            window: Vec::new(),
            used: 0,
            at: 0,
            hash: Running::of(&disk.checksum),
            grain: 0,
            grains: 0,
            ended: false,
        };
        match resume {
            None => stream.read_header()?,
            Some(resume) => stream.resume(resume)?,
        }
        Ok(stream)
    }

    fn read_header(&mut self) -> Result<(), PortError> {
        let sector = self.sector()?;
        let refused = |(at, why): (u64, String)| self.refused(at, why);
        let Header { capacity, grain, descriptor, descriptor_bytes, overhead } =
            header(&sector).map_err(refused)?;
        if capacity > self.described {
            let why =
                format!("it holds {capacity} bytes, the VM's description says {}", self.described);
            return Err(self.refused(12, why));
        }
        self.skip(descriptor - SECTOR)?;
        let text = self.take(descriptor_bytes)?;
        check_descriptor(&text).map_err(|why| self.refused(descriptor, why))?;
        self.skip(overhead - descriptor - descriptor_bytes)?;
        self.capacity = capacity;
        self.grain = grain;
        Ok(())
    }

    fn resume(&mut self, resume: &str) -> Result<(), PortError> {
        let damaged = |why: String| {
            PortError::lasting(
                format!("cannot go on with disk {}: its checkpoint {why}", self.key),
                "the journal is damaged: start a new attempt with a new Migration",
                Mend::Person,
            )
        };
        let resume: Resume = serde_json::from_str(resume)
            .map_err(|error| damaged(format!("is unreadable: {error}")))?;
        let Resume { at, capacity, grain, grains, ended, hash: state } = resume;
        if self.length.is_some_and(|length| at > length)
            || capacity > self.described
            || !GRAIN_BYTES.contains(&grain)
        {
            return Err(damaged("lies outside of the disk".to_owned()));
        }
        if let Some(hash) = &mut self.hash {
            let state = state.and_then(|state| hash.resumed(&state));
            *hash = state.ok_or_else(|| damaged("holds no state of its checksum".to_owned()))?;
        }
        (self.at, self.capacity, self.grain) = (at, capacity, grain);
        (self.grains, self.ended) = (grains, ended);
        Ok(())
    }

    fn grain(&mut self, sector: &[u8; 512], offset: u64, size: u64) -> Result<Piece, PortError> {
        let start = self.at - SECTOR;
        if size > 2 * self.grain {
            let why = format!("a grain of {size} compressed bytes is too long");
            return Err(self.refused(start, why));
        }
        if !offset.is_multiple_of(self.grain) || offset >= self.capacity {
            let why = format!("a grain for byte {offset} of a disk of {} bytes", self.capacity);
            return Err(self.refused(start, why));
        }
        let length = usize::try_from(size).expect("at most two grains");
        let mut bytes = sector[GRAIN_MARKER_BYTES..].to_vec();
        if length > bytes.len() {
            let rest = length - bytes.len();
            bytes
                .extend(self.take(u64::try_from(rest.next_multiple_of(512)).expect("two grains"))?);
        }
        bytes.truncate(length);
        let left = self.capacity - offset;
        let length = self.grain.min(self.described - offset);
        let stored = if left < self.grain {
            Stored::Raw(self.last_grain(&bytes, left, length, start)?)
        } else {
            Stored::Zlib(bytes)
        };
        let length = u32::try_from(length).expect("a grain is at most 1 MiB");
        Ok(Piece { offset, length, stored })
    }

    /// Tells whether the tables in front name as many grains as were read. QEMU writes them there and no end marker: where its
    /// last grain fills its sectors, the file ends right behind it, and nothing else says that it is whole.
    fn tables_name_all(&self) -> Result<bool, PortError> {
        let header = self.read_at::<512>(0)?;
        let Some(directory) = directory(&header) else { return Ok(false) };
        let mut named = 0;
        for table in 0..self.capacity.div_ceil(TABLE_ENTRIES * self.grain) {
            let entry = self.read_at::<4>(directory.saturating_add(4 * table))?;
            let place = u64::from(u32::from_le_bytes(entry)) * SECTOR;
            if place == 0 {
                continue;
            }
            let entries = self.read_at::<{ TABLE_BYTES }>(place)?;
            // 0 is a hole, 1 a grain of zeros that is not stored.
            let stored = |entry: &&[u8]| !matches!(entry, [0 | 1, 0, 0, 0]);
            named += entries.chunks_exact(4).filter(stored).count();
        }
        Ok(u64::try_from(named).is_ok_and(|named| named == self.grains))
    }

    /// Reads bytes of the stored disk at a place of their own.
    fn read_at<const COUNT: usize>(&self, at: u64) -> Result<[u8; COUNT], PortError> {
        let count = u64::try_from(COUNT).expect("lengths fit 64 bits");
        let mut bytes = [0; COUNT];
        let inside = self.length.is_none_or(|length| at.saturating_add(count) <= length);
        if !inside || !self.supply.look_back(at, &mut bytes)? {
            return Err(self.truncated());
        }
        Ok(bytes)
    }

    /// Inflates the grain that the disk ends in: some writers store all of it, some only the `left` bytes on the disk. The
    /// answer has `length` bytes.
    fn last_grain(
        &self,
        bytes: &[u8],
        left: u64,
        length: u64,
        start: u64,
    ) -> Result<Vec<u8>, PortError> {
        let size = |bytes: u64| usize::try_from(bytes).expect("a grain is at most 1 MiB");
        let mut grain = vec![0; size(self.grain)];
        match Decompressor::new().zlib_decompress(bytes, &mut grain) {
            Ok(inflated) if inflated == size(left) || inflated == grain.len() => {
                grain.truncate(size(left));
                grain.resize(size(length), 0);
                Ok(grain)
            }
            Ok(inflated) => {
                Err(self.refused(start, format!("the last grain inflates to {inflated} bytes")))
            }
            Err(error) => Err(self.refused(start, format!("the last grain is damaged: {error}"))),
        }
    }

    /// Takes the next sector.
    fn sector(&mut self) -> Result<[u8; 512], PortError> {
        let mut sector = [0; 512];
        if SECTOR > self.left() {
            return Err(self.truncated());
        }
        self.fill()?;
        if let Some(bytes) = self.window[self.used..].first_chunk::<512>() {
            sector = *bytes;
            self.consume(sector.len());
        } else {
            sector.copy_from_slice(&self.take(SECTOR)?);
        }
        Ok(sector)
    }

    /// Takes the next bytes.
    fn take(&mut self, count: u64) -> Result<Vec<u8>, PortError> {
        if count > self.left() {
            return Err(self.truncated());
        }
        let count = usize::try_from(count).expect("only small parts are taken");
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            if !self.fill()? {
                return Err(self.truncated());
            }
            let now = (count - bytes.len()).min(self.window.len() - self.used);
            bytes.extend_from_slice(&self.window[self.used..self.used + now]);
            self.consume(now);
        }
        Ok(bytes)
    }

    /// Passes over bytes; they are hashed like all others.
    fn skip(&mut self, count: u64) -> Result<(), PortError> {
        if count > self.left() {
            return Err(self.truncated());
        }
        let end = self.at + count;
        while self.at < end {
            if !self.fill()? {
                return Err(self.truncated());
            }
            let now = self.window.len() - self.used;
            self.consume(usize::try_from(end - self.at).map_or(now, |rest| rest.min(now)));
        }
        Ok(())
    }

    fn left(&self) -> u64 {
        self.length.map_or(u64::MAX, |length| length.saturating_sub(self.at))
    }

    fn consume(&mut self, count: usize) {
        if let Some(hash) = &mut self.hash {
            hash.update(&self.window[self.used..self.used + count]);
        }
        self.used += count;
        self.at += u64::try_from(count).expect("lengths fit 64 bits");
    }

    /// Makes the window hold something; returns whether anything was left.
    fn fill(&mut self) -> Result<bool, PortError> {
        if self.used < self.window.len() {
            return Ok(true);
        }
        if self.left() == 0 {
            return Ok(false);
        }
        let most = usize::try_from(self.left()).map_or(WINDOW_BYTES, |left| left.min(WINDOW_BYTES));
        self.window.resize(most, 0);
        self.used = 0;
        let read = self.supply.read(self.at, &mut self.window);
        self.window.truncate(*read.as_ref().unwrap_or(&0));
        if read? == 0 {
            self.length = Some(self.at);
        }
        Ok(!self.window.is_empty())
    }

    /// An error about the image; `at` counts from the start of the stored disk.
    fn refused(&self, at: u64, why: String) -> PortError {
        let of = self.length.map(|length| format!(" of {length}")).unwrap_or_default();
        PortError::lasting(
            format!(
                "cannot read disk {} in {} at byte {at}{of}: {why}",
                self.key,
                self.supply.shown()
            ),
            "compare the file with its checksums and export the VM again",
            Mend::Source,
        )
    }

    fn truncated(&self) -> PortError {
        self.refused(self.at, "it is truncated: it ends before its end marker".to_owned())
    }
}

impl BlockReader for Stream {
    fn next(&mut self) -> Result<Option<Piece>, PortError> {
        while !self.ended {
            if self.left() == 0 && self.tables_name_all()? {
                self.ended = true;
                break;
            }
            let place = self.at;
            let sector = self.sector()?;
            match marker(&sector).map_err(|why| self.refused(place, why))? {
                Marker::Grain { offset, size } => {
                    self.grains += 1;
                    return self.grain(&sector, offset, size).map(Some);
                }
                Marker::Metadata(bytes) => self.skip(bytes)?,
                Marker::End => self.ended = true,
            }
        }
        Ok(None)
    }

    fn position(&self) -> Result<Position, PortError> {
        let resume = Resume {
            at: self.at,
            capacity: self.capacity,
            grain: self.grain,
            grains: self.grains,
            ended: self.ended,
            hash: self.hash.as_ref().map(Running::state),
        };
        let resume = serde_json::to_string(&resume).expect("plain fields always serialize");
        Ok(Position { resume, read: Bytes(self.at) })
    }

    fn finish(&mut self) -> Result<bool, PortError> {
        let end = self.at.saturating_add(self.left().min(STEP_BYTES));
        while self.at < end && self.fill()? {
            let now = self.window.len() - self.used;
            self.consume(usize::try_from(end - self.at).map_or(now, |rest| rest.min(now)));
        }
        if self.left() > 0 {
            return Ok(false);
        }
        self.supply.unchanged()?;
        compare(&self.checksum, self.hash.take(), &self.key, self.supply.shown())?;
        Ok(true)
    }
}

/// A disk that is a part of a file.
pub(super) struct FilePart {
    confine: Confine,
    stored: StoredDisk,
    file: File,
}

impl FilePart {
    pub(super) fn open(confine: &Confine, stored: StoredDisk) -> Result<Self, PortError> {
        let file = confine.read(Path::new(&stored.path))?;
        let part = Self { confine: confine.clone(), stored, file };
        part.check_stamp(&part.file)?;
        let end = part.stored.offset.checked_add(part.stored.length);
        if end.is_none_or(|end| end > part.stored.stamp.size) {
            return Err(PortError::lasting(
                format!("the place of a disk lies outside of the file {}", part.stored.path),
                "compare the file with its checksums and export the VM again",
                Mend::Source,
            ));
        }
        Ok(part)
    }

    fn check_stamp(&self, file: &File) -> Result<(), PortError> {
        let metadata = file.metadata().map_err(|error| {
            PortError::passing(
                format!("cannot look at {}: {error}", self.stored.path),
                "look at the kernel's log for errors of the storage",
            )
        })?;
        let mtime_ns =
            metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        let stamp = Stamp { inode: metadata.ino(), size: metadata.len(), mtime_ns };
        if stamp == self.stored.stamp { Ok(()) } else { Err(replaced(&self.stored.path)) }
    }

    fn unread(&self, place: u64, error: &io::Error) -> PortError {
        PortError::passing(
            format!("cannot read {} at byte {place}: {error}", self.stored.path),
            "look at the kernel's log for errors of the storage",
        )
    }
}

impl Supply for FilePart {
    fn shown(&self) -> &str {
        &self.stored.path
    }

    fn length(&self) -> Option<u64> {
        Some(self.stored.length)
    }

    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, PortError> {
        let place = self.stored.offset + at;
        loop {
            match self.file.read_at(buffer, place) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(replaced(&self.stored.path)),
                Ok(read) => return Ok(read),
                Err(error) => return Err(self.unread(place, &error)),
            }
        }
    }

    fn look_back(&self, at: u64, buffer: &mut [u8]) -> Result<bool, PortError> {
        let place = self.stored.offset + at;
        let read = self.file.read_exact_at(buffer, place);
        read.map(|()| true).map_err(|error| self.unread(place, &error))
    }

    fn unchanged(&self) -> Result<(), PortError> {
        self.check_stamp(&self.file)?;
        let now = self.confine.read(Path::new(&self.stored.path));
        self.check_stamp(&now.map_err(|_| replaced(&self.stored.path))?)
    }
}

/// Compares what was hashed of a stored disk with what its manifest says.
pub(super) fn compare(
    stated: &Checksum,
    hash: Option<Running>,
    key: &DiskKey,
    path: &str,
) -> Result<(), PortError> {
    let Some((method, expected)) = stated.stated() else { return Ok(()) };
    let found = hash.map(Running::finish).unwrap_or_default();
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(PortError::lasting(
        format!(
            "disk {key} in {path} is not what was exported: its {method} is {found}, the manifest says {expected}"
        ),
        "transfer the archive again, or export the VM again",
        Mend::Source,
    ))
}

/// Says that a file is not the one that was observed.
pub(super) fn replaced(path: &str) -> PortError {
    PortError::lasting(
        format!("{path} was replaced during the copy"),
        "leave the archive alone until its VMs are migrated; the new file is another source",
        Mend::Source,
    )
}

#[cfg(test)]
mod tests;
