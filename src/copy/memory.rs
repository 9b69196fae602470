//! Disks in memory for tests: a source that is a script of pieces, and a target that loses at a crash what was not synced.

use std::sync::{Arc, Mutex, MutexGuard};

use libdeflater::{CompressionLvl, Compressor};

use crate::copy::protocol::DiskJob;
use crate::copy::tree::{BlockMap, LEAF_BYTES, LeafHash, is_zero};
use crate::domain::id::DiskKey;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Disk, DiskFormat, SourceDisk, TargetDisk};
use crate::journal::record::Mend;
use crate::port::{BlockReader, BlockWriter, Images, Piece, PortError, Position, Stored};

/// A source and a target.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<State>>);

#[derive(Default)]
pub(crate) struct State {
    pub(crate) capacity: u64,
    pub(crate) pieces: Vec<Piece>,
    /// What reads see, and what a crash leaves.
    pub(crate) seen: Image,
    pub(crate) durable: Image,
    unsynced: Vec<Change>,
    /// The pieces handed out, by their index, over all readers.
    pub(crate) read: Vec<usize>,
    /// So many more calls of the writer, and pieces, succeed.
    pub(crate) writes_left: Option<usize>,
    pub(crate) reads_left: Option<usize>,
    pub(crate) syncs: usize,
    pub(crate) sync_fails: bool,
    pub(crate) full: bool,
    pub(crate) finished: bool,
    /// So many parts of what a source has behind its pieces are left.
    pub(crate) rest: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Image {
    pub(crate) disk: Vec<u8>,
    pub(crate) map: Vec<u8>,
}

enum Change {
    Disk(u64, Vec<u8>),
    Map(u64, Vec<u8>),
}

impl Image {
    fn apply(&mut self, change: &Change) {
        let (bytes, offset, data) = match change {
            Change::Disk(offset, data) => (&mut self.disk, offset, data),
            Change::Map(offset, data) => (&mut self.map, offset, data),
        };
        let (start, end) = (index(*offset), index(*offset) + data.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(data);
    }
}

impl Memory {
    /// A target of a capacity that holds rubbish, and what the source returns of it.
    pub(crate) fn new(capacity: u64, pieces: Vec<Piece>) -> Self {
        let rubbish = Image { disk: vec![0xee; index(capacity)], map: vec![0xdd; 16] };
        let map = if capacity == 0 { Vec::new() } else { rubbish.map };
        let rubbish = Image { disk: rubbish.disk, map };
        Self(Arc::new(Mutex::new(State {
            capacity,
            pieces,
            seen: rubbish.clone(),
            durable: rubbish,
            ..State::default()
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn job(&self) -> DiskJob {
        DiskJob {
            disk: Disk {
                key: DiskKey::new("disk-1"),
                capacity: Bytes(self.lock().capacity),
                stored: None,
                format: DiskFormat::StreamOptimized,
                checksum: Checksum::Absent,
                source: SourceDisk("memory".to_owned()),
            },
            target: TargetDisk("memory".to_owned()),
            checkpoint: None,
            copied: None,
        }
    }
}

impl State {
    /// What the guest should see after the first pieces.
    pub(crate) fn expected(&self, pieces: usize) -> Vec<u8> {
        let mut disk = vec![0; index(self.capacity)];
        for piece in &self.pieces[..pieces] {
            disk[index(piece.offset)..][..index(piece.length.into())]
                .copy_from_slice(&plain(piece));
        }
        disk
    }

    /// Loses power: of what was not synced only what `keeps` says survives.
    pub(crate) fn crash(&mut self, mut keeps: impl FnMut() -> bool) {
        for change in std::mem::take(&mut self.unsynced) {
            if keeps() {
                self.durable.apply(&change);
            }
        }
        self.seen = self.durable.clone();
    }

    /// Tells what is missing of the first pieces on the durable image; nothing may be.
    pub(crate) fn missing(&self, pieces: usize) -> Option<String> {
        let map = BlockMap::parse(Bytes(self.capacity), &self.durable.map).unwrap();
        for piece in &self.pieces[..pieces] {
            let bytes = plain(piece);
            let durable = &self.durable.disk[index(piece.offset)..][..bytes.len()];
            if durable != bytes {
                return Some(format!("the data of byte {}", piece.offset));
            }
            for (leaf, bytes) in (piece.offset / LEAF_BYTES..).zip(bytes.chunks(64 << 10)) {
                if map.get(leaf) != (!is_zero(bytes)).then(|| LeafHash::of(bytes)) {
                    return Some(format!("the hash of leaf {leaf}"));
                }
            }
        }
        None
    }

    fn change(&mut self, change: Change) -> Result<(), PortError> {
        match &mut self.writes_left {
            Some(0) => return Err(power_lost()),
            Some(left) => *left -= 1,
            None => {}
        }
        if self.full && matches!(&change, Change::Disk(_, data) if !is_zero(data)) {
            return Err(PortError::lasting("full", "make room", Mend::Space(Bytes(0))));
        }
        self.seen.apply(&change);
        self.unsynced.push(change);
        Ok(())
    }
}

pub(crate) fn root_of(disk: &[u8]) -> String {
    let mut map = BlockMap::new(Bytes(u64::try_from(disk.len()).unwrap()));
    for (leaf, bytes) in (0..).zip(disk.chunks(64 << 10)) {
        map.set(leaf, (!is_zero(bytes)).then(|| LeafHash::of(bytes)));
    }
    map.root()
}

pub(crate) fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::fastest());
    let mut stored = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let length = compressor.zlib_compress(bytes, &mut stored).unwrap();
    stored.truncate(length);
    stored
}

pub(crate) fn power_lost() -> PortError {
    PortError::passing("power lost", "")
}

fn plain(piece: &Piece) -> Vec<u8> {
    let mut bytes = vec![0; index(piece.length.into())];
    match &piece.stored {
        Stored::Raw(raw) => bytes.clone_from(raw),
        Stored::Zlib(stored) => {
            let mut decompressor = libdeflater::Decompressor::new();
            decompressor.zlib_decompress(stored, &mut bytes).unwrap();
        }
        Stored::Zero | Stored::Unread => {}
    }
    bytes
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

struct Reader {
    memory: Memory,
    next: usize,
}

impl BlockReader for Reader {
    fn next(&mut self) -> Result<Option<Piece>, PortError> {
        let mut state = self.memory.lock();
        match &mut state.reads_left {
            Some(0) => return Err(power_lost()),
            Some(left) => *left -= 1,
            None => {}
        }
        let Some(piece) = state.pieces.get(self.next).cloned() else { return Ok(None) };
        state.read.push(self.next);
        self.next += 1;
        Ok(Some(piece))
    }

    fn position(&self) -> Result<Position, PortError> {
        let read = Bytes(u64::try_from(self.next).unwrap());
        Ok(Position { resume: self.next.to_string(), read })
    }

    fn finish(&mut self) -> Result<bool, PortError> {
        let mut state = self.memory.lock();
        state.finished = state.rest == 0;
        state.rest = state.rest.saturating_sub(1);
        Ok(state.finished)
    }
}

impl BlockWriter for Memory {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        self.lock().change(Change::Disk(offset, bytes.to_vec()))
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), PortError> {
        self.write(offset, &vec![0; index(length)])
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        buffer.copy_from_slice(&self.lock().seen.disk[index(offset)..][..buffer.len()]);
        Ok(())
    }

    fn read_map(&self) -> Result<Vec<u8>, PortError> {
        Ok(self.lock().seen.map.clone())
    }

    fn write_map(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        self.lock().change(Change::Map(offset, bytes.to_vec()))
    }

    fn sync(&self) -> Result<(), PortError> {
        let mut state = self.lock();
        state.syncs += 1;
        if state.sync_fails || state.writes_left == Some(0) {
            return Err(power_lost());
        }
        state.crash(|| true);
        Ok(())
    }
}

impl Images for Memory {
    fn reader(&self, _: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        let next = resume.map_or(0, |resume| resume.parse().unwrap());
        Ok(Box::new(Reader { memory: self.clone(), next }))
    }

    fn writer(&self, _: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError> {
        Ok(Box::new(self.clone()))
    }
}
