//! What an export is made of: the members of a tar archive, or the files beside a descriptor in a folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::archive::ArchiveError;
use super::tar::{Member, TarError, index, unsafe_name};
use crate::adapter::confine::Confine;
use crate::adapter::location::{Stamp, StoredDisk};

/// How long a file stays as it is until it counts as whole where nothing states its size.
const FRESH: SignedDuration = SignedDuration::from_secs(30);

/// An export that is read.
pub(crate) enum Package<'a> {
    /// One file.
    Archive {
        /// The whole archive.
        whole: Part,
        /// What it holds, by name.
        members: BTreeMap<String, Member>,
    },
    /// A descriptor and the files that it names.
    Folder {
        /// What its files are opened through.
        confine: &'a Confine,
        /// The descriptor.
        descriptor: Part,
    },
}

/// A file, or a stretch of one.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Its name within the export.
    pub name: String,
    file: Arc<File>,
    /// The file's absolute path.
    path: PathBuf,
    /// What the file was when it was opened.
    stamp: Stamp,
    offset: u64,
    /// How many bytes it has.
    pub size: u64,
}

/// Returns what a file is.
pub(crate) fn stamp(file: &File) -> io::Result<Stamp> {
    let meta = file.metadata()?;
    let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    Ok(Stamp { inode: meta.ino(), size: meta.len(), mtime_ns })
}

/// Opens a plain file, without blocking, since a named pipe would wait for its writer; `None` where nothing stands there. What
/// cannot be opened is there.
pub(super) fn open(confine: &Confine, path: &Path) -> io::Result<Option<File>> {
    let gone = |path: &Path| {
        path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    match confine.open(path, OFlags::RDONLY | OFlags::NONBLOCK).map(File::from) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other(format!("{} is no plain file", path.display()))),
        Err(_) if gone(path) => Ok(None),
        Err(error) => Err(io::Error::other(error.fault.text)),
    }
}

/// Tells whether a file's name is that of a descriptor beside its disks.
pub(super) fn is_descriptor(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end.eq_ignore_ascii_case("ovf"))
}

impl<'a> Package<'a> {
    /// Takes the archive or the descriptor in a file.
    pub(super) fn new(confine: &'a Confine, file: File, path: &Path) -> Result<Self, ArchiveError> {
        let stamp = stamp(&file).map_err(ArchiveError::Read)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = is_descriptor(&name);
        let whole = Part {
            name,
            file: Arc::new(file),
            path: path.to_owned(),
            stamp,
            offset: 0,
            size: stamp.size,
        };
        if folder {
            return Ok(Self::Folder { confine, descriptor: whole });
        }
        let members = index(&whole.file, stamp.size).map_err(ArchiveError::Tar)?;
        let members = members.into_iter().map(|member| (member.name.clone(), member)).collect();
        Ok(Self::Archive { whole, members })
    }

    /// Returns the descriptor.
    pub(super) fn descriptor(&self) -> Result<Part, ArchiveError> {
        match self {
            Self::Folder { descriptor, .. } => Ok(descriptor.clone()),
            Self::Archive { .. } => match self.members_named("ovf").as_slice() {
                [name] => self.part(name).transpose().expect("it is one of the members"),
                all => {
                    let (what, count) = ("`.ovf` files", all.len());
                    Err(ArchiveError::Count { what, count, wanted: "one" })
                }
            },
        }
    }

    /// Returns the manifest, which has the descriptor's name. In an archive an only one of another name belongs to it, too:
    /// people rename the descriptor.
    pub(super) fn manifest(&self, descriptor: &str) -> Result<Option<Part>, ArchiveError> {
        let stem = descriptor.rsplit_once('.').map_or(descriptor, |(stem, _)| stem);
        let all = self.members_named("mf");
        let own = all.iter().find(|name| name.rsplit_once('.').is_some_and(|(it, _)| it == stem));
        let name = match (self, own, all.as_slice()) {
            (Self::Folder { .. }, _, _) => {
                let lower = self.part(&format!("{stem}.mf"))?;
                return if lower.is_some() { Ok(lower) } else { self.part(&format!("{stem}.MF")) };
            }
            (Self::Archive { .. }, Some(own), _) => (*own).to_owned(),
            (Self::Archive { .. }, None, []) => return Ok(None),
            (Self::Archive { .. }, None, [only]) => (*only).to_owned(),
            (Self::Archive { .. }, None, all) => {
                let (what, count) = ("`.mf` files", all.len());
                return Err(ArchiveError::Count { what, count, wanted: "at most one" });
            }
        };
        self.part(&name)
    }

