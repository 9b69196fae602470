//! Virtual disks: raw sparse files, shared between a disk and its snapshots until the disk is written, and what changed when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::SeekFrom;

use super::scenario::{DiskBacking, DiskMode, Fill, Rdm};
use super::value::Ref;

/// The unit in which changes are tracked and content is made.
pub(super) const BLOCK: u64 = 64 << 10;

/// The content of a disk at some time. The file goes with the last that holds it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) capacity: u64,
}

impl Drop for Content {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Content {
    /// Returns the ranges that hold data, ends clipped to the capacity.
    pub(super) fn allocated(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < self.capacity {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?.min(self.capacity);
            ranges.push((start, end));
            at = end;
        }
        Ok(ranges)
    }
}

/// The folder of the raw files.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    made: u64,
    /// Disks without content, by capacity.
    blank: BTreeMap<u64, Arc<Content>>,
}

impl Store {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder.join("disks"))?;
        Ok(Self { folder: folder.to_owned(), made: 0, blank: BTreeMap::new() })
    }

    /// Returns a disk of zeros.
    pub(super) fn blank(&mut self, capacity: u64) -> io::Result<Arc<Content>> {
        if let Some(content) = self.blank.get(&capacity) {
            return Ok(content.clone());
        }
        let content = Arc::new(self.make(capacity)?);
        self.blank.insert(capacity, content.clone());
        Ok(content)
    }

    /// Returns a disk with what a seed makes.
    pub(super) fn filled(&mut self, capacity: u64, fill: Fill) -> io::Result<Arc<Content>> {
        let content = self.make(capacity)?;
        let mut piece = vec![0; usize::try_from(BLOCK).expect("it is small")];
        for block in 0..capacity.div_ceil(BLOCK) {
            if fill_piece(fill, block, &mut piece) {
                let at = block * BLOCK;
                let length = usize::try_from((capacity - at).min(BLOCK)).expect("it is small");
                content.file.write_all_at(&piece[..length], at)?;
            }
        }
        Ok(Arc::new(content))
    }

    /// Returns a disk with the content of a raw file.
    pub(super) fn image(&mut self, image: &Path, capacity: u64) -> io::Result<Arc<Content>> {
        let file = File::open(image)?;
        let length = file.metadata()?.len().min(capacity);
        let content = self.make(capacity)?;
        copy(&file, length, &content.file)?;
        Ok(Arc::new(content))
    }

    /// Makes content that nobody else holds, so that it can be written.
    fn owned(&mut self, content: &mut Arc<Content>) -> io::Result<()> {
        if Arc::strong_count(content) > 1 {
            let own = self.make(content.capacity)?;
            copy(&content.file, content.capacity, &own.file)?;
            *content = Arc::new(own);
        }
        Ok(())
    }

    /// Returns a larger one with the same content.
    fn grown(&mut self, content: &Content, capacity: u64) -> io::Result<Arc<Content>> {
        let grown = self.make(capacity)?;
        copy(&content.file, content.capacity, &grown.file)?;
        Ok(Arc::new(grown))
    }

    fn make(&mut self, capacity: u64) -> io::Result<Content> {
        let path = self.folder.join("disks").join(format!("{}.raw", self.made));
        self.made += 1;
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.set_len(capacity)?;
        Ok(Content { path, file, capacity })
    }
}

/// Copies a file and leaves its holes.
fn copy(from: &File, length: u64, to: &File) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(length);
        at = start;
        while at < end {
            let piece = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            from.read_exact_at(&mut buffer[..piece], at)?;
            to.write_all_at(&buffer[..piece], at)?;
            at += u64::try_from(piece).expect("it fits");
        }
    }
    Ok(())
}

/// Makes the content of a block, half of it compressible; false = it is a hole.
fn fill_piece(fill: Fill, block: u64, piece: &mut [u8]) -> bool {
    let mut state =
        fill.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block.wrapping_mul(0xd134_2543_de82_ef95);
    let mut next = || {
        // SplitMix64: equal seeds make equal bytes on every machine.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    if next() % 100 >= u64::from(fill.allocated) {
        return false;
    }
    let half = piece.len() / 2;
    for word in piece[..half].chunks_exact_mut(8) {
        word.copy_from_slice(&next().to_le_bytes());
    }
    let byte = next().to_le_bytes()[0] | 1;
    piece[half..].fill(byte);
    true
}

