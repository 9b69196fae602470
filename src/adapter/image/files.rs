//! Disks by their paths and addresses, as a person names them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::adapter::confine::Confine;
use crate::adapter::image::flat;
use crate::adapter::image::locked::failed;
use crate::adapter::image::qcow2::{Qcow2, Qcow2Disk};
use crate::adapter::image::raw::RawDisk;
use crate::adapter::image::vmdk::header;
use crate::adapter::image::{LOCK_WAIT, LocalImages, damaged};
use crate::adapter::location::{BlocksDisk, Stamp, StoredDisk};
use crate::adapter::ova::package::stamp;
use crate::adapter::ova::tar;
use crate::copy::plan::Planned;
use crate::domain::id::DiskKey;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Disk, DiskFormat, SourceDisk, TargetDisk};
use crate::journal::record::Mend;
use crate::port::{BlockReader, BlockWriter, Blocks, Images, Piece, PortError, Position};

/// How a file stores a disk. It is told, never guessed: what a guest wrote into a raw disk must not decide what is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Byte by byte as the guest sees it.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's; which one of them its own header says.
    Vmdk,
}

impl Format {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }

    /// Finds it by its name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Raw, Self::Qcow2, Self::Vmdk].into_iter().find(|format| format.name() == name)
    }

    /// Finds it by the end of a file's name.
    pub fn of(path: &Path) -> Option<Self> {
        let end = path.extension()?.to_str()?.to_ascii_lowercase();
        if end == "img" { Some(Self::Raw) } else { Self::named(&end) }
    }
}

/// Opens sources by what [`source`] says of them, and writes the one file that [`Files::make`] made.
#[derive(Clone, Debug)]
pub struct Files {
    confine: Confine,
    format: Format,
}

impl Files {
    /// Writes in a format.
    pub fn new(confine: Confine, format: Format) -> Self {
        Self { confine, format }
    }

    /// Makes the file that is written: a disk of zeros.
    pub fn make(
        confine: &Confine,
        path: &Path,
        capacity: Bytes,
        format: Format,
    ) -> Result<(), PortError> {
        match format {
            Format::Raw => File::create_new(path)
                .and_then(|file| file.set_len(capacity.0).and_then(|()| file.sync_all()))
                .map_err(|error| failed("make", path, None, error)),
            Format::Qcow2 => Qcow2Disk::create(confine, path, capacity.0, LOCK_WAIT),
            Format::Vmdk => Err(unwritten(format)),
        }
    }
}

fn unwritten(format: Format) -> PortError {
    PortError::lasting(
        format!("disks are not written as {}", format.name()),
        "name a file that ends in `.raw` or `.qcow2`",
        Mend::Person,
    )
}

impl Images for Files {
    fn reader(&self, disk: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        LocalImages::new(self.confine.clone()).reader(disk, resume)
    }

    fn writer(&self, disk: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError> {
        let path = PathBuf::from(&disk.0);
        match self.format {
            Format::Raw => Ok(Box::new(RawDisk::at(&self.confine, path, LOCK_WAIT)?)),
            Format::Qcow2 => Ok(Box::new(Qcow2Disk::open(&self.confine, path, LOCK_WAIT)?)),
            Format::Vmdk => Err(unwritten(self.format)),
        }
    }
}

/// Looks at what a person named: a file, a file inside of an OVA, or an address.
pub fn source(confine: &Confine, text: &str, format: Option<Format>) -> Result<Disk, PortError> {
    let named = Path::new(text);
    if let Some((archive, member)) = inside(named) {
        return stream(confine, &archive, Some(&member));
    }
    let path = std::fs::canonicalize(named).map_err(|error| failed("open", named, None, error))?;
    let format = format.or_else(|| Format::of(named)).ok_or_else(|| {
        PortError::lasting(
            format!("the end of {text} tells no format"),
            "say it with `--source-format raw`, `qcow2` or `vmdk`",
            Mend::Person,
        )
    })?;
    if format == Format::Vmdk && compressed(confine, &path)? {
        return stream(confine, &path, None);
    }
    let blocks = image(confine, &path, format)?;
    let stamp = stamp_of(confine, &path)?;
    let path = utf8(&path)?;
    let place = BlocksDisk::Image { path, format: format.name().to_owned(), stamp };
    Ok(described(blocks.size(), DiskFormat::Blocks, place.to_source()))
}

/// Opens a disk that is read at any place.
pub(super) fn reader(
    confine: &Confine,
    disk: &Disk,
    resume: Option<&str>,
) -> Result<Box<dyn BlockReader>, PortError> {
    match BlocksDisk::parse(&disk.source).map_err(damaged)? {
        BlocksDisk::Image { path, format, stamp } => {
            let path = PathBuf::from(path);
            let format = Format::named(&format).ok_or_else(|| {
                PortError::lasting(
                    format!("disk {} is stored as `{format}`, which cannot be read", disk.key),
                    "use the version of ferry that began the copy",
                    Mend::Person,
                )
            })?;
            let blocks: Arc<dyn Blocks> = image(confine, &path, format)?.into();
            let planned = Planned::new(blocks, resume)?;
            let reader = Watched { planned, confine: confine.clone(), path, stamp };
            reader.unchanged()?;
            Ok(Box::new(reader))
        }
        BlocksDisk::Nbd { address } => Err(PortError::lasting(
            format!("{address} cannot be read"),
            "name a file",
            Mend::Person,
        )),
    }
}

fn image(confine: &Confine, path: &Path, format: Format) -> Result<Box<dyn Blocks>, PortError> {
    match format {
        Format::Raw => Ok(Box::new(flat::open(confine, path)?)),
        Format::Qcow2 => Ok(Box::new(Qcow2::open(confine, path)?)),
        Format::Vmdk => Err(unwritten(format)),
    }
}

/// A reader of an image that must stay the file that it was.
struct Watched {
    planned: Planned,
    confine: Confine,
    path: PathBuf,
    stamp: Stamp,
}

impl Watched {
    fn unchanged(&self) -> Result<(), PortError> {
        if stamp_of(&self.confine, &self.path)? == self.stamp {
            return Ok(());
        }
        Err(PortError::lasting(
            format!("{} changed during the copy", self.path.display()),
            "leave the image alone while it is copied, and start again",
            Mend::Source,
        ))
    }
}

impl BlockReader for Watched {
    fn next(&mut self) -> Result<Option<Piece>, PortError> {
        self.planned.next()
    }

