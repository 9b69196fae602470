//! A raw, sparse file and `FILE.map`, the block map beside it.

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::adapter::confine::Confine;
use crate::adapter::image::locked::{LockedDisk, failed};
use crate::port::{BlockWriter, PortError};

/// How many zeros are written at once where holes cannot be punched.
const ZEROS_BYTES: usize = 1 << 20;

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
}

impl BlockWriter for RawDisk {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        self.files.write(offset, bytes)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), PortError> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match fallocate(self.files.disk(), punch, offset, length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
                Err(error) => {
                    return Err(failed(
                        "punch a hole into",
                        self.files.path(),
                        Some(offset),
                        error.into(),
                    ));
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
