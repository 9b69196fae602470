//! Locks on files: open file descriptions own them (`F_OFD_SETLK`), so that a worker's lock goes with the worker, and a copy
//! in the same process is kept out as well.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::journal::record::Mend;
use crate::port::PortError;

/// How often a lock is tried again.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// Locks a file for this handle alone; waits so long for whoever holds it.
pub(super) fn lock(file: &File, path: &Path, wait: Duration) -> Result<(), PortError> {
    let mut waited = Duration::ZERO;
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole_file())) {
            Ok(_) => return Ok(()),
            Err(Errno::EACCES | Errno::EAGAIN) if waited < wait => {
                thread::sleep(TRY_EVERY);
                waited += TRY_EVERY;
            }
            Err(Errno::EACCES | Errno::EAGAIN) => {
                let holder = holder(file).unwrap_or_else(|| "another process".to_owned());
                return Err(PortError::passing(
                    format!(
                        "{} is in use by {holder}, after {} s of waiting",
                        path.display(),
                        wait.as_secs()
                    ),
                    "wait for that process or end it; a VM that was started from a disk must be shut down first",
                ));
            }
            Err(error) => {
                return Err(PortError::lasting(
                    format!("cannot lock {}: {error}", path.display()),
                    "put its folder onto a file system with locks",
                    Mend::Person,
                ));
            }
        }
    }
}

/// A file that is there only to be locked, and removed when it is dropped. What a killed process left is taken over.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    /// Owns the lock.
    _file: File,
}

impl LockFile {
    /// Makes and locks it; fails at once where another process, or another part of this one, holds it.
    pub fn take(path: PathBuf) -> Result<Self, PortError> {
        let failed = |error: io::Error| {
            PortError::lasting(
                format!("cannot make {}: {error}", path.display()),
                "let ferry's user write to its folder",
                Mend::Person,
            )
        };
        loop {
            let mut options = File::options();
            let file = options.create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(failed)?;
            lock(&file, &path, Duration::ZERO)?;
            // Whoever held it before may have removed it in between: that file locks nobody out.
            let own = file.metadata().map_err(failed)?;
            let named = fs::symlink_metadata(&path);
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // A file that stays is taken over.
        let _ = fs::remove_file(&self.path);
    }
}

fn whole_file() -> libc::flock {
    let small = |constant: libc::c_int| constant.try_into().expect("both are below four");
    libc::flock {
        l_type: small(libc::F_WRLCK),
        l_whence: small(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Finds who holds a lock on a file. The kernel names no process for such a lock, but each process's `fdinfo` tells the
/// locks of its handles; those of other users cannot be read.
fn holder(file: &File) -> Option<String> {
    let metadata = file.metadata().ok()?;
    let device = metadata.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let place = format!(" {major:02x}:{minor:02x}:{} ", metadata.ino());
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let id = process.file_name();
        if !id.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let holds = fs::read_dir(process.path().join("fdinfo")).is_ok_and(|handles| {
            handles.flatten().any(|handle| {
                fs::read_to_string(handle.path()).is_ok_and(|info| {
                    info.lines().any(|line| line.starts_with("lock:") && line.contains(&place))
                })
            })
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {})", name.trim().escape_debug(), id.display()));
        }
    }
    None
}
