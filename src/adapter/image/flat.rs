//! Raw bytes: a file, a part of a file or a block device that holds a disk as the guest sees it, or an image that another
//! reader understands.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;

use crate::adapter::confine::Confine;
use crate::adapter::location::{Stamp, StoredDisk};
use crate::adapter::ova::package::stamp;
use crate::extent::{Content, Extent};
use crate::journal::record::Mend;
use crate::port::{Blocks, PortError};

/// How many extents one call tells at most: 96 KiB of them, and a call for each is still far cheaper than reading them.
pub(super) const EXTENTS_MAX: usize = 4096;

/// How many reads of a file are worth having on their way at once: enough to keep a disk busy.
pub(super) const IN_FLIGHT: usize = 4;

/// A disk whose bytes are those of a file, or of a part of one. All places count from where they begin.
#[derive(Debug)]
pub(super) struct RawImage {
    path: PathBuf,
    file: File,
    /// Where its first byte stands in the file.
    from: u64,
    size: u64,
    device: bool,
    identity: (u64, u64),
}

/// Opens a regular file or a block device. What it holds is never guessed at.
pub(super) fn open(confine: &Confine, path: &Path) -> Result<RawImage, PortError> {
    // Without NONBLOCK a pipe of this name would wait for its writer.
    let file = File::from(confine.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
    let metadata = file.metadata().map_err(|error| failed(path, 0, error))?;
    let kind = metadata.file_type();
    let size = if kind.is_file() {
        metadata.len()
    } else if kind.is_block_device() {
        seek(&file, SeekFrom::End(0)).map_err(|error| failed(path, 0, error.into()))?
    } else {
        return Err(PortError::lasting(
            format!("cannot read {}: it is no regular file and no block device", path.display()),
            "name the file or the block device that holds the disk",
            Mend::Source,
        ));
    };
    let identity = (metadata.dev(), metadata.ino());
    Ok(RawImage { path: path.to_owned(), file, from: 0, size, device: !kind.is_file(), identity })
}

/// Takes a part of an open regular file: what [`StoredDisk`] says of it. A person knows it by the path `shown`.
pub(super) fn part(file: File, stored: &StoredDisk, shown: PathBuf) -> Result<RawImage, PortError> {
    let metadata = file.metadata().map_err(|error| failed(&shown, 0, error))?;
    let StoredDisk { path: _, stamp: _, offset: from, length: size } = *stored;
    let identity = (metadata.dev(), metadata.ino());
    let part = RawImage { path: shown, file, from, size, device: false, identity };
    if from.checked_add(size).is_none_or(|end| end > metadata.len()) {
        let held = metadata.len().saturating_sub(from).min(size);
        return Err(part.damaged(held, "it goes past the end of the file that it lies in"));
    }
    Ok(part)
}

impl RawImage {
    /// Returns the path that it was opened by; of a part of a file, the one that a person knows it by.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether it is a block device.
    pub(super) fn is_device(&self) -> bool {
        self.device
    }

    /// Tells whether both are one file, by whatever names.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Says that a place in the file does not hold what it must.
    pub(super) fn damaged(&self, at: u64, why: impl std::fmt::Display) -> PortError {
        PortError::lasting(
            format!("cannot read {} at byte {at} of {}: {why}", self.path.display(), self.size),
            "compare the file with the one that it was copied from and copy it again",
            Mend::Source,
        )
    }

    /// Finds where data begins and ends at or behind a place; `None` where the file system does not tell.
    fn data(&self, at: u64, end: u64) -> Result<Option<(u64, u64)>, PortError> {
        let within = |place: u64| place.saturating_sub(self.from);
        let starts = match seek(&self.file, SeekFrom::Data(self.from + at)) {
            Ok(starts) => within(starts).clamp(at, end),
            // No data up to the file's end; but a hole that the file ends within is none.
            Err(Errno::NXIO) => {
                let metadata = self.file.metadata();
                let length = metadata.map_err(|error| failed(&self.path, at, error))?.len();
                let length = within(length);
                return if length < end { Err(self.shorter(length)) } else { Ok(Some((end, end))) };
            }
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
            Err(error) => return Err(failed(&self.path, at, error.into())),
        };
        if starts == end {
            return Ok(Some((end, end)));
        }
        match seek(&self.file, SeekFrom::Hole(self.from + starts)) {
            Ok(ends) if within(ends) > starts => Ok(Some((starts, within(ends).min(end)))),
            // Written or cut off between both calls: reading finds out.
            Ok(_) | Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(failed(&self.path, starts, error.into())),
        }
    }

    fn shorter(&self, at: u64) -> PortError {
        PortError::lasting(
            format!(
                "cannot read {} at byte {at}: it ends there, it had {} bytes when it was opened",
                self.path.display(),
                self.size
            ),
            "let nothing write to the image while it is read, and start again",
            Mend::Source,
        )
    }
}

impl Blocks for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn state(&self) -> Result<String, PortError> {
        let stamp = stamp(&self.file).map_err(|error| failed(&self.path, 0, error))?;
        let Stamp { inode, size, mtime_ns } = stamp;
        Ok(format!("inode {inode}, {size} bytes, written at {mtime_ns} ns"))
    }

    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        let end = end_within(offset, length, self.size);
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < EXTENTS_MAX {
            let (starts, ends) = self.data(at, end)?.unwrap_or((at, end));
            push(&mut extents, at, starts, Content::Zero);
            push(&mut extents, starts, ends, Content::Data);
            at = ends;
        }
        Ok(extents)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let length = u64::try_from(buffer.len()).expect("memory is below 16 EiB");
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(self.damaged(offset, format!("{length} bytes from there go past its end")));
        }
        self.file.read_exact_at(buffer, self.from + offset).map_err(|error| {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return failed(&self.path, offset, error);
            }
            match self.file.metadata() {
                Ok(metadata) if !self.device => {
                    self.shorter(metadata.len().saturating_sub(self.from))
                }
                _ => self.shorter(offset),
            }
        })
    }
}

/// Returns the end of a range that a caller asks for. That it lies on the disk is the caller's duty.
pub(super) fn end_within(offset: u64, length: u64, size: u64) -> u64 {
    let end = offset.checked_add(length).filter(|end| *end <= size);
    end.expect("callers ask for ranges of the disk only")
}

/// Adds a range behind the last extent, to it where both hold the same; an empty one adds nothing.
pub(super) fn push(extents: &mut Vec<Extent>, from: u64, to: u64, content: Content) {
    if from >= to {
        return;
    }
    match extents.last_mut() {
        Some(last) if last.content == content && last.end() == from => {
            last.length = to - last.offset;
        }
        _ => extents.push(Extent { offset: from, length: to - from, content }),
    }
}

fn failed(path: &Path, at: u64, error: io::Error) -> PortError {
    PortError::passing(
        format!("cannot read {} at byte {at}: {error}", path.display()),
        "look at the kernel's log for errors of the storage",
    )
}

#[cfg(test)]
mod tests;
