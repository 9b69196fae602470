//! A raw disk: a sparse file, or a block device, with its block map.

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::adapter::confine::Confine;
use crate::adapter::image::locked::{LockedDisk, failed};
use crate::port::{BlockWriter, PortError};

/// How many zeros are written at once where holes cannot be punched.
const ZEROS_BYTES: usize = 1 << 20;

/// How a range becomes zeros without being written: as a hole, else so that the storage does it.
const ZEROING: [FallocateFlags; 2] = [
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
    FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
];

/// A raw disk, locked.
pub(super) struct RawDisk {
    files: LockedDisk,
}

impl RawDisk {
    /// Opens and locks the disk at a path, and `PATH.map` beside it. The disk must stand there; the map is made.
    pub(super) fn open(
        confine: &Confine,
        path: PathBuf,
        lock_wait: Duration,
    ) -> Result<Self, PortError> {
        Ok(Self { files: LockedDisk::open(confine, path, lock_wait)? })
    }

    /// Opens and locks a block device that nothing else uses. Its map lies elsewhere, and is made.
    pub(super) fn open_device(
        confine: &Confine,
        path: PathBuf,
        map: PathBuf,
        lock_wait: Duration,
    ) -> Result<Self, PortError> {
        Ok(Self { files: LockedDisk::open_device(confine, path, map, lock_wait)? })
    }
}

impl BlockWriter for RawDisk {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        self.files.write(offset, bytes)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), PortError> {
        for way in ZEROING {
            loop {
                match fallocate(self.files.disk(), way, offset, length) {
                    Ok(()) => return Ok(()),
                    Err(Errno::INTR) => {}
                    // Devices refuse what is no multiple of their blocks.
                    Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => break,
                    Err(error) => {
                        let path = self.files.path();
                        return Err(failed("zero", path, Some(offset), error.into()));
                    }
                }
            }
        }
        let zeros = vec![0; ZEROS_BYTES];
        let end = offset + length;
        for at in (offset..end).step_by(ZEROS_BYTES) {
            let piece = usize::try_from(end - at).map_or(ZEROS_BYTES, |rest| rest.min(ZEROS_BYTES));
            self.files.write(at, &zeros[..piece])?;
        }
        Ok(())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        self.files.read(offset, buffer)
    }

    fn is_hole(&self, offset: u64, length: u64) -> Result<bool, PortError> {
        match seek(self.files.disk(), SeekFrom::Data(offset)) {
            Ok(data) if data < offset + length => Ok(false),
            // A hole that the file ends within is none: the disk is shorter than it should be, which reading finds out.
            Ok(_) | Err(Errno::NXIO) => Ok(self.files.length()? >= offset + length),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(failed("read", self.files.path(), Some(offset), error.into())),
        }
    }

    fn read_map(&self) -> Result<Vec<u8>, PortError> {
        self.files.read_map()
    }

    fn write_map(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        self.files.write_map(offset, bytes)
    }

    fn sync(&self) -> Result<(), PortError> {
        self.files.sync()
    }
}

#[cfg(test)]
mod tests;
