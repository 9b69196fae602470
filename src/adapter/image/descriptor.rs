//! Reads hosted VMDK images at any place: a sparse file with its descriptor inside, or a text descriptor and the extents of
//! its own folder that it names (VMware Virtual Disk Format 5.0; QEMU's `block/vmdk.c`).
//!
//! # Guarantees
//!
//! - Only files of the descriptor's own folder are opened, by plain names, through no symbolic link (safety rule 24).
//! - What an extent's line says is what the extent has: a file that is shorter, or another disk's, is refused when it is
//!   opened.
//! - A disk that holds only the differences from another one is refused; so is every kind that is not known, by its name.

mod text;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::adapter::confine::Confine;
use crate::adapter::image::descriptor::text::{Holds, Line, Text};
use crate::adapter::image::flat::{self, EXTENTS_MAX, IN_FLIGHT, RawImage, end_within, push};
use crate::adapter::image::sparse::{self, Sparse};
use crate::adapter::image::vmdk::DESCRIPTOR_BYTES_MAX;
use crate::extent::{Content, Extent};
use crate::journal::record::Mend;
use crate::port::{Blocks, PortError};

/// The kinds that a descriptor in a file of its own may have.
const KINDS: [&str; 4] = ["monolithicFlat", "vmfs", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse"];

/// The longest name of an extent's file, as file systems have it.
const NAME_BYTES_MAX: usize = 255;

/// What a VMDK is.
pub(super) enum Vmdk {
    /// A disk that is read at any place.
    Blocks(Box<dyn Blocks>),
    /// A stream-optimized VMDK, which is read forward. Nothing but its first sector was looked at.
    StreamOptimized,
}

/// Opens a VMDK, by what it begins with.
pub(super) fn open_vmdk(confine: &Confine, path: &Path) -> Result<Vmdk, PortError> {
    let file = flat::open(confine, path)?;
    let mut start = [0; 512];
    let length = usize::try_from(file.size()).map_or(512, |size| size.min(512));
    file.read(0, &mut start[..length])?;
    if sparse::is_compressed(&start) {
        return Ok(Vmdk::StreamOptimized);
    }
    if start[..4] == sparse::MAGIC {
        return Ok(Vmdk::Blocks(Box::new(one_file(file)?)));
    }
    if start.starts_with(text::FIRST_LINE) {
        return Ok(Vmdk::Blocks(Box::new(Joined::open(confine, file)?)));
    }
    let snapshot = [(&b"COWD"[..], "vmfsSparse"), (b"\xbe\xba\xfe\xca\0\0\0\0", "seSparse")];
    let found = snapshot.iter().find(|(magic, _)| start.starts_with(magic));
    Err(match found {
        Some((_, kind)) => unsupported(
            path,
            &format!("it is a snapshot of ESXi (`{kind}`) and holds only the differences"),
        ),
        None => {
            let found = start[..length.min(8)].escape_ascii();
            file.damaged(0, format!("it starts with `{found}`: it is no VMDK"))
        }
    })
}

/// Takes a sparse VMDK that is one file, with its descriptor inside.
pub(super) fn one_file(file: RawImage) -> Result<Sparse, PortError> {
    let sparse = Sparse::open(file)?;
    check_embedded(&sparse, &["monolithicSparse"])?;
    Ok(sparse)
}

/// Checks the descriptor inside of a sparse file.
fn check_embedded(sparse: &Sparse, kinds: &[&str]) -> Result<(), PortError> {
    let Some((at, bytes)) = sparse.descriptor()? else {
        let why = "it has no descriptor: it is one extent of a disk, name the disk's descriptor";
        return Err(sparse.file().damaged(28, why));
    };
    let text = text::parse(&bytes).map_err(|(line, why)| {
        sparse.file().damaged(at, format!("its descriptor is refused in line {line}: {why}"))
    })?;
    check_kind(sparse.file().path(), &text, kinds)
}

fn check_kind(path: &Path, text: &Text, kinds: &[&str]) -> Result<(), PortError> {
    if let Some(parent) = &text.parent {
        let why = format!("it holds only the differences from a parent disk ({parent})");
        return Err(unsupported(path, &why));
    }
    if text.encrypted {
        return Err(unsupported(path, "it is encrypted"));
    }
    if kinds.contains(&text.kind.as_str()) {
        return Ok(());
    }
    let kind = text.kind.escape_debug();
    Err(unsupported(path, &format!("createType `{kind}` is not read here")))
}

fn unsupported(path: &Path, why: &str) -> PortError {
    PortError::lasting(
        format!("cannot read {}: {why}", path.display()),
        "delete the VM's snapshots and export it, or clone the disk to one that is whole: `vmkfstools -i` on ESXi, `vmware-vdiskmanager -r` on Workstation",
        Mend::Source,
    )
}

/// Extents that make one disk, one behind the other.
struct Joined {
    descriptor: RawImage,
    size: u64,
    /// In order, without gaps.
    parts: Vec<Part>,
}

/// One extent.
struct Part {
    /// Where the guest sees it.
    start: u64,
    /// How long it is.
    length: u64,
    /// What holds it, and from which byte on; `None` for zeros.
    stored: Option<(Box<dyn Blocks>, u64)>,
}

impl Joined {
    fn open(confine: &Confine, descriptor: RawImage) -> Result<Self, PortError> {
        let size = descriptor.size();
        if size > DESCRIPTOR_BYTES_MAX || descriptor.is_device() {
            let why = format!("a descriptor of {size} bytes: at most {DESCRIPTOR_BYTES_MAX}");
            return Err(descriptor.damaged(0, why));
        }
        let mut bytes = vec![0; usize::try_from(size).expect("at most 1 MiB")];
        descriptor.read(0, &mut bytes)?;
        let text = text::parse(&bytes).map_err(|(line, why)| in_line(&descriptor, line, &why))?;
        check_kind(descriptor.path(), &text, &KINDS)?;
        let (mut size, mut parts) = (0_u64, Vec::new());
        for line in text.lines {
            let Line { number, length, holds } = line;
            let refused = |why: &str| in_line(&descriptor, number, why);
            let start = size;
            let end = start.checked_add(length).filter(|end| i64::try_from(*end).is_ok());
            size = end.ok_or_else(|| refused("the extents are more than any disk has"))?;
            let open = |name: &[u8]| extent_file(confine, &descriptor, name, number);
            let stored: Option<(Box<dyn Blocks>, u64)> = match holds {
                Holds::Zeros => None,
                Holds::Raw { name, from } => {
                    let file = open(&name)?;
                    if from.checked_add(length).is_none_or(|end| end > file.size()) {
                        let why = format!(
                            "the file ends there, line {number} of {} says that it has {length} bytes from byte {from} on",
                            descriptor.path().display()
                        );
                        return Err(file.damaged(file.size(), why));
                    }
                    Some((Box::new(file), from))
                }
                Holds::Sparse { name } => {
                    Some((Box::new(sparse_extent(&descriptor, open(&name)?, number, length)?), 0))
                }
            };
            parts.push(Part { start, length, stored });
        }
        if parts.is_empty() {
            return Err(in_line(&descriptor, 1, "it names no extents"));
        }
        Ok(Self { descriptor, size, parts })
    }

    /// Returns the part that holds a byte of the disk.
    fn part(&self, at: u64) -> &Part {
        let behind = self.parts.partition_point(|part| part.start <= at);
        &self.parts[behind - 1]
    }
}

/// Opens the file that a line names, beside the descriptor.
fn extent_file(
    confine: &Confine,
    descriptor: &RawImage,
    name: &[u8],
    line: usize,
) -> Result<RawImage, PortError> {
    let refused = |why: &str| {
        let name = name.escape_ascii();
        in_line(descriptor, line, &format!("the extent's file `{name}` {why}"))
    };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(refused("has no name that a file can have"));
    }
    if name.contains(&b'/') || name == b"." || name == b".." {
        return Err(refused("does not lie in the descriptor's own folder"));
    }
    let folder = descriptor.path().parent().unwrap_or(Path::new("/"));
    let file = flat::open(confine, &folder.join(OsStr::from_bytes(name)))?;
    if file.is_same_file(descriptor) {
        return Err(refused("is the descriptor itself"));
    }
    if file.is_device() {
        return Err(refused("is a device"));
    }
    Ok(file)
}

