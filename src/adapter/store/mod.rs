//! The state folder: the journal, the lock of its one writer, the reserve for a full disk, and the emergency brake.
//!
//! ```text
//! STATE/lock          held by the one process that may write, with its name in it
//! STATE/journal.redb  the facts
//! STATE/reserve       1 MiB that is given back when the disk is full
//! STATE/hold          there while the brake is on
//! ```
//!
//! # Guarantees
//! - One state folder has one writer (safety rule 5): whoever holds the [`StateDir`]. A second one is told who that is.
//! - What [`Journal::append`](journal::Journal) returned for is durable, the file's own name in the folder too.
//! - `ferry hold` needs neither the lock nor git.

pub mod hold;
pub mod journal;

#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::{Deserialize, Serialize};

use crate::domain::id::Instance;
use crate::journal::record::Mend;
use crate::port::PortError;

/// How much is kept back for a full disk: some hundreds of facts, enough to finish or undo every VM in flight.
pub const RESERVE_BYTES: usize = 1 << 20;
/// A holder's name is one line; more than this is not read.
const HOLDER_BYTES_MAX: u64 = 4096;

/// The state folder, locked for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    folder: PathBuf,
    /// The lock goes with the open file.
    _lock: File,
}

/// Who holds a state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its instance.
    pub instance: Instance,
    /// Since when.
    pub since: Timestamp,
}

impl StateDir {
    /// Makes the folder where it is missing (for its user only), locks it and sets the reserve aside.
    pub fn open(folder: &Path, instance: &Instance, now: Timestamp) -> Result<Self, PortError> {
        make_folder(folder)?;
        let mut lock = take_lock(folder)?;
        let holder = Holder { pid: std::process::id(), instance: instance.clone(), since: now };
        // On a full disk the name may not fit; the lock itself counts.
        let _ = write_holder(&mut lock, &holder);
        let state = Self { folder: folder.to_owned(), _lock: lock };
        state.reserve()?;
        Ok(state)
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens the journal for writing, and makes it where there is none.
    pub fn journal(&self) -> Result<journal::Journal, PortError> {
        journal::Journal::open(&self.folder)
    }

    /// Sets the reserve aside. Returns whether it stands: on a full disk it does not, and nothing new may begin.
    pub fn reserve(&self) -> Result<bool, PortError> {
        reserve(&self.folder)
    }

    /// Gives the reserve back to the disk. Returns whether there was one.
    pub fn release_reserve(&self) -> Result<bool, PortError> {
        release_reserve(&self.folder)
    }
}

/// Tells who holds a state folder; `None` where nobody does.
pub fn holder(folder: &Path) -> Result<Option<Holder>, PortError> {
    let path = folder.join("lock");
    let mut lock = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", &path, &error)),
    };
    let mut probe = whole_file();
    fcntl(&lock, FcntlArg::F_OFD_GETLK(&mut probe))
        .map_err(|error| failed("ask for the lock of", &path, &error.into()))?;
    if i32::from(probe.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let unknown =
        || Holder { pid: 0, instance: Instance::new("unknown"), since: Timestamp::UNIX_EPOCH };
    Ok(Some(read_holder(&mut lock).unwrap_or_else(unknown)))
}

/// How long a lock is tried that is held: a child between its fork and its program has all that its parent had open, and its
/// parent may be killed in that moment.
const FORKED: Duration = Duration::from_millis(50);
const FORKED_TRIES: u32 = 10;

/// Takes the lock for as long as the file is open, or tells who holds it.
fn take_lock(folder: &Path) -> Result<File, PortError> {
    let path = folder.join("lock");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed("open", &path, &error))?;
    for _ in 0..FORKED_TRIES {
        match try_lock(&lock) {
            Ok(true) => return Ok(lock),
            Ok(false) => thread::sleep(FORKED),
            Err(error) => return Err(failed("lock", &path, &error)),
        }
    }
    Err(held(folder, read_holder(&mut lock)))
}

fn reserve(folder: &Path) -> Result<bool, PortError> {
    let path = folder.join("reserve");
    match set_aside(&path) {
        Ok(()) => Ok(true),
        Err(error) if is_full(&error) => {
            remove_if_there(&path).map_err(|error| failed("remove", &path, &error))?;
            Ok(false)
        }
        Err(error) => Err(failed("write", &path, &error)),
    }
}

fn release_reserve(folder: &Path) -> Result<bool, PortError> {
    let path = folder.join("reserve");
    remove_if_there(&path).map_err(|error| failed("remove", &path, &error))
}

fn held(folder: &Path, holder: Option<Holder>) -> PortError {
    let by = holder.map_or_else(
        || "another process".to_owned(),
        |Holder { pid, instance, since }| {
            format!("ferry of the instance `{instance}`, process {pid}, since {since}")
        },
    );
    PortError::lasting(
        format!("the state folder {} is held by {by}", folder.display()),
        "one state folder has one controller: stop that process, or give this one another `stateDir` and `instance`",
        Mend::Person,
    )
}

/// Makes the folder and what is missing above it, durable.
fn make_folder(folder: &Path) -> Result<(), PortError> {
    if folder.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed("make", folder, &error))?;
    for parent in folder.ancestors().skip(1) {
        // Folders above the state folder may be unreadable for us; what they hold was there before.
        let Ok(parent) = File::open(parent) else { break };
        let _ = parent.sync_all();
    }
    Ok(())
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(libc::F_WRLCK).expect("a lock's kind is a small number"),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("it is 0"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes an open-file-description lock: it ends with the file, and other opens of this process do not lose it.
fn try_lock(file: &File) -> std::io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file())) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn write_holder(lock: &mut File, holder: &Holder) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(holder)?;
    line.push(b'\n');
    lock.set_len(0)?;
    lock.rewind()?;
    lock.write_all(&line)
}

fn read_holder(lock: &mut File) -> Option<Holder> {
    let mut line = Vec::new();
    lock.rewind().ok()?;
    lock.take(HOLDER_BYTES_MAX).read_to_end(&mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

/// Writes bytes that no file system can compress or leave out, unless they stand there.
fn set_aside(path: &Path) -> std::io::Result<()> {
    let wanted = u64::try_from(RESERVE_BYTES).expect("a mebibyte fits");
    if std::fs::metadata(path).is_ok_and(|found| found.len() == wanted) {
        return Ok(());
    }
    let mut bytes = vec![0; RESERVE_BYTES];
    fill_randomly(&mut bytes)?;
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&bytes)?;
    file.sync_all()
}

fn fill_randomly(mut bytes: &mut [u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes = bytes.get_mut(filled..).unwrap_or_default();
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> std::io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tells whether there is no room: on the disk, in a quota, or under a limit on files.
fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::FileTooLarge
    )
}

fn full(folder: &Path) -> PortError {
    PortError::lasting(
        format!("state folder full: {} has no room for the journal", folder.display()),
        "make room there; nothing new begins until then, and VMs that are off are finished or brought back",
        Mend::Person,
    )
}

fn failed(verb: &str, path: &Path, error: &std::io::Error) -> PortError {
    if is_full(error) {
        return full(path.parent().unwrap_or(path));
    }
    PortError::lasting(
        format!("cannot {verb} {}: {error}", path.display()),
        "check `stateDir` in ferry.yaml, and that ferry's user may write that folder",
        Mend::Person,
    )
}
