//! A folder held open: everything in it is named by one component and reached through no symbolic link.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, fsync, mkdirat, openat2,
    renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use crate::adapter::confine::Confine;
use crate::journal::record::{Disposition, Mend};
use crate::port::PortError;

/// A folder.
#[derive(Debug)]
pub(in crate::adapter) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder below `allowPaths`.
    pub(in crate::adapter) fn open(confine: &Confine, path: &Path) -> Result<Self, PortError> {
        let fd = confine.open(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|mut error| {
            // What mends it is looked for at this end.
            if error.fault.disposition == Disposition::Stall(Mend::Source) {
                error.fault.disposition = Disposition::Stall(Mend::Target);
            }
            error
        })?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Returns the folder itself.
    pub(in crate::adapter) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Returns the path of something within.
    pub(in crate::adapter) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a folder within; `None` where nothing has that name, or something that is no folder.
    pub(in crate::adapter) fn enter(&self, name: &str) -> Result<Option<Self>, PortError> {
        match self.open_within(name, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => Ok(Some(Self { fd, path: self.at(name) })),
            // What may not be entered is not ours.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ACCESS) => {
                Ok(None)
            }
            Err(error) => Err(self.failed("open", name, error)),
        }
    }

    /// Makes a folder within, if it is not there yet.
    pub(in crate::adapter) fn make(&self, name: &str) -> Result<(), PortError> {
        match mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(self.failed("make", name, error)),
        }
    }

    /// Tells whether anything has that name.
    pub(in crate::adapter) fn has(&self, name: &str) -> Result<bool, PortError> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.failed("look at", name, error)),
        }
    }

    /// Opens a plain file within, to read and write it, or to make it. `None` where it is not there and not to be made.
    pub(in crate::adapter) fn file(
        &self,
        name: &str,
        make: OFlags,
    ) -> Result<Option<File>, PortError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | make;
        let file = match self.open_within(name, flags) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failed("open", name, error)),
        };
        let meta = file.metadata().map_err(|error| self.io("look at", name, &error))?;
        if meta.is_file() {
            return Ok(Some(file));
        }
        let text = format!("{} is no plain file", self.at(name).display());
        Err(PortError::lasting(text, "take it away", Mend::Person))
    }

    /// Reads a small file; `None` where it is not there, is no plain file or is larger than `limit`.
    pub(in crate::adapter) fn read(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, PortError> {
        let file = match self.open_within(name, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR) => return Ok(None),
            Err(error) => return Err(self.failed("open", name, error)),
        };
        let mut bytes = Vec::new();
        let meta = file.metadata().map_err(|error| self.io("read", name, &error))?;
        if !meta.is_file() || meta.len() > limit {
            return Ok(None);
        }
        file.take(limit).read_to_end(&mut bytes).map_err(|error| self.io("read", name, &error))?;
        Ok(Some(bytes))
    }

    /// Makes a small file hold these bytes, all or nothing, durably.
    pub(in crate::adapter) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), PortError> {
        let new = format!("{name}.new");
        let mut file = self
            .file(&new, OFlags::CREATE | OFlags::TRUNC)?
            .ok_or_else(|| self.failed("make", &new, Errno::NOENT))?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|error| self.io("write", &new, &error))?;
        renameat(&self.fd, &new, &self.fd, name)
            .map_err(|error| self.failed("make", name, error))?;
        self.sync()
    }

    /// Gives something within another name, durably; `false` where that name is taken.
    pub(in crate::adapter) fn rename(&self, from: &str, to: &str) -> Result<bool, PortError> {
        match renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            Ok(()) => self.sync().map(|()| true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(error) => Err(self.failed("rename", from, error)),
        }
    }

    /// Deletes a file or an empty folder; succeeds where it is gone already, and leaves a folder that is not empty.
    pub(in crate::adapter) fn delete(&self, name: &str, flags: AtFlags) -> Result<(), PortError> {
        match unlinkat(&self.fd, name, flags) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(error) => Err(self.failed("delete", name, error)),
        }
    }

    /// Returns when everything that was made, renamed and deleted within is durable.
    pub(in crate::adapter) fn sync(&self) -> Result<(), PortError> {
        fsync(&self.fd).map_err(|error| self.failed("write", ".", error))
    }

    /// Lists what is within; names that are no UTF-8 are left out: they are no names of VMs and nothing of ours.
    pub(in crate::adapter) fn names(&self) -> Result<Vec<(String, FileType)>, PortError> {
        let failed = |error| self.failed("list", ".", error);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push((name.to_owned(), entry.file_type())),
            }
        }
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(names)
    }

    /// Says what failed, and what to do about it.
    pub(in crate::adapter) fn io(&self, what: &str, name: &str, error: &io::Error) -> PortError {
        match Errno::from_io_error(error) {
            Some(errno) => self.failed(what, name, errno),
            None => PortError::passing(
                format!("cannot {what} {}: {error}", self.at(name).display()),
                "look at the machine's log",
            ),
        }
    }

    fn failed(&self, what: &str, name: &str, error: Errno) -> PortError {
        let text = format!("cannot {what} {}: {error}", self.at(name).display());
        match error {
            Errno::NOSPC | Errno::DQUOT => {
                let remedy = "free space below the target's folder, or raise the quota";
                // A folder and some small files; disks are sparse when they are made.
                PortError::lasting(text, remedy, Mend::Space(crate::domain::unit::Bytes::mib(1)))
            }
            Errno::FBIG => PortError::lasting(
                text,
                "use a file system that holds files of this size",
                Mend::Person,
            ),
            Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::LOOP | Errno::XDEV => {
                let remedy = "let ferry's user write there; symbolic links are not followed";
                PortError::lasting(text, remedy, Mend::Target)
            }
            _ => PortError::passing(text, "look at the machine's log and its disks"),
        }
    }

    fn open_within(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let create = flags.contains(OFlags::CREATE);
        let mode = if create { Mode::from_raw_mode(0o600) } else { Mode::empty() };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.fd, name, flags | OFlags::CLOEXEC, mode, resolve)
    }
}