/// Opens an extent that must hold `length` bytes of the disk and no differences.
fn sparse_extent(
    descriptor: &RawImage,
    file: RawImage,
    line: usize,
    length: u64,
) -> Result<Sparse, PortError> {
    let sparse = Sparse::open(file)?;
    if sparse.size() != length {
        let why = format!(
            "its header says {} bytes, line {line} of {} says {length}",
            sparse.size(),
            descriptor.path().display()
        );
        return Err(sparse.file().damaged(12, why));
    }
    // The place for a descriptor is mostly empty here: the disk has one of its own.
    if let Some((_, bytes)) = sparse.descriptor()?
        && bytes.starts_with(text::FIRST_LINE)
    {
        check_embedded(&sparse, &["monolithicSparse", "twoGbMaxExtentSparse"])?;
    }
    Ok(sparse)
}

fn in_line(descriptor: &RawImage, line: usize, why: &str) -> PortError {
    PortError::lasting(
        format!("cannot read {} in line {line}: {why}", descriptor.path().display()),
        "compare the descriptor with the one that it was copied from and copy the disk again, all files of it into one folder",
        Mend::Source,
    )
}

impl Blocks for Joined {
    fn size(&self) -> u64 {
        self.size
    }

    fn state(&self) -> Result<String, PortError> {
        let mut states = vec![self.descriptor.state()?];
        for (blocks, _) in self.parts.iter().filter_map(|part| part.stored.as_ref()) {
            states.push(blocks.state()?);
        }
        Ok(states.join("; "))
    }

    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        let end = end_within(offset, length, self.size);
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end && extents.len() < EXTENTS_MAX {
            let Part { start, length, stored } = self.part(at);
            let ends = end.min(start + length);
            let Some((blocks, from)) = stored else {
                push(&mut extents, at, ends, Content::Zero);
                at = ends;
                continue;
            };
            // Where the guest sees `start`, the extent has `from`.
            for Extent { offset, length, content } in
                blocks.extents(at - start + from, ends - at)?
            {
                let offset = offset - from + start;
                push(&mut extents, offset, offset + length, content);
                at = offset + length;
            }
            if at < ends {
                break;
            }
        }
        Ok(extents)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let length = u64::try_from(buffer.len()).expect("memory is below 16 EiB");
        let end = end_within(offset, length, self.size);
        let mut rest = buffer;
        let mut at = offset;
        while at < end {
            let Part { start, length, stored } = self.part(at);
            let ends = end.min(start + length);
            let count = usize::try_from(ends - at).expect("within the buffer");
            let part = rest.split_off_mut(..count).expect("a part ends before the buffer does");
            match stored {
                Some((blocks, from)) => blocks.read(at - start + from, part)?,
                None => part.fill(0),
            }
            at = ends;
        }
        Ok(())
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
#[cfg(feature = "peers")]
mod peers;
#[cfg(test)]
mod tests;