    fn blocks(&self) -> Option<Arc<dyn Blocks>> {
        self.planned.blocks()
    }

    fn position(&self) -> Result<Position, PortError> {
        self.planned.position()
    }

    fn finish(&mut self) -> Result<(), PortError> {
        self.planned.finish()?;
        self.unchanged()
    }
}

/// Splits `FOLDER/web.ova/web-disk1.vmdk` where the archive is a file.
fn inside(path: &Path) -> Option<(PathBuf, String)> {
    let archive = path.ancestors().skip(1).find(|one| {
        one.extension().is_some_and(|end| end.eq_ignore_ascii_case("ova")) && one.is_file()
    })?;
    let member = path.strip_prefix(archive).ok()?.to_str()?.to_owned();
    Some((std::fs::canonicalize(archive).ok()?, member))
}

/// Describes a stream-optimized VMDK: a file, or a member of an archive.
fn stream(confine: &Confine, path: &Path, member: Option<&str>) -> Result<Disk, PortError> {
    let file = confine.read(path)?;
    let stamp = stamp(&file).map_err(|error| failed("look at", path, None, error))?;
    let refused = |why: String, remedy: &str| {
        PortError::lasting(format!("{}: {why}", path.display()), remedy, Mend::Source)
    };
    let (offset, length) = match member {
        None => (0, stamp.size),
        Some(name) => {
            let members = tar::index(&file, stamp.size)
                .map_err(|error| refused(error.to_string(), "transfer the archive again"))?;
            let found = members.iter().find(|member| member.name == name).ok_or_else(|| {
                let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
                let why = format!("it holds no `{}`", name.escape_debug());
                refused(why, &format!("it holds {}", names.join(", ")))
            })?;
            (found.offset, found.size)
        }
    };
    let mut sector = [0; 512];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut sector, offset)
        .map_err(|error| failed("read", path, Some(offset), error))?;
    let header = header(&sector).map_err(|(at, why)| {
        refused(format!("at byte {}: {why}", offset + at), "export the VM again")
    })?;
    let stored = StoredDisk { path: utf8(path)?, stamp, offset, length };
    Ok(Disk {
        stored: Some(Bytes(length)),
        ..described(header.capacity, DiskFormat::StreamOptimized, stored.to_source())
    })
}

/// Tells whether a VMDK is stream-optimized.
fn compressed(confine: &Confine, path: &Path) -> Result<bool, PortError> {
    let mut sector = [0; 512];
    let file = confine.read(path)?;
    let read = std::os::unix::fs::FileExt::read_exact_at(&file, &mut sector, 0);
    Ok(read.is_ok() && header(&sector).is_ok())
}

fn described(capacity: u64, format: DiskFormat, source: SourceDisk) -> Disk {
    Disk {
        key: DiskKey::new("disk"),
        capacity: Bytes(capacity),
        stored: None,
        format,
        checksum: Checksum::Absent,
        source,
    }
}

fn stamp_of(confine: &Confine, path: &Path) -> Result<Stamp, PortError> {
    let file = File::from(confine.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
    stamp(&file).map_err(|error| failed("look at", path, None, error))
}

fn utf8(path: &Path) -> Result<String, PortError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        PortError::lasting(
            format!("the name of {} is no UTF-8", path.display()),
            "rename it",
            Mend::Person,
        )
    })
}
