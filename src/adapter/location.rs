//! Where disks are: what stands in a [`SourceDisk`] and a [`TargetDisk`]. Only adapters look inside.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::domain::id::{TargetName, Token};
use crate::domain::vm::{SourceDisk, TargetDisk};
use crate::manifest::document::{ImageFormat, Transport};

/// What a file was when it was observed. Another inode, size or time means another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// The inode.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// A disk that is a part of a file: a member of an archive, or the whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredDisk {
    /// The file's absolute path.
    pub path: String,
    /// What the file was when it was observed.
    pub stamp: Stamp,
    /// Where the disk starts in it.
    pub offset: u64,
    /// How many bytes are stored.
    pub length: u64,
}

/// An image that lies in an export, and is read at any place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberDisk {
    /// Where its bytes are.
    pub stored: StoredDisk,
    /// What its archive calls it; `None` where it is a file of its own.
    pub member: Option<String>,
    /// How it is stored (`raw`, `qcow2`, `vmdk`), as the export's descriptor says.
    pub format: String,
}

/// An image that is read at any place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDisk {
    /// The absolute path of its file or block device.
    pub path: String,
    /// How it is stored (`raw`, `qcow2`, `vmdk`).
    pub format: String,
    /// In which state its files were when it was looked at.
    pub state: String,
}

/// A disk of a local target: `FOLDER/.ferry-AREA/FILE` while it is copied, `FOLDER/NAME/FILE` once the VM is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalDisk {
    /// The target's folder.
    pub folder: String,
    /// The area that it was made in.
    pub area: Token,
    /// The VM that it becomes a part of.
    pub name: TargetName,
    /// The file within.
    pub file: String,
}

/// The file in an area that whoever converts its guest holds locked.
pub const CONVERT_LOCK: &str = "convert.lock";

/// What the name of an overlay ends with, in place of its disk's ending.
pub const OVERLAY: &str = ".overlay.qcow2";

/// A text that is no location; only a damaged journal holds one.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` tells no place of a disk")]
pub struct NoLocation {
    text: String,
    #[source]
    source: serde_json::Error,
}

impl StoredDisk {
    /// Writes it down.
    pub fn to_source(&self) -> SourceDisk {
        SourceDisk(serde_json::to_string(self).expect("plain fields always serialize"))
    }

    /// Reads it back.
    pub fn parse(disk: &SourceDisk) -> Result<Self, NoLocation> {
        serde_json::from_str(&disk.0).map_err(|source| NoLocation { text: disk.0.clone(), source })
    }
}

/// A disk that is read at any place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlocksDisk {
    /// An image.
    Image(ImageDisk),
    /// The address of an export of an NBD server.
    Nbd(String),
    /// An image in an export.
    Member(MemberDisk),
    /// A disk of a VM at a server of vSphere.
    Vsphere(VsphereDisk),
}

/// A disk of a VM at a server of vSphere. Another VM, file or place is another disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsphereDisk {
    /// The VM's id at the server.
    pub vm: String,
    /// The disk's key among its devices.
    pub key: i32,
    /// Its file: `[DATASTORE] FOLDER/NAME.vmdk`.
    pub file: String,
    /// The inventory path of the datacenter that the datastore is of.
    pub datacenter: String,
    /// Where it is connected: the controller's type, number and the unit there.
    pub slot: String,
    /// How it is read; never `auto`.
    pub transport: Transport,
}

/// Finds where in an export the bytes of a disk are; `None` for a disk of another source.
pub fn stored(disk: &SourceDisk) -> Option<StoredDisk> {
    if let Ok(BlocksDisk::Member(MemberDisk { stored, .. })) = BlocksDisk::parse(disk) {
        return Some(stored);
    }
    StoredDisk::parse(disk).ok()
}

impl MemberDisk {
    /// Returns how a person names it: `FOLDER/web.ova/disk.qcow2`, or its file.
    pub fn shown(&self) -> PathBuf {
        let Self { stored, member, format: _ } = self;
        let path = PathBuf::from(&stored.path);
        member.as_ref().map_or(path.clone(), |member| path.join(member))
    }
}

impl BlocksDisk {
    /// Writes it down.
    pub fn to_source(&self) -> SourceDisk {
        SourceDisk(serde_json::to_string(self).expect("plain fields always serialize"))
    }

    /// Reads it back.
    pub fn parse(disk: &SourceDisk) -> Result<Self, NoLocation> {
        serde_json::from_str(&disk.0).map_err(|source| NoLocation { text: disk.0.clone(), source })
    }
}

impl LocalDisk {
    /// Names the file beside it that a conversion writes over it.
    pub fn overlay(&self) -> String {
        let stem = self.file.rsplit_once('.').map_or(self.file.as_str(), |(stem, _)| stem);
        format!("{stem}{OVERLAY}")
    }

    /// Names the block map beside it.
    pub fn map(&self) -> String {
        format!("{}.map", self.file)
    }

    /// Returns how its file stores it. Its name says it, and never what a guest wrote.
    pub fn format(&self) -> ImageFormat {
        match self.file.rsplit_once('.') {
            Some((_, "qcow2")) => ImageFormat::Qcow2,
            Some(_) | None => ImageFormat::Raw,
        }
    }

    /// Writes it down.
    pub fn to_target(&self) -> TargetDisk {
        TargetDisk(serde_json::to_string(self).expect("plain fields always serialize"))
    }

    /// Reads it back.
    pub fn parse(disk: &TargetDisk) -> Result<Self, NoLocation> {
        serde_json::from_str(&disk.0).map_err(|source| NoLocation { text: disk.0.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_journals_hold_is_read() {
        let stored = r#"{"path":"/x/web.ova","stamp":{"inode":7,"size":4096,"mtime_ns":9},"offset":1536,"length":512}"#;
        let image = r#"{"image":{"path":"/x/a.qcow2","format":"qcow2","state":"inode 7"}}"#;
        let member =
            format!(r#"{{"member":{{"stored":{stored},"member":"a.qcow2","format":"qcow2"}}}}"#);
        for text in [image, r#"{"nbd":"nbd://host/disk"}"#, &member] {
            let disk = BlocksDisk::parse(&SourceDisk(text.to_owned())).unwrap();
            assert_eq!(disk.to_source().0, text);
        }
        let text = |text: &str| super::stored(&SourceDisk(text.to_owned()));
        assert_eq!(text(stored), text(&member));
        assert_eq!(text(stored).unwrap().offset, 1536);
        assert_eq!(text(image), None);
        let BlocksDisk::Member(member) = BlocksDisk::parse(&SourceDisk(member)).unwrap() else {
            panic!("it is one of an export");
        };
        assert_eq!(member.shown(), PathBuf::from("/x/web.ova/a.qcow2"));
        let alone = MemberDisk { member: None, ..member };
        assert_eq!(alone.shown(), PathBuf::from("/x/web.ova"));
    }
}
