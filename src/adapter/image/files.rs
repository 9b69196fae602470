//! Disks by their paths and addresses, as a person names them.
//!
//! # Guarantees
//!
//! - A format is told, by an option or by the end of a name; only which kind of VMDK it is stands in the VMDK itself.
//! - Nothing wrote to an image, any of its files, from when its copy began to its end, over all resumed copies. A server is
//!   believed that its export of the same size is the same disk.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::adapter::confine::Confine;
use crate::adapter::flight::Adapted;
use crate::adapter::image::descriptor::{Vmdk, open_vmdk};
use crate::adapter::image::flat;
use crate::adapter::image::locked::failed;
use crate::adapter::image::member::Member;
use crate::adapter::image::qcow2::{Qcow2, Qcow2Disk};
use crate::adapter::image::raw::RawDisk;
use crate::adapter::image::vmdk::header;
use crate::adapter::image::{LOCK_WAIT, LocalImages, damaged};
use crate::adapter::location::{BlocksDisk, ImageDisk, StoredDisk};
use crate::adapter::nbd::Export;
use crate::adapter::nbd::address::{Address, Server};
use crate::adapter::ova::member::disk;
use crate::adapter::ova::package::stamp;
use crate::copy::plan::Planned;
use crate::domain::id::DiskKey;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Disk, DiskFormat, SourceDisk, TargetDisk};
use crate::journal::record::Mend;
use crate::port::{BlockReader, BlockWriter, Blocks, Images, Piece, PortError, Position};

/// How a file stores a disk. It is told, never guessed: what a guest wrote into a raw disk must not decide what is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// Opens sources by what [`source`] says of them, and writes the one file that [`Files::make`] made, or one block device.
#[derive(Clone, Debug)]
pub struct Files {
    confine: Confine,
    stored: Stored,
}

/// How a copy is stored.
#[derive(Clone, Debug)]
enum Stored {
    File(Format),
    /// On a block device; what is known of it stands in this file.
    Device(PathBuf),
}

impl Files {
    /// Writes a file in a format.
    pub fn new(confine: Confine, format: Format) -> Self {
        Self { confine, stored: Stored::File(format) }
    }

    /// Writes a block device as the guest sees it. Its block map is made as a file, since nothing may stand beside a device.
    pub fn on_device(confine: Confine, map: PathBuf) -> Self {
        Self { confine, stored: Stored::Device(map) }
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
        let confine = &self.confine;
        Ok(match &self.stored {
            Stored::File(Format::Raw) => Box::new(RawDisk::open(confine, path, LOCK_WAIT)?),
            Stored::File(Format::Qcow2) => Box::new(Qcow2Disk::open(confine, path, LOCK_WAIT)?),
            Stored::File(Format::Vmdk) => return Err(unwritten(Format::Vmdk)),
            Stored::Device(map) => {
                Box::new(RawDisk::open_device(confine, path, map.clone(), LOCK_WAIT)?)
            }
        })
    }
}

/// Looks at what a person named: a file, a file inside of an OVA, or an address.
pub fn source(confine: &Confine, text: &str, format: Option<Format>) -> Result<Disk, PortError> {
    let named = Path::new(text);
    if SCHEMES.iter().any(|scheme| text.starts_with(scheme)) {
        let export = export(text)?;
        let place = BlocksDisk::Nbd(text.to_owned());
        return Ok(described(export.size(), DiskFormat::Blocks, place.to_source()));
    }
    if let Some((archive, member)) = inside(named) {
        return disk(confine, &archive, &member);
    }
    let path = std::fs::canonicalize(named).map_err(|error| failed("open", named, None, error))?;
    let format = format.or_else(|| Format::of(named)).ok_or_else(|| {
        PortError::lasting(
            format!("the end of {text} tells no format"),
            "say it with `--source-format raw`, `qcow2` or `vmdk`",
            Mend::Person,
        )
    })?;
    let Some(blocks) = image(confine, &path, format)? else {
        return stream(confine, &path);
    };
    let state = blocks.state()?;
    let path = utf8(&path)?;
    let place = BlocksDisk::Image(ImageDisk { path, format: format.name().to_owned(), state });
    Ok(described(blocks.size(), DiskFormat::Blocks, place.to_source()))
}

