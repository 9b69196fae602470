//! Files that manifests and images name are opened beneath the settings' `allowPaths` only, and through no symbolic link
//! (safety rule 23): `openat2` checks it in the kernel, at the moment of opening.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use crate::journal::record::Mend;
use crate::port::PortError;

/// The folders that manifests may name files below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confine {
    allowed: Vec<PathBuf>,
}

impl Confine {
    /// Takes the settings' `allowPaths`, absolute.
    pub fn new(allowed: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { allowed: allowed.into_iter().collect() }
    }

    /// Opens a file or folder. With `create` in the flags the file may be made with mode 0600.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, PortError> {
        let Some((root, rest)) = self.allowed.iter().find_map(|root| {
            let rest = path.strip_prefix(root).ok()?;
            Some((root, if rest.as_os_str().is_empty() { Path::new(".") } else { rest }))
        }) else {
            return Err(PortError::lasting(
                format!("{} lies below none of the settings' `allowPaths`", path.display()),
                format!(
                    "add a folder above it to `allowPaths` in ferry.yaml: `allowPaths: [{}]`",
                    parent(path)
                ),
                Mend::Person,
            ));
        };
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, root, folder, Mode::empty()).map_err(|error| failed(root, error))?;
        let mode =
            if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&root, rest, flags | OFlags::CLOEXEC, mode, resolve)
            .map_err(|error| failed(path, error))
    }

    /// Opens a file for reading.
    pub fn read(&self, path: &Path) -> Result<File, PortError> {
        self.open(path, OFlags::RDONLY).map(File::from)
    }

    /// Returns the folders.
    pub fn allowed(&self) -> &[PathBuf] {
        &self.allowed
    }
}

fn parent(path: &Path) -> std::path::Display<'_> {
    path.parent().unwrap_or(path).display()
}

fn failed(path: &Path, error: rustix::io::Errno) -> PortError {
    let text = format!("cannot open {}: {error}", path.display());
    match error {
        rustix::io::Errno::LOOP | rustix::io::Errno::XDEV => PortError::lasting(
            text,
            "name the file itself: symbolic links and `..` are not followed below `allowPaths`",
            Mend::Person,
        ),
        rustix::io::Errno::BUSY => PortError::lasting(
            text,
            "unmount it, or end what uses it: `lsblk` and `fuser -v` tell",
            Mend::Person,
        ),
        rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::IO => {
            PortError::passing(text, "look at the machine's limits and its log")
        }
        _ => PortError::lasting(
            text,
            "check that it exists and that ferry's user may open it",
            Mend::Source,
        ),
    }
}
