//! Raw bytes: files with holes, and block devices.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;

use crate::adapter::confine::Confine;
use crate::adapter::image::locked::failed;
use crate::extent::{Content, Extent};
use crate::port::{Blocks, PortError};

pub(super) struct RawImage {
    path: PathBuf,
    file: File,
    size: u64,
}

pub(super) fn open(confine: &Confine, path: &Path) -> Result<RawImage, PortError> {
    let mut file = File::from(confine.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
    let size =
        file.seek(io::SeekFrom::End(0)).map_err(|error| failed("read", path, None, error))?;
    Ok(RawImage { path: path.to_owned(), file, size })
}

impl Blocks for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn in_flight(&self) -> usize {
        4
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        let end = offset + length;
        let mut at = offset;
        let mut extents = Vec::new();
        while at < end && extents.len() < 4096 {
            let find = |at: u64, from: SeekFrom, none: u64| match seek(&self.file, from) {
                Ok(found) => Ok(found.clamp(at, end)),
                Err(Errno::NXIO) => Ok(end),
                Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(none),
                Err(error) => Err(failed("read", &self.path, Some(at), error.into())),
            };
            let data = find(at, SeekFrom::Data(at), at)?;
            if data > at {
                extents.push(Extent { offset: at, length: data - at, content: Content::Zero });
                at = data;
            }
            if at < end {
                let hole = find(at, SeekFrom::Hole(at), end)?;
                let hole = if hole == at { end } else { hole };
                extents.push(Extent { offset: at, length: hole - at, content: Content::Data });
                at = hole;
            }
        }
        Ok(extents)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| failed("read", &self.path, Some(offset), error))
    }
}