/// Opens a disk that is read at any place.
pub(super) fn reader(
    confine: &Confine,
    disk: &Disk,
    resume: Option<&str>,
) -> Result<Box<dyn BlockReader>, PortError> {
    let ImageDisk { path, format, state } = match BlocksDisk::parse(&disk.source) {
        Ok(BlocksDisk::Image(image)) => image,
        Ok(BlocksDisk::Nbd(address)) => {
            return Ok(Box::new(planned(Arc::new(export(&address)?), resume)?));
        }
        Ok(BlocksDisk::Member(member)) => {
            return Ok(Box::new(Member::open(confine, disk, member, resume)?));
        }
        Ok(BlocksDisk::Vsphere(disk)) => {
            return Err(PortError::lasting(
                format!("{} is at a server, and this copy was told of none", disk.file),
                "this is a mistake of ferry's; please report it",
                Mend::Person,
            ));
        }
        Err(error) => return Err(damaged(error)),
    };
    let path = PathBuf::from(path);
    let format = known(&format, &path)?;
    let blocks = image(confine, &path, format)?.ok_or_else(|| replaced(&path))?;
    let planned = planned(blocks.clone(), resume)?;
    let reader = Watched { planned, blocks, path, state };
    reader.unchanged()?;
    Ok(Box::new(reader))
}

/// Reads what is read at any place, with as many requests on their way as that is worth.
pub(in crate::adapter) fn planned(
    blocks: Arc<dyn Blocks>,
    resume: Option<&str>,
) -> Result<Planned, PortError> {
    Planned::new(Arc::new(Adapted::new(blocks)), resume)
}

/// Finds the format that a journal names.
pub(super) fn known(format: &str, path: &Path) -> Result<Format, PortError> {
    Format::named(format).ok_or_else(|| {
        PortError::lasting(
            format!("{} is stored as `{format}`, which cannot be read", path.display()),
            "use the version of ferry that began the copy",
            Mend::Person,
        )
    })
}

/// What the addresses of servers begin with.
const SCHEMES: [&str; 3] = ["nbd:", "nbd+unix:", "nbds:"];

/// How many connections are made to a server that allows several. One fills a core at both of its ends; a server on this machine
/// shares the cores with the copy, where more than two gained nothing (two cores, nbdkit).
fn connections(server: &Server) -> usize {
    match server {
        Server::Tcp { .. } => 4,
        Server::Unix { .. } => 2,
    }
}

fn export(address: &str) -> Result<Export, PortError> {
    let parsed = address.parse::<Address>().map_err(|error| {
        PortError::lasting(format!("{address}: {error}"), error.hint(), Mend::Person)
    })?;
    Export::connect(&parsed, connections(&parsed.server))
}

/// Opens an image that is read at any place; `None` where it is read forward only.
fn image(
    confine: &Confine,
    path: &Path,
    format: Format,
) -> Result<Option<Arc<dyn Blocks>>, PortError> {
    Ok(Some(match format {
        Format::Raw => Arc::new(flat::open(confine, path)?),
        Format::Qcow2 => Arc::new(Qcow2::open(confine, path)?),
        Format::Vmdk => match open_vmdk(confine, path)? {
            Vmdk::Blocks(blocks) => blocks.into(),
            Vmdk::StreamOptimized => return Ok(None),
        },
    }))
}

fn replaced(path: &Path) -> PortError {
    PortError::lasting(
        format!("{} changed during the copy", path.display()),
        "leave the image alone while it is copied, and start again",
        Mend::Source,
    )
}

/// A reader of an image whose files must stay as they were.
struct Watched {
    planned: Planned,
    blocks: Arc<dyn Blocks>,
    path: PathBuf,
    state: String,
}

impl Watched {
    fn unchanged(&self) -> Result<(), PortError> {
        if self.blocks.state()? == self.state { Ok(()) } else { Err(replaced(&self.path)) }
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

    fn finish(&mut self) -> Result<bool, PortError> {
        self.unchanged()?;
        self.planned.finish()
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

/// Describes a stream-optimized VMDK.
fn stream(confine: &Confine, path: &Path) -> Result<Disk, PortError> {
    let file = confine.read(path)?;
    let stamp = stamp(&file).map_err(|error| failed("look at", path, None, error))?;
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0).map_err(|error| failed("read", path, Some(0), error))?;
    let header = header(&sector).map_err(|(at, why)| {
        PortError::lasting(
            format!("cannot read {} at byte {at}: {why}", path.display()),
            "export the VM again",
            Mend::Source,
        )
    })?;
    let stored = StoredDisk { path: utf8(path)?, stamp, offset: 0, length: stamp.size };
    Ok(Disk {
        stored: Some(Bytes(stamp.size)),
        ..described(header.capacity, DiskFormat::StreamOptimized, stored.to_source())
    })
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

fn utf8(path: &Path) -> Result<String, PortError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        PortError::lasting(
            format!("the name of {} is no UTF-8", path.display()),
            "rename it",
            Mend::Person,
        )
    })
}
