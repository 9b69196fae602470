//! One archive: its index, descriptor and manifest become VMs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};

use sha2::{Digest, Sha256};

use super::manifest::{Manifest, ManifestError};
use super::ovf::{FileReference, OvfDisk, OvfError, System, parse, percent_decoded};
use super::tar::{Member, TarError, content, index};
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
    /// It is no sound tar archive.
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
    #[error("{name} is not what was exported: the manifest says SHA-256 {stated}, it has {found}")]
    Altered {
        /// Its name.
        name: String,
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
    /// The file cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// Somebody writes to it.
    #[error("it was changed while it was read")]
    Changing,
}

/// Returns what a file is.
pub(crate) fn stamp(file: &File) -> io::Result<Stamp> {
    let meta = file.metadata()?;
    let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    Ok(Stamp { inode: meta.ino(), size: meta.len(), mtime_ns })
}

/// Reads the VMs of an archive.
///
/// `path` is the file's absolute path and `name` what the inventory calls it; `whole` returns the SHA-256 of the whole file,
/// asked for only where there is no manifest.
pub(crate) fn read_archive(
    file: &File,
    path: &str,
    name: &str,
    whole: &mut dyn FnMut(&File) -> io::Result<String>,
) -> Result<Vec<Vm>, ArchiveError> {
    let stamp_before = stamp(file).map_err(ArchiveError::Read)?;
    let members = index(file, stamp_before.size).map_err(ArchiveError::Tar)?;
    let ovf = descriptor(&members)?;
    let ovf_bytes = content(file, ovf, DESCRIPTOR_MAX).map_err(ArchiveError::Tar)?;
    let manifest_member = manifest_of(&members, &ovf.name)?;
    let (manifest, archive) = match manifest_member {
        None => (Manifest::default(), whole(file).map_err(ArchiveError::Read)?),
        Some(member) => {
            let bytes = content(file, member, MANIFEST_MAX).map_err(ArchiveError::Tar)?;
            let manifest = Manifest::parse(&bytes)
                .map_err(|source| ArchiveError::Manifest { name: member.name.clone(), source })?;
            let both = Sha256::new().chain_update(&ovf_bytes).chain_update(&bytes).finalize();
            (manifest, hex::encode(both))
        }
    };
    if let Checksum::Sha256(stated) = manifest.checksum(&ovf.name) {
        let found = hex::encode(Sha256::digest(&ovf_bytes));
        if found != stated {
            return Err(ArchiveError::Altered { name: ovf.name.clone(), stated, found });
        }
    }
    let systems =
        parse(&ovf_bytes).map_err(|source| ArchiveError::Ovf { name: ovf.name.clone(), source })?;
    let by_name = members.iter().map(|member| (member.name.as_str(), member)).collect();
    let stored = Stored { file, path, stamp: stamp_before, members: by_name, manifest: &manifest };
    let vms = systems.into_iter().map(|system| stored.vm(system, name, &archive)).collect();
    if stamp(file).map_err(ArchiveError::Read)? == stamp_before {
        vms
    } else {
        Err(ArchiveError::Changing)
    }
}

/// Returns the SHA-256 of all of a file.
pub(crate) fn whole_hash(mut file: &File) -> io::Result<String> {
    use std::io::Seek;
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn with_extension<'a>(members: &'a [Member], extension: &str) -> Vec<&'a Member> {
    let has = |member: &&Member| {
        let (_, found) = member.name.rsplit_once('.').unwrap_or_default();
        found.eq_ignore_ascii_case(extension)
    };
    members.iter().filter(has).collect()
}

fn descriptor(members: &[Member]) -> Result<&Member, ArchiveError> {
    match with_extension(members, "ovf").as_slice() {
        [ovf] => Ok(ovf),
        all => Err(ArchiveError::Count { what: "`.ovf` files", count: all.len(), wanted: "one" }),
    }
}

/// The manifest has the descriptor's name. An only one of another name belongs to it, too: people rename the descriptor.
fn manifest_of<'a>(members: &'a [Member], ovf: &str) -> Result<Option<&'a Member>, ArchiveError> {
    let stem = ovf.rsplit_once('.').map_or(ovf, |(stem, _)| stem);
    let all = with_extension(members, "mf");
    let own = all
        .iter()
        .find(|member| member.name.rsplit_once('.').is_some_and(|(other, _)| other == stem));
    match (own, all.as_slice()) {
        (Some(own), _) => Ok(Some(own)),
        (None, []) => Ok(None),
        (None, [only]) => Ok(Some(only)),
        (None, all) => {
            let count = all.len();
            Err(ArchiveError::Count { what: "`.mf` files", count, wanted: "at most one" })
        }
    }
}

/// What disks are looked up in.
struct Stored<'a> {
    file: &'a File,
    path: &'a str,
    stamp: Stamp,
    members: BTreeMap<&'a str, &'a Member>,
    manifest: &'a Manifest,
}

impl Stored<'_> {
    fn vm(&self, system: System, name: &str, archive: &str) -> Result<Vm, ArchiveError> {
        let System { id, name: vm_name, os, firmware, cpus, memory, nics, disks } = system;
        Ok(Vm {
            path: format!("{name}/{id}"),
            id: SourceVm::Ova { archive: archive.to_owned(), system: id },
            name: vm_name,
            power: Power::Off,
            firmware,
            cpus,
            memory,
            os,
            disks: disks.into_iter().map(|disk| self.disk(disk)).collect::<Result<_, _>>()?,
            nics,
            claim: Claim::Impossible,
        })
    }

    fn disk(&self, disk: OvfDisk) -> Result<Disk, ArchiveError> {
        let OvfDisk { key, mut capacity, format, parent, file } = disk;
        let location = |offset, length| {
            StoredDisk { path: self.path.to_owned(), stamp: self.stamp, offset, length }.to_source()
        };
        let Some(reference) = file else {
            // Where an empty disk has a parent, its content is the parent's.
            let format = match parent {
                None => DiskFormat::Empty,
                Some(_) => DiskFormat::Unsupported(DELTA.to_owned()),
            };
            let source = location(0, 0);
            let stored = Some(Bytes(0));
            return Ok(Disk { key, capacity, stored, format, checksum: Checksum::Absent, source });
        };
        let Some(member) = self.member(&reference) else {
            if reference.chunked {
                let format = DiskFormat::Unsupported("a file in pieces (ovf:chunkSize)".into());
                let (checksum, source) = (Checksum::Absent, location(0, 0));
                return Ok(Disk { key, capacity, stored: None, format, checksum, source });
            }
            return Err(ArchiveError::Missing { href: reference.href, disk: key.to_string() });
        };
        let head = self.head(member)?;
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
        Ok(Disk {
            key,
            capacity,
            stored: Some(Bytes(member.size)),
            format,
            checksum: self.manifest.checksum(&member.name),
            source: location(member.offset, member.size),
        })
    }

    fn member(&self, reference: &FileReference) -> Option<&Member> {
        let named = |name: &str| self.members.get(name).copied();
        named(&reference.href).or_else(|| named(&percent_decoded(&reference.href)))
    }

    /// The first bytes of a member, fewer where it is shorter.
    fn head(&self, member: &Member) -> Result<Vec<u8>, ArchiveError> {
        let length = usize::try_from(member.size.min(512)).expect("at most 512");
        let mut head = vec![0; length];
        self.file.read_exact_at(&mut head, member.offset).map_err(ArchiveError::Read)?;
        Ok(head)
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
