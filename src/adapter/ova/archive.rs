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
use super::told::{Image, Told, contradicts_raw};
use crate::adapter::checksum::Running;
use crate::adapter::image::files::Format;
use crate::adapter::image::member::capacity;
use crate::adapter::location::{BlocksDisk, MemberDisk, Stamp, StoredDisk};
use crate::domain::id::SourceVm;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Claim, Disk, DiskFormat, Hosted, Power, SourceDisk, Vm};
use crate::journal::record::{Disposition, Fault};
use crate::port::PortError;

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
    let mut stored = Stored {
        package,
        manifest: &manifest,
        ovf: &ovf,
        now,
        read: Vec::new(),
        seen: BTreeMap::new(),
    };
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
    /// What the guest sees of images: thousands of disks may lie in one.
    seen: BTreeMap<(String, Format), Result<Bytes, PortError>>,
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
            hosted: Hosted::default(),
        })
    }

    fn disk(&mut self, disk: OvfDisk) -> Result<Disk, ArchiveError> {
        let nowhere = StoredDisk { offset: 0, length: 0, ..self.ovf.stored() }.to_source();
        let (key, capacity) = (disk.key.clone(), disk.capacity);
        let Some(reference) = &disk.file else {
            // Where an empty disk has a parent, its content is the parent's.
            let format = match disk.parent {
                None => DiskFormat::Empty,
                Some(_) => DiskFormat::Unsupported(DELTA.to_owned()),
            };
            let (stored, checksum) = (Some(Bytes(0)), Checksum::Absent);
            return Ok(Disk { key, capacity, stored, format, checksum, source: nowhere });
        };
        let Some(part) = self.part(reference)? else {
            if reference.chunked {
                let format = DiskFormat::Unsupported("a file in pieces (ovf:chunkSize)".into());
                let (stored, checksum) = (None, Checksum::Absent);
                return Ok(Disk { key, capacity, stored, format, checksum, source: nowhere });
            }
            let (href, disk) = (reference.href.clone(), key.to_string());
            return Err(ArchiveError::Missing { href, disk });
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
        let (format, capacity, source) = self.content(&disk, reference, &part)?;
        let (stored, checksum) = (Some(Bytes(part.size)), self.manifest.checksum(&part.name));
        self.read.push(part);
        Ok(Disk { key, capacity, stored, format, checksum, source })
    }

    /// Finds out how a disk is stored, what the guest sees of it, and where a reader finds it.
    ///
    /// What the guest saw is in the image; the descriptor repeats it, by some exporters rounded.
    fn content(
        &mut self,
        disk: &OvfDisk,
        reference: &FileReference,
        part: &Part,
    ) -> Result<(DiskFormat, Bytes, SourceDisk), ArchiveError> {
        let plain = part.stored().to_source();
        let refused = |name| (DiskFormat::Unsupported(name), disk.capacity, plain.clone());
        if disk.parent.is_some() {
            return Ok(refused(DELTA.to_owned()));
        }
        if let Some(method) = &reference.compression {
            return Ok(refused(format!("compressed with {method}")));
        }
        let found = Image::of(&part.first(512)?);
        let format = match (Told::of(disk), &found) {
            (Told::Stream, Image::StreamOptimized { bytes }) => {
                return Ok((DiskFormat::StreamOptimized, Bytes(*bytes), plain));
            }
            (Told::Image(Format::Raw), _) => {
                let stated = reference.size.is_some()
                    || !matches!(self.manifest.checksum(&part.name), Checksum::Absent);
                let whole = stated || matches!(self.package, Package::Archive { .. });
                match contradicts_raw(disk, part.size, whole, &found) {
                    Some(why) => return Ok(refused(why)),
                    None => Format::Raw,
                }
            }
            (Told::Image(Format::Qcow2), Image::Qcow2) => Format::Qcow2,
            (Told::Image(Format::Vmdk), Image::Sparse) => Format::Vmdk,
            (Told::Stream | Told::Image(Format::Qcow2 | Format::Vmdk) | Told::Unknown, _) => {
                return Ok(refused(found.name(disk)));
            }
        };
        let member = match self.package {
            Package::Archive { .. } => Some(part.name.clone()),
            Package::Folder { .. } => None,
        };
        let stored = part.stored();
        let member = MemberDisk { stored, member, format: format.name().to_owned() };
        let seen = self.seen.entry((part.name.clone(), format)).or_insert_with(|| {
            // Not by its path: an export that is moved stays the same.
            capacity(part.file(), &member, PathBuf::from(&part.name))
        });
        match seen.clone() {
            Ok(capacity) => {
                Ok((DiskFormat::Blocks, capacity, BlocksDisk::Member(member).to_source()))
            }
            Err(PortError { fault: Fault { text, disposition, .. } }) => match disposition {
                Disposition::Stall(_) => Ok(refused(format!("{}: {text}", format.name()))),
                Disposition::Retry => Err(ArchiveError::Read(io::Error::other(text))),
            },
        }
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
