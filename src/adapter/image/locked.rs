//! A disk's file and `FILE.map`, the block map beside it: opened, locked, written and synced together.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Advice, OFlags, SeekFrom, fadvise, fdatasync, fsync, seek};

use crate::adapter::confine::Confine;
use crate::adapter::lock::lock;
use crate::domain::unit::Bytes;
use crate::journal::record::{Disposition, Mend};
use crate::port::PortError;

/// How much is written before the storage is told to begin with it. Else it idles until a checkpoint, and everything else then
/// waits for it.
const BEHIND_BYTES: u64 = 8 << 20;

/// Both files, locked until this is dropped.
pub(super) struct LockedDisk {
    path: PathBuf,
    disk: File,
    map_path: PathBuf,
    map: File,
    /// A sync failed: what was written before may be lost, and a sync that succeeds now would hide it.
    failed: AtomicBool,
    /// What was written since the storage was told to begin.
    behind: AtomicU64,
    /// What was done to the disk, where a test wants to lose a part of it.
    #[cfg(test)]
    pub(super) log: std::sync::Mutex<Option<Vec<Effect>>>,
}

/// What was done to a disk's file.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// Bytes were written; the storage may have them or not.
    Write(u64, Vec<u8>),
    /// Everything before is durable.
    Sync,
}

impl LockedDisk {
    /// Opens and locks a disk and its map. The disk must stand there; the map is made.
    pub(super) fn open(
        confine: &Confine,
        path: PathBuf,
        lock_wait: Duration,
    ) -> Result<Self, PortError> {
        let disk =
            regular(File::from(confine.open(&path, OFlags::RDWR | OFlags::NONBLOCK)?), &path)?;
        let mut map_path = path.clone().into_os_string();
        map_path.push(".map");
        Self::with_map(confine, path, disk, PathBuf::from(map_path), lock_wait)
    }

    /// Opens and locks a block device that nothing else uses, and its map, which is made, at a place of its own.
    pub(super) fn open_device(
        confine: &Confine,
        path: PathBuf,
        map_path: PathBuf,
        lock_wait: Duration,
    ) -> Result<Self, PortError> {
        // Of a device EXCL means that nobody may have mounted it, or hold it so.
        let flags = OFlags::RDWR | OFlags::EXCL | OFlags::NONBLOCK;
        let disk = File::from(confine.open(&path, flags)?);
        let metadata = disk.metadata().map_err(|error| failed("look at", &path, None, error))?;
        if !metadata.file_type().is_block_device() {
            return Err(PortError::lasting(
                format!("{} is no block device any more", path.display()),
                "look at what became of the device",
                Mend::Person,
            ));
        }
        Self::with_map(confine, path, disk, map_path, lock_wait)
    }

    fn with_map(
        confine: &Confine,
        path: PathBuf,
        disk: File,
        map_path: PathBuf,
        lock_wait: Duration,
    ) -> Result<Self, PortError> {
        lock(&disk, &path, lock_wait)?;
        let map = confine.open(&map_path, OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK)?;
        let map = regular(File::from(map), &map_path)?;
        lock(&map, &map_path, lock_wait)?;
        sync_folder(confine, &map_path)?;
        Ok(Self::of(path, disk, map_path, map))
    }

    /// Takes files that are open and locked.
    pub(super) fn of(path: PathBuf, disk: File, map_path: PathBuf, map: File) -> Self {
        Self {
            path,
            disk,
            map_path,
            map,
            failed: AtomicBool::new(false),
            behind: AtomicU64::new(0),
            #[cfg(test)]
            log: std::sync::Mutex::new(None),
        }
    }

    /// Returns the disk's file, for what only its format does.
    pub(super) fn disk(&self) -> &File {
        &self.disk
    }

    /// Returns the disk's path, for what is said about it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how long the disk's file or device is.
    pub(super) fn length(&self) -> Result<u64, PortError> {
        seek(&self.disk, SeekFrom::End(0))
            .map_err(|error| failed("look at", &self.path, None, error.into()))
    }