/// Changed block tracking of one disk.
#[derive(Clone, Debug)]
pub(super) struct Tracking {
    /// Names this tracking; another one knows nothing of the changes of this.
    pub(super) uuid: String,
    /// Counts snapshots.
    pub(super) sequence: u64,
    /// The blocks that were written after the snapshot of each number.
    pub(super) written: BTreeMap<u64, BTreeSet<u64>>,
}

impl Tracking {
    pub(super) fn begin(uuid: String) -> Self {
        Self { uuid, sequence: 1, written: BTreeMap::new() }
    }

    pub(super) fn change_id(&self) -> String {
        format!("{}/{}", self.uuid, self.sequence)
    }
}

/// A virtual disk, of a VM or as a snapshot keeps it.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) key: u32,
    pub(super) controller_key: u32,
    pub(super) unit: u32,
    pub(super) capacity: u64,
    pub(super) datastore: Ref,
    pub(super) datastore_name: String,
    /// Its file on the datastore without the ending, `web01/web01`.
    pub(super) base: String,
    /// The number of its delta file; 0 = the base.
    pub(super) delta: u32,
    pub(super) uuid: String,
    pub(super) thin: bool,
    pub(super) mode: DiskMode,
    pub(super) multi_writer: bool,
    pub(super) backing: DiskBacking,
    pub(super) rdm: Option<Rdm>,
    pub(super) content: Arc<Content>,
    /// Only while it is tracked.
    pub(super) tracking: Option<Tracking>,
}

impl Disk {
    /// Returns the path on its datastore.
    pub(super) fn path(&self) -> String {
        match self.delta {
            0 => format!("{}.vmdk", self.base),
            delta => format!("{}-{delta:06}.vmdk", self.base),
        }
    }

    /// Returns the path as the API says it.
    pub(super) fn file_name(&self) -> String {
        format!("[{}] {}", self.datastore_name, self.path())
    }

    /// Tells whether snapshots hold it.
    pub(super) fn has_snapshots(&self) -> bool {
        self.rdm != Some(Rdm::Physical)
            && match self.mode {
                DiskMode::Persistent | DiskMode::NonPersistent => true,
                DiskMode::IndependentPersistent | DiskMode::IndependentNonPersistent => false,
            }
    }

    /// Tells whether its changes can be tracked.
    pub(super) fn can_be_tracked(&self) -> bool {
        self.has_snapshots() && !self.multi_writer && self.backing != DiskBacking::FlatVer1
    }

    /// Writes as the guest does.
    pub(super) fn write(&mut self, store: &mut Store, at: u64, bytes: &[u8]) -> io::Result<()> {
        let length = u64::try_from(bytes.len()).expect("it fits");
        if at.checked_add(length).is_none_or(|end| end > self.capacity) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it ends behind the disk"));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        store.owned(&mut self.content)?;
        self.content.file.write_all_at(bytes, at)?;
        if let Some(tracking) = &mut self.tracking {
            let blocks = at / BLOCK..=(at + length - 1) / BLOCK;
            tracking.written.entry(tracking.sequence).or_default().extend(blocks);
        }
        Ok(())
    }

    /// Becomes larger.
    pub(super) fn grow(&mut self, store: &mut Store, capacity: u64) -> io::Result<()> {
        if capacity < self.capacity || !capacity.is_multiple_of(512) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "disks only grow, by sectors"));
        }
        self.content = store.grown(&self.content, capacity)?;
        self.capacity = capacity;
        Ok(())
    }

    /// Returns what a snapshot keeps of it, and goes on in a delta file.
    pub(super) fn freeze(&mut self, delta: u32) -> Self {
        if let Some(tracking) = &mut self.tracking {
            tracking.sequence += 1;
        }
        let mut frozen = self.clone();
        if let Some(tracking) = &mut frozen.tracking {
            tracking.written.clear();
        }
        if self.has_snapshots() {
            self.delta = delta;
        }
        frozen
    }
}
