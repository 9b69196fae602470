//! A raw, sparse file and `FILE.map`, the block map beside it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{
    Advice, FallocateFlags, OFlags, SeekFrom, fadvise, fallocate, fdatasync, fsync, seek,
};
use rustix::io::Errno;

use crate::adapter::confine::Confine;
use crate::adapter::location::LocalDisk;
use crate::adapter::lock::lock;
use crate::domain::unit::Bytes;
use crate::journal::record::{Disposition, Mend};
use crate::port::{BlockWriter, PortError};

/// How many zeros are written at once where holes cannot be punched.
const ZEROS_BYTES: usize = 1 << 20;

/// A raw disk, locked.
pub(super) struct RawDisk {
    path: PathBuf,
    disk: File,
    map_path: PathBuf,
    map: File,
    /// A sync failed: what was written before may be lost, and a sync that succeeds now would hide it.
    failed: AtomicBool,
}

impl RawDisk {
    /// Opens and locks a disk and its map. The disk must stand there; the map is made.
    pub(super) fn open(
        confine: &Confine,
        disk: &LocalDisk,
        lock_wait: Duration,
    ) -> Result<Self, PortError> {
        Self::at(confine, path_of(disk), lock_wait)
    }

    /// Opens and locks the disk at a path, and `PATH.map` beside it.
    pub(super) fn at(
        confine: &Confine,
        path: PathBuf,
        lock_wait: Duration,
    ) -> Result<Self, PortError> {
        let file =
            regular(File::from(confine.open(&path, OFlags::RDWR | OFlags::NONBLOCK)?), &path)?;
        lock(&file, &path, lock_wait)?;
        let mut map_path = path.clone().into_os_string();
        map_path.push(".map");
        let map_path = PathBuf::from(map_path);
        let map = confine.open(&map_path, OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK)?;
        let map = regular(File::from(map), &map_path)?;
        lock(&map, &map_path, lock_wait)?;
        if let Some(folder) = path.parent() {
            let opened = confine.open(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
            fsync(&opened).map_err(|error| failed("sync", folder, None, error.into()))?;
        }
        Ok(Self { path, disk: file, map_path, map, failed: AtomicBool::new(false) })
    }
}

impl BlockWriter for RawDisk {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        write_all(&self.disk, &self.path, offset, bytes)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), PortError> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match fallocate(&self.disk, punch, offset, length) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
                Err(error) => {
                    return Err(failed(
                        "punch a hole into",
                        &self.path,
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
            write_all(&self.disk, &self.path, at, &zeros[..piece])?;
        }
        Ok(())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let read = self.disk.read_exact_at(buffer, offset);
        read.map_err(|error| failed("read", &self.path, Some(offset), error))
    }

    fn is_hole(&self, offset: u64, length: u64) -> Result<bool, PortError> {
        match seek(&self.disk, SeekFrom::Data(offset)) {
            Ok(data) if data < offset + length => Ok(false),
            // A hole that the file ends within is none: the disk is shorter than it should be, which reading finds out.
            Ok(_) | Err(Errno::NXIO) => {
                let metadata = self.disk.metadata();
                let metadata =
                    metadata.map_err(|error| failed("look at", &self.path, None, error))?;
                Ok(metadata.len() >= offset + length)
            }
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(failed("read", &self.path, Some(offset), error.into())),
        }
    }

    fn read_map(&self) -> Result<Vec<u8>, PortError> {
        let failed = |error| failed("read", &self.map_path, None, error);
        let length = self.map.metadata().map_err(failed)?.len();
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.map.read_exact_at(&mut bytes, 0).map_err(failed)?;
        Ok(bytes)
    }

    fn write_map(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        write_all(&self.map, &self.map_path, offset, bytes)
    }

    fn sync(&self) -> Result<(), PortError> {
        let files = [(&self.disk, &self.path), (&self.map, &self.map_path)];
        if self.failed.load(Ordering::SeqCst) {
            let lost = io::Error::other("an earlier sync failed");
            return Err(failed("sync", &self.path, None, lost));
        }
        for (file, path) in files {
            fdatasync(file).map_err(|error| {
                self.failed.store(true, Ordering::SeqCst);
                failed("sync", path, None, error.into())
            })?;
        }
        // What is durable leaves the page cache to the guests; reading it again then reads the storage. Only advice.
        let _ = fadvise(&self.disk, 0, None, Advice::DontNeed);
        Ok(())
    }
}

/// Finds the disk in the area that it was made in, or in the VM that the area became.
fn path_of(disk: &LocalDisk) -> PathBuf {
    let LocalDisk { folder, area, name, file } = disk;
    let folder = Path::new(folder);
    let made = folder.join(format!(".ferry-{area}")).join(file);
    if fs::symlink_metadata(&made).is_ok() { made } else { folder.join(name.as_str()).join(file) }
}

fn regular(file: File, path: &Path) -> Result<File, PortError> {
    let metadata = file.metadata().map_err(|error| failed("look at", path, None, error))?;
    if metadata.is_file() {
        return Ok(file);
    }
    Err(PortError::lasting(
        format!("{} is no regular file", path.display()),
        "something else wrote into the target's folder: move it away and migrate the VM again",
        Mend::Person,
    ))
}

fn write_all(file: &File, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
    file.write_all_at(bytes, offset).map_err(|error| {
        let mut error = failed("write", path, Some(offset), error);
        if let Disposition::Stall(Mend::Space(need)) = &mut error.fault.disposition {
            need.0 = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        }
        error
    })
}

pub(super) fn failed(what: &str, path: &Path, offset: Option<u64>, error: io::Error) -> PortError {
    let place = offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
    let text = format!("cannot {what} {}{place}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            PortError::lasting(text, "make room on the target's file system", Mend::Space(Bytes(0)))
        }
        io::ErrorKind::FileTooLarge => PortError::lasting(
            text,
            "raise the process's limit on file sizes, or use a file system with larger files",
            Mend::Person,
        ),
        io::ErrorKind::UnexpectedEof => PortError::lasting(
            text,
            "the target's disk became shorter: migrate the VM again",
            Mend::Person,
        ),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            PortError::lasting(text, "let ferry's user write to the target's folder", Mend::Target)
        }
        _ => PortError::passing(text, "look at the kernel's log for errors of the storage"),
    }
}

#[cfg(test)]
mod tests;