    /// Finds a part by its name; `None` where there is none.
    pub(super) fn part(&self, name: &str) -> Result<Option<Part>, ArchiveError> {
        match self {
            Self::Archive { whole, members } => Ok(members.get(name).map(|member| Part {
                name: name.to_owned(),
                offset: member.offset,
                size: member.size,
                ..whole.clone()
            })),
            Self::Folder { confine, descriptor } => {
                if let Some(what) = unsafe_name(name) {
                    let name = name.to_owned();
                    return Err(ArchiveError::Tar(TarError::Refused { name, what }));
                }
                let path = descriptor.path.with_file_name(name);
                let opened = open(confine, &path).map_err(ArchiveError::Read)?;
                let Some(file) = opened else { return Ok(None) };
                let stamp = stamp(&file).map_err(ArchiveError::Read)?;
                let (name, size) = (name.to_owned(), stamp.size);
                Ok(Some(Part { name, file: Arc::new(file), path, stamp, offset: 0, size }))
            }
        }
    }

    /// Returns the files whose content is all of the export where no manifest tells what it is: the archive, or the descriptor
    /// and its disks.
    pub(super) fn whole(&self, disks: &[Part]) -> Vec<Part> {
        match self {
            Self::Archive { whole, .. } => vec![whole.clone()],
            Self::Folder { descriptor, .. } => {
                std::iter::once(descriptor).chain(disks).cloned().collect()
            }
        }
    }

    fn members_named(&self, extension: &str) -> Vec<&str> {
        let Self::Archive { members, .. } = self else { return Vec::new() };
        let has = |name: &&str| {
            let (_, found) = name.rsplit_once('.').unwrap_or_default();
            found.eq_ignore_ascii_case(extension)
        };
        members.keys().map(String::as_str).filter(has).collect()
    }
}

impl Part {
    /// Reads all of it, if that is at most `limit` bytes.
    pub(super) fn content(&self, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if self.size > limit {
            let (name, what) = (self.name.clone(), "far too large for what it is");
            return Err(ArchiveError::Tar(TarError::Refused { name, what }));
        }
        self.first(self.size)
    }

    /// Reads its first bytes, fewer where it is shorter.
    pub(super) fn first(&self, count: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = vec![0; usize::try_from(self.size.min(count)).expect("it was bounded")];
        self.file.read_exact_at(&mut bytes, self.offset).map_err(ArchiveError::Read)?;
        Ok(bytes)
    }

    /// Returns the file that it lies in.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Tells where it is.
    pub(super) fn stored(&self) -> StoredDisk {
        let path = self.path.to_string_lossy().into_owned();
        StoredDisk { path, stamp: self.stamp, offset: self.offset, length: self.size }
    }

    /// Returns its file's path and what that was when it was opened.
    pub(super) fn stamped(&self) -> (PathBuf, Stamp) {
        (self.path.clone(), self.stamp)
    }

    /// Tells whether its file was written within the last moments before `now`: perhaps it is not whole yet.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        let age = now.as_nanosecond() - i128::from(self.stamp.mtime_ns);
        (0..FRESH.as_nanos()).contains(&age)
    }

    /// Tells whether its file is still what it was.
    pub(super) fn unchanged(&self) -> Result<bool, ArchiveError> {
        Ok(stamp(&self.file).map_err(ArchiveError::Read)? == self.stamp)
    }
}

/// Returns the SHA-256 of the whole files of parts, one after another.
pub(super) fn whole_hash(parts: &[Part]) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for part in parts {
        let mut file = &*part.file;
        file.rewind()?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
    }
    Ok(hex::encode(hash.finalize()))
}
