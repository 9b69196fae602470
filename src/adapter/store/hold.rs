//! The emergency brake: a file in the state folder, looked for before every effect.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::adapter::store::{failed, make_folder, remove_if_there};
use crate::port::{Hold, PortError};

/// The brake of one state folder. Works beside a running `run`, without the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldFile {
    path: PathBuf,
}

impl HoldFile {
    /// Names the brake of a state folder.
    pub fn new(state: &Path) -> Self {
        Self { path: state.join("hold") }
    }

    /// Pulls the brake, durably, with a reason for whoever asks.
    pub fn engage(&self, reason: &str) -> Result<(), PortError> {
        let folder = self.path.parent().unwrap_or(&self.path);
        make_folder(folder)?;
        // The file is the brake; on a full disk it works with no reason in it.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(|error| failed("write", &self.path, &error))?;
        let written = file.write_all(reason.as_bytes()).and_then(|()| file.sync_all());
        written
            .and_then(|()| std::fs::File::open(folder)?.sync_all())
            .map_err(|error| failed("write", &self.path, &error))
    }

    /// Lets go. Returns whether it was on.
    pub fn release(&self) -> Result<bool, PortError> {
        remove_if_there(&self.path).map_err(|error| failed("remove", &self.path, &error))
    }

    /// Returns the reason of a brake that is on, which may be empty.
    pub fn held_by(&self) -> Result<Option<String>, PortError> {
        match std::fs::read(&self.path) {
            Ok(reason) => Ok(Some(String::from_utf8_lossy(&reason).trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &self.path, &error)),
        }
    }
}

impl Hold for HoldFile {
    /// A brake that cannot be looked at counts as on.
    fn engaged(&self) -> bool {
        !matches!(self.path.try_exists(), Ok(false))
    }
}
