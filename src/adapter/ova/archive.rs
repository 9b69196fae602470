//! One export: its descriptor and manifest become VMs.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::manifest::{Manifest, ManifestError};
use super::ovf::{FileReference, OvfDisk, OvfError, System, parse, percent_decoded};
use super::package::{Package, Part};
use super::tar::TarError;
use crate::adapter::checksum::Running;
use crate::adapter::location::{Stamp, StoredDisk};
use crate::domain::id::SourceVm;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Claim, Disk, DiskFormat, Power, Vm};

/// Ten times the descriptor of an export of 100 VMs.
const DESCRIPTOR_MAX: u64 = 8 << 20;
/// Lines for as many members as an archive may have.
const MANIFEST_MAX: u64 = 4 << 20;

/// Why an archive holds no VMs for us.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is no sound tar archive, or names what it may not.
    #[error("it cannot be listed")]
    Tar(#[source] TarError),
    /// A member is missing, or there are too many.
    #[error("it holds {count} {what} where {wanted} is expected")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there should be.
        wanted: &'static str,
    },
    /// The descriptor cannot be used.
    #[error("{name} cannot be used")]
    Ovf {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: OvfError,
    },
    /// The manifest cannot be used.
    #[error("{name} cannot be used")]
    Manifest {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The descriptor is not what was exported.
    #[error("{name} is not what was exported: the manifest says {method} {stated}, it has {found}")]
    Altered {
        /// Its name.
        name: String,
        /// How both were made.
        method: &'static str,
        /// The manifest's hash.
        stated: String,
        /// Its own.
        found: String,
    },
    /// A disk's file is not there.
    #[error("the file {href:?} of the disk {disk:?} is not in the archive")]
    Missing {
        /// The file.
        href: String,
        /// The disk.
        disk: String,
    },
    /// A disk's file beside a descriptor is shorter or longer than that says: most likely it is still copied.
    #[error("{name} has {found} bytes of the {stated} that the descriptor says")]
    Incomplete {
        /// The file.
        name: String,
        /// How many it has.
        found: u64,
        /// How many it should have.
        stated: u64,
    },
    /// A disk's file beside a descriptor that does not say how long it is was written a moment ago.
    #[error("{name} was written a moment ago, and nothing says how long it will be")]
    Fresh {
        /// The file.
        name: String,
    },
    /// The file cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// Somebody writes to it.
    #[error("it was changed while it was read")]
    Changing,
}

/// Files, each with what it was.
pub(crate) type Files = Vec<(PathBuf, Stamp)>;

/// Reads the VMs of an export, and lists the files that they were read from.
///
/// `name` is what the inventory calls it; `whole` returns the SHA-256 of whole files, asked for only where there is no
/// manifest.
pub(crate) fn read_package(
    package: &Package<'_>,
    name: &str,
    now: Timestamp,
    whole: &mut dyn FnMut(&[Part]) -> io::Result<String>,
) -> Result<(Vec<Vm>, Files), ArchiveError> {
    let ovf = package.descriptor()?;
    let ovf_bytes = ovf.content(DESCRIPTOR_MAX)?;
    let systems =
        parse(&ovf_bytes).map_err(|source| ArchiveError::Ovf { name: ovf.name.clone(), source });
    let manifest_part = package.manifest(&ovf.name)?;
    let manifest_bytes =
        manifest_part.as_ref().map(|part| part.content(MANIFEST_MAX)).transpose()?;
    let manifest = match (&manifest_part, &manifest_bytes) {
        (Some(part), Some(bytes)) => Manifest::parse(bytes)
            .map_err(|source| ArchiveError::Manifest { name: part.name.clone(), source })?,
        (_, _) => Manifest::default(),
    };
    let checksum = manifest.checksum(&ovf.name);
    if let Some(((method, stated), mut running)) = checksum.stated().zip(Running::of(&checksum)) {
        running.update(&ovf_bytes);
        let found = running.finish();
        if found != stated {
            let (name, stated) = (ovf.name.clone(), stated.to_owned());
            return Err(ArchiveError::Altered { name, method, stated, found });
        }
    }
    let mut stored = Stored { package, manifest: &manifest, ovf: &ovf, now, read: Vec::new() };
    let mut vms = Vec::new();
    for system in systems? {
        vms.push(stored.vm(system, name)?);
    }
    let disks = stored.read;
    let archive: Arc<str> = match manifest_bytes {
        None => whole(&package.whole(&disks)).map_err(ArchiveError::Read)?.into(),
        Some(bytes) => {
            let both = Sha256::new().chain_update(&ovf_bytes).chain_update(bytes).finalize();
            hex::encode(both).into()
        }
    };
    for vm in &mut vms {
        if let SourceVm::Ova { archive: of, .. } = &mut vm.id {
            *of = archive.clone();
        }
    }
    let parts: Vec<Part> = [ovf].into_iter().chain(manifest_part).chain(disks).collect();
    for part in &parts {
        if !part.unchanged()? {
            return Err(ArchiveError::Changing);
        }
    }
    let files: BTreeMap<PathBuf, Stamp> = parts.iter().map(Part::stamped).collect();
    Ok((vms, files.into_iter().collect()))
}

/// What disks are looked up in.
struct Stored<'a> {
    package: &'a Package<'a>,
    manifest: &'a Manifest,
    ovf: &'a Part,
    now: Timestamp,
    /// The files of disks that were looked into.
    read: Vec<Part>,
}

