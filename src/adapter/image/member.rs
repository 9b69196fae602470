//! Reads an image of an export at any place: a member of an archive, or a file beside a descriptor.
//!
//! # Guarantees
//!
//! - The file is the one that was observed when it is opened and when it is finished, over all resumed copies.
//! - Its format is told by the export's descriptor, never guessed, and no second file is opened (safety rule 24).
//! - Where the manifest states a checksum, it is compared before the disk counts as read. The checksum is that of the stored
//!   bytes, which a copy neither reads in their order nor all of them: they are read a second time, from first to last, in
//!   step with the copy, so that most of them are still in memory. The state of the checksum travels in the position.
//!
//! # Assumptions
//!
//! A storage returns the same bytes twice as long as inode, size and time of the file stay: the bytes that are hashed are not
//! the very ones that are copied.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::adapter::checksum::Running;
use crate::adapter::confine::Confine;
use crate::adapter::image::descriptor::one_file;
use crate::adapter::image::files::{Format, known, planned};
use crate::adapter::image::flat;
use crate::adapter::image::qcow2::Qcow2;
use crate::adapter::image::stream::{STEP_BYTES, compare, replaced};
use crate::adapter::location::MemberDisk;
use crate::adapter::ova::package::stamp;
use crate::copy::plan::Planned;
use crate::domain::id::DiskKey;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Disk};
use crate::journal::record::Mend;
use crate::port::{BlockReader, Blocks, Piece, PortError, Position};

/// How much is read at once to be hashed.
const BUFFER_BYTES: u64 = 1 << 20;

/// The reader.
pub(super) struct Member {
    confine: Confine,
    key: DiskKey,
    disk: MemberDisk,
    checksum: Checksum,
    file: File,
    planned: Planned,
    /// What the guest sees.
    capacity: u64,
    hash: Option<Running>,
    /// How many stored bytes are hashed.
    hashed: u64,
    buffer: Vec<u8>,
}

/// Where a reader goes on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    /// The position in the disk.
    place: String,
    /// How many stored bytes are hashed.
    hashed: u64,
    /// The state of the checksum over them, in hexadecimal.
    hash: Option<String>,
}

/// Opens an image in an open file as far as it must be whole to be read, and returns what the guest sees of it. An error calls
/// it by the path `shown`.
pub(in crate::adapter) fn capacity(
    file: &File,
    disk: &MemberDisk,
    shown: PathBuf,
) -> Result<Bytes, PortError> {
    Ok(Bytes(blocks(file, disk, shown)?.size()))
}

fn blocks(file: &File, disk: &MemberDisk, shown: PathBuf) -> Result<Arc<dyn Blocks>, PortError> {
    let file = file.try_clone().map_err(|error| {
        PortError::passing(
            format!("cannot open {} twice: {error}", shown.display()),
            "raise the limit on open files, or move fewer VMs at once",
        )
    })?;
    let format = known(&disk.format, &shown)?;
    let image = flat::part(file, &disk.stored, shown)?;
    Ok(match format {
        Format::Raw => Arc::new(image),
        Format::Qcow2 => Arc::new(Qcow2::of(image)?),
        Format::Vmdk => Arc::new(one_file(image)?),
    })
}

impl Member {
    pub(super) fn open(
        confine: &Confine,
        disk: &Disk,
        member: MemberDisk,
        resume: Option<&str>,
    ) -> Result<Self, PortError> {
        let file = opened(confine, &member)?;
        let blocks = blocks(&file, &member, member.shown())?;
        let capacity = blocks.size();
        if capacity != disk.capacity.0 {
            return Err(PortError::lasting(
                format!(
                    "{} holds a disk of {capacity} bytes, the VM's description says {}",
                    member.shown().display(),
                    disk.capacity.0
                ),
                "the journal is damaged: start a new attempt with a new Migration",
                Mend::Person,
            ));
        }
        let damaged = |why: &str| {
            PortError::lasting(
                format!("cannot go on with disk {}: its checkpoint {why}", disk.key),
                "the journal is damaged: start a new attempt with a new Migration",
                Mend::Person,
            )
        };
        let resume: Option<Resume> = resume
            .map(serde_json::from_str)
            .transpose()
            .map_err(|error| damaged(&format!("is unreadable: {error}")))?;
        let (mut hash, mut hashed) = (Running::of(&disk.checksum), 0);
        if let (Some(fresh), Some(Resume { place: _, hashed: count, hash: state })) =
            (&hash, &resume)
        {
            let state = state.as_deref().and_then(|state| fresh.resumed(state));
            let state = state.filter(|_| *count <= member.stored.length);
            hash = Some(state.ok_or_else(|| damaged("holds no state of its checksum"))?);
            hashed = *count;
        }
        let place = resume.as_ref().map(|resume| resume.place.as_str());
        Ok(Self {
            confine: confine.clone(),
            key: disk.key.clone(),
            checksum: disk.checksum.clone(),
            planned: planned(blocks, place)?,
            disk: member,
            file,
            capacity,
            hash,
            hashed,
            buffer: Vec::new(),
        })
    }

