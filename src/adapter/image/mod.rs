//! Disks as files: stream-optimized VMDKs, raw disks, qcow2 images and other VMDKs are read, inside of archives as well, raw
//! files and qcow2 images with a block map beside them are written.

mod descriptor;
pub mod files;
mod flat;
mod locked;
pub(in crate::adapter) mod member;
mod qcow2;
mod raw;
mod sparse;
pub(in crate::adapter) mod stream;
mod vmdk;
pub mod vmdk_write;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::adapter::confine::Confine;
use crate::adapter::image::qcow2::Qcow2Disk;
use crate::adapter::location::{LocalDisk, NoLocation, StoredDisk};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Disk, DiskFormat, TargetDisk};
use crate::journal::record::Mend;
use crate::manifest::document::ImageFormat;
use crate::port::{BlockReader, BlockWriter, Images, Piece, PortError, Position};

/// How long a writer waits for a lock that is held: an earlier worker needs a moment to see that its controller is gone.
pub const LOCK_WAIT: Duration = Duration::from_secs(30);

/// The disks of this machine, below the folders that are allowed.
#[derive(Clone, Debug)]
pub struct LocalImages {
    confine: Confine,
    lock_wait: Duration,
}

impl LocalImages {
    /// Opens nothing outside of what `confine` allows.
    pub fn new(confine: Confine) -> Self {
        Self { confine, lock_wait: LOCK_WAIT }
    }

    /// Waits another time for locks than [`LOCK_WAIT`].
    #[must_use]
    pub fn with_lock_wait(self, lock_wait: Duration) -> Self {
        Self { lock_wait, ..self }
    }
}

impl Images for LocalImages {
    fn reader(&self, disk: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        match &disk.format {
            DiskFormat::StreamOptimized => {
                let stored = StoredDisk::parse(&disk.source).map_err(damaged)?;
                let part = stream::FilePart::open(&self.confine, stored)?;
                Ok(Box::new(stream::Stream::open(Box::new(part), disk, resume)?))
            }
            DiskFormat::Blocks => files::reader(&self.confine, disk, resume),
            DiskFormat::Empty => Ok(Box::new(Nothing)),
            DiskFormat::Unsupported(name) => Err(PortError::lasting(
                format!("disk {} is stored as `{name}`, which cannot be read", disk.key),
                "export the VM with stream-optimized VMDK, qcow2 or raw disks",
                Mend::Source,
            )),
        }
    }

    fn writer(&self, disk: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError> {
        let disk = LocalDisk::parse(disk).map_err(damaged)?;
        let path = path_of(&disk);
        Ok(match disk.format() {
            ImageFormat::Raw => Box::new(raw::RawDisk::open(&self.confine, path, self.lock_wait)?),
            ImageFormat::Qcow2 => Box::new(Qcow2Disk::open(&self.confine, path, self.lock_wait)?),
        })
    }
}

/// Finds a disk in the area that it was made in, or in the VM that the area became.
fn path_of(disk: &LocalDisk) -> PathBuf {
    let LocalDisk { folder, area, name, file } = disk;
    let folder = Path::new(folder);
    let made = folder.join(format!(".ferry-{area}")).join(file);
    if fs::symlink_metadata(&made).is_ok() { made } else { folder.join(name.as_str()).join(file) }
}

/// Makes a qcow2 of zeros of a file, durably. Succeeds where it is one of this capacity already, and where an earlier making
/// did not end; refuses any other file that is not empty.
pub(in crate::adapter) fn make_qcow2(
    file: &File,
    path: &Path,
    capacity: Bytes,
) -> Result<(), PortError> {
    Qcow2Disk::fill(file, path, capacity.0, LOCK_WAIT)
}

/// Returns how much the guest sees of a qcow2; `None` where the file is none.
pub(in crate::adapter) fn qcow2_capacity(
    file: &File,
    path: &Path,
) -> Result<Option<Bytes>, PortError> {
    Ok(Qcow2Disk::capacity(file, path)?.map(Bytes))
}

fn damaged(error: NoLocation) -> PortError {
    PortError::lasting(
        error.to_string(),
        "the journal is damaged: start a new attempt with a new Migration",
        Mend::Person,
    )
}

/// A disk of which nothing is stored.
struct Nothing;

impl BlockReader for Nothing {
    fn next(&mut self) -> Result<Option<Piece>, PortError> {
        Ok(None)
    }

    fn position(&self) -> Result<Position, PortError> {
        Ok(Position { resume: String::new(), read: Bytes(0) })
    }

    fn finish(&mut self) -> Result<bool, PortError> {
        Ok(true)
    }
}