    /// Writes all of the bytes to the disk's file.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        #[cfg(test)]
        self.logged(|| Effect::Write(offset, bytes.to_vec()));
        write_all(&self.disk, &self.path, offset, bytes)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.behind.fetch_add(length, Ordering::Relaxed) + length >= BEHIND_BYTES {
            self.behind.store(0, Ordering::Relaxed);
            // Linux begins to write what is dirty, without waiting for it, before it lets go of what is clean. Only advice.
            let _ = fadvise(&self.disk, 0, None, Advice::DontNeed);
        }
        Ok(())
    }

    /// Fills the buffer from the disk's file.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let read = self.disk.read_exact_at(buffer, offset);
        read.map_err(|error| failed("read", &self.path, Some(offset), error))
    }

    /// See [`crate::port::BlockWriter::read_map`].
    pub(super) fn read_map(&self) -> Result<Vec<u8>, PortError> {
        let failed = |error| failed("read", &self.map_path, None, error);
        let length = self.map.metadata().map_err(failed)?.len();
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.map.read_exact_at(&mut bytes, 0).map_err(failed)?;
        Ok(bytes)
    }

    /// See [`crate::port::BlockWriter::write_map`].
    pub(super) fn write_map(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        write_all(&self.map, &self.map_path, offset, bytes)
    }

    /// Returns when the disk's file is durable. Once it failed, it fails for ever.
    pub(super) fn sync_disk(&self) -> Result<(), PortError> {
        self.sync_file(&self.disk, &self.path)?;
        #[cfg(test)]
        self.logged(|| Effect::Sync);
        Ok(())
    }

    /// Returns when disk and map are durable. Once it failed, it fails for ever.
    pub(super) fn sync(&self) -> Result<(), PortError> {
        self.sync_disk()?;
        self.sync_file(&self.map, &self.map_path)?;
        // What is durable leaves the page cache to the guests; reading it again then reads the storage. Only advice.
        let _ = fadvise(&self.disk, 0, None, Advice::DontNeed);
        Ok(())
    }

    /// Fails after a sync that failed.
    pub(super) fn usable(&self) -> Result<(), PortError> {
        if self.failed.load(Ordering::SeqCst) {
            let lost = io::Error::other("an earlier sync failed");
            return Err(failed("sync", &self.path, None, lost));
        }
        Ok(())
    }

    /// Makes every later sync fail: a part of what belongs together may not be written.
    pub(super) fn give_up(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    fn sync_file(&self, file: &File, path: &Path) -> Result<(), PortError> {
        self.usable()?;
        fdatasync(file).map_err(|error| {
            self.give_up();
            failed("sync", path, None, error.into())
        })
    }

    #[cfg(test)]
    fn logged(&self, effect: impl FnOnce() -> Effect) {
        if let Some(log) = self.log.lock().unwrap().as_mut() {
            log.push(effect());
        }
    }
}

/// Makes a file's name durable.
pub(super) fn sync_folder(confine: &Confine, path: &Path) -> Result<(), PortError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let opened = confine.open(folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
    fsync(&opened).map_err(|error| failed("sync", folder, None, error.into()))
}

/// Refuses what is no regular file.
pub(super) fn regular(file: File, path: &Path) -> Result<File, PortError> {
    let metadata = file.metadata().map_err(|error| failed("look at", path, None, error))?;
    if metadata.is_file() {
        return Ok(file);
    }
    Err(PortError::lasting(
        format!("{} is no regular file", path.display()),
        "something else wrote into the target's folder: move it away and begin again",
        Mend::Person,
    ))
}

/// Writes all of the bytes; an error says how much room they need.
pub(super) fn write_all(
    file: &File,
    path: &Path,
    offset: u64,
    bytes: &[u8],
) -> Result<(), PortError> {
    file.write_all_at(bytes, offset).map_err(|error| {
        let mut error = failed("write", path, Some(offset), error);
        if let Disposition::Stall(Mend::Space(need)) = &mut error.fault.disposition {
            need.0 = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        }
        error
    })
}

/// Says what could not be done to which file, at which byte, and why.
pub(super) fn failed(what: &str, path: &Path, offset: Option<u64>, error: io::Error) -> PortError {
    let place = offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
    let text = format!("cannot {what} {}{place}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            PortError::lasting(text, "make room on the target's file system", Mend::Space(Bytes(0)))
        }
        io::ErrorKind::NotFound => PortError::lasting(
            text,
            "check the name, and that the file is still there",
            Mend::Person,
        ),
        io::ErrorKind::FileTooLarge => PortError::lasting(
            text,
            "raise the process's limit on file sizes, or use a file system with larger files",
            Mend::Person,
        ),
        io::ErrorKind::UnexpectedEof => {
            PortError::lasting(text, "the target's disk became shorter: begin again", Mend::Person)
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            PortError::lasting(text, "let ferry's user write to the target's folder", Mend::Target)
        }
        _ => PortError::passing(text, "look at the kernel's log for errors of the storage"),
    }
}