impl Stored<'_> {
    /// Returns a VM, without what its archive is.
    fn vm(&mut self, system: System, name: &str) -> Result<Vm, ArchiveError> {
        let System {
            id,
            name: vm_name,
            os,
            firmware,
            secure_boot,
            tpm,
            cpus,
            cores_per_socket,
            memory,
            nics,
            disks,
        } = system;
        Ok(Vm {
            path: format!("{name}/{id}"),
            id: SourceVm::Ova { archive: "".into(), system: id.into() },
            name: vm_name,
            power: Power::Off,
            firmware,
            secure_boot,
            tpm,
            cpus,
            cores_per_socket,
            memory,
            os,
            disks: disks.into_iter().map(|disk| self.disk(disk)).collect::<Result<_, _>>()?,
            nics,
            claim: Claim::Impossible,
        })
    }

    fn disk(&mut self, disk: OvfDisk) -> Result<Disk, ArchiveError> {
        let OvfDisk { key, mut capacity, format, parent, file } = disk;
        let nowhere = StoredDisk { offset: 0, length: 0, ..self.ovf.stored() }.to_source();
        let Some(reference) = file else {
            // Where an empty disk has a parent, its content is the parent's.
            let format = match parent {
                None => DiskFormat::Empty,
                Some(_) => DiskFormat::Unsupported(DELTA.to_owned()),
            };
            let (stored, checksum) = (Some(Bytes(0)), Checksum::Absent);
            return Ok(Disk { key, capacity, stored, format, checksum, source: nowhere });
        };
        let Some(part) = self.part(&reference)? else {
            if reference.chunked {
                let format = DiskFormat::Unsupported("a file in pieces (ovf:chunkSize)".into());
                let (stored, checksum) = (None, Checksum::Absent);
                return Ok(Disk { key, capacity, stored, format, checksum, source: nowhere });
            }
            return Err(ArchiveError::Missing { href: reference.href, disk: key.to_string() });
        };
        // What an archive holds was packed at once; files come one by one.
        if let Package::Folder { .. } = self.package {
            let (name, found) = (part.name.clone(), part.size);
            match reference.size {
                Some(stated) if stated == found => {}
                Some(stated) => return Err(ArchiveError::Incomplete { name, found, stated }),
                None if part.is_fresh(self.now) => return Err(ArchiveError::Fresh { name }),
                None => {}
            }
        }
        let head = part.first(512)?;
        let format = match (parent, &reference.compression) {
            (Some(_), _) => DiskFormat::Unsupported(DELTA.to_owned()),
            (None, Some(method)) => DiskFormat::Unsupported(format!("compressed with {method}")),
            (None, None) => match Image::of(&head) {
                Image::StreamOptimized { bytes } if stream_optimized(&format) => {
                    // What the guest saw is in the image; the descriptor repeats it, by some exporters rounded.
                    capacity = Bytes(bytes);
                    DiskFormat::StreamOptimized
                }
                image => DiskFormat::Unsupported(image.name(&format)),
            },
        };
        let (stored, checksum) = (Some(Bytes(part.size)), self.manifest.checksum(&part.name));
        let source = part.stored().to_source();
        self.read.push(part);
        Ok(Disk { key, capacity, stored, format, checksum, source })
    }

    fn part(&self, reference: &FileReference) -> Result<Option<Part>, ArchiveError> {
        match self.package.part(&reference.href)? {
            Some(part) => Ok(Some(part)),
            None => self.package.part(&percent_decoded(&reference.href)),
        }
    }
}

/// What a disk with a parent is called.
const DELTA: &str = "a difference to another disk (ovf:parentRef)";

fn stream_optimized(format: &str) -> bool {
    format.rsplit('#').next().is_some_and(|kind| kind.eq_ignore_ascii_case("streamOptimized"))
}

/// What an image says that it is. Only a sound stream-optimized VMDK is ever opened; the rest is for the message.
enum Image {
    StreamOptimized { bytes: u64 },
    Named(&'static str),
    Unknown,
}

impl Image {
    fn of(head: &[u8]) -> Self {
        match head {
            [b'K', b'D', b'M', b'V', ..] if head.len() == 512 => {
                let number = |at: usize| {
                    u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"))
                };
                let flags = number(8) & 0xffff_ffff;
                let markers_and_deflate = flags & (1 << 16) != 0 && flags & (1 << 17) != 0;
                // As for the descriptor's capacity: 2⁵⁰ bytes.
                let sectors = Some(number(12)).filter(|count| (1..=1 << 41).contains(count));
                match sectors {
                    Some(sectors) if markers_and_deflate => {
                        Self::StreamOptimized { bytes: sectors * 512 }
                    }
                    _ => Self::Named("a sparse VMDK that is not stream-optimized"),
                }
            }
            [b'Q', b'F', b'I', 0xfb, ..] => Self::Named("qcow2"),
            [b'C', b'O', b'W', b'D', ..] => Self::Named("a VMDK of ESX (COWD)"),
            [0x1f, 0x8b, ..] => Self::Named("compressed with gzip"),
            _ if head.starts_with(b"# Disk Desc") => Self::Named("a VMDK descriptor"),
            _ if head.starts_with(b"vhdxfile") => Self::Named("VHDX"),
            _ => Self::Unknown,
        }
    }

    fn name(&self, format: &str) -> String {
        match self {
            Self::StreamOptimized { .. } => {
                format!("a stream-optimized VMDK that the descriptor calls `{format}`")
            }
            Self::Named(name) => (*name).to_owned(),
            Self::Unknown => format!("an unknown image that the descriptor calls `{format}`"),
        }
    }
}