    /// Hashes on, up to a place in the stored bytes.
    fn hash_to(&mut self, end: u64) -> Result<(), PortError> {
        let Some(hash) = &mut self.hash else { return Ok(()) };
        while self.hashed < end {
            let count = BUFFER_BYTES.min(end - self.hashed);
            self.buffer.resize(usize::try_from(count).expect("at most 1 MiB"), 0);
            let read = self.file.read_exact_at(
                &mut self.buffer,
                self.disk.stored.offset.saturating_add(self.hashed),
            );
            read.map_err(|error| unreadable(&self.disk, self.hashed, &error))?;
            hash.update(&self.buffer);
            self.hashed += count;
        }
        Ok(())
    }

    /// Returns the place in the stored bytes that lies as far along as a place of the disk.
    fn beside(&self, at: u64) -> u64 {
        let place =
            u128::from(self.disk.stored.length) * u128::from(at) / u128::from(self.capacity.max(1));
        u64::try_from(place).map_or(self.disk.stored.length, |it| it.min(self.disk.stored.length))
    }
}

/// Opens the file of an image, which must be what it was when it was observed.
fn opened(confine: &Confine, disk: &MemberDisk) -> Result<File, PortError> {
    // Without NONBLOCK a pipe of this name would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let file = File::from(confine.open(Path::new(&disk.stored.path), flags)?);
    check_stamp(&file, disk)?;
    Ok(file)
}

fn check_stamp(file: &File, disk: &MemberDisk) -> Result<(), PortError> {
    let now = stamp(file).map_err(|error| unreadable(disk, 0, &error))?;
    if now == disk.stored.stamp { Ok(()) } else { Err(replaced(&disk.stored.path)) }
}

fn unreadable(disk: &MemberDisk, at: u64, error: &io::Error) -> PortError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return replaced(&disk.stored.path);
    }
    PortError::passing(
        format!("cannot read {} at byte {at}: {error}", disk.shown().display()),
        "look at the kernel's log for errors of the storage",
    )
}

impl BlockReader for Member {
    fn next(&mut self) -> Result<Option<Piece>, PortError> {
        let piece = self.planned.next()?;
        if let Some(Piece { offset, length, .. }) = &piece {
            let due = self.beside(offset + u64::from(*length));
            self.hash_to(due.min(self.hashed + STEP_BYTES))?;
        }
        Ok(piece)
    }

    fn blocks(&self) -> Option<Arc<dyn Blocks>> {
        self.planned.blocks()
    }

    fn position(&self) -> Result<Position, PortError> {
        let Position { resume: place, read } = self.planned.position()?;
        let hash = self.hash.as_ref().map(Running::state);
        let resume = Resume { place, hashed: self.hashed, hash };
        let resume = serde_json::to_string(&resume).expect("plain fields always serialize");
        Ok(Position { resume, read })
    }

    fn finish(&mut self) -> Result<bool, PortError> {
        let end = self.disk.stored.length;
        self.hash_to(end.min(self.hashed + STEP_BYTES))?;
        if self.hash.is_some() && self.hashed < end {
            return Ok(false);
        }
        check_stamp(&self.file, &self.disk)?;
        let path = &self.disk.stored.path;
        opened(&self.confine, &self.disk).map_err(|_| replaced(path))?;
        compare(&self.checksum, self.hash.take(), &self.key, path)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
