//! A VM, its disks, network cards and firmware in no vendor's words.

use serde::{Deserialize, Serialize};

use crate::domain::id::{DiskKey, SourceVm};
use crate::domain::unit::Bytes;

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// It runs, or is suspended: its disks may change or are not consistent.
    On,
    /// It is off.
    Off,
}

/// How the firmware starts the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// BIOS, from the boot sector.
    Bios,
    /// UEFI, from the system partition.
    Efi,
}

/// Whether the source can tell that what is read is what was exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "value")]
pub enum Checksum {
    /// SHA-1 of the stored file, in hexadecimal.
    Sha1(String),
    /// SHA-256 of it.
    Sha256(String),
    /// SHA-512 of it.
    Sha512(String),
    /// There is one, by a method that is not checked yet (its name).
    Unchecked(String),
    /// The source has none.
    Absent,
}

impl Checksum {
    /// Returns the method's name and the hash, where it can be checked.
    pub fn stated(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Sha1(hash) => Some(("SHA-1", hash)),
            Self::Sha256(hash) => Some(("SHA-256", hash)),
            Self::Sha512(hash) => Some(("SHA-512", hash)),
            Self::Unchecked(_) | Self::Absent => None,
        }
    }
}

/// How a source stores a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "value")]
pub enum DiskFormat {
    /// A stream-optimized VMDK, read forward only.
    StreamOptimized,
    /// An image or a server that is read at any place; what it is stands in [`Disk::source`].
    Blocks,
    /// An empty disk: the source describes it and stores nothing.
    Empty,
    /// Anything else, by the name that the source gives it.
    Unsupported(String),
}

/// Where a reader finds a disk. Opaque above the adapters: made by a source, understood by its reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceDisk(pub String);

/// Where a writer finds a disk. Opaque above the adapters: made by a target, understood by its writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TargetDisk(pub String);

/// What a guest's conversion may take on the target beside the disks: overlays with what it changes, which are there while it is
/// committed, too. virt-v2v(1) calls tens or low hundreds of mebibytes a disk typical, and begins with no less than 1 GiB free
/// where it keeps them itself.
pub const CONVERSION_ROOM: Bytes = Bytes::mib(1024);

/// One disk of a source VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Disk {
    /// Stable over observations.
    pub key: DiskKey,
    /// What the guest sees.
    pub capacity: Bytes,
    /// How much the source stores of it, where it says so.
    pub stored: Option<Bytes>,
    /// How it is stored.
    pub format: DiskFormat,
    /// What the stored bytes are compared with.
    pub checksum: Checksum,
    /// Where the reader finds it.
    pub source: SourceDisk,
}

/// One network card of a source VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Nic {
    /// The network's name at the source.
    pub network: String,
    /// Its hardware address, where the source keeps one.
    pub mac: Option<String>,
}

/// Whether the source VM carries a mark of Ferry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "token")]
pub enum Claim {
    /// The source keeps no marks: a file that is only read.
    Impossible,
    /// Nobody claims it.
    Free,
    /// Claimed under this token.
    Held(String),
    /// Marked as migrated under this token.
    Migrated(String),
}

/// One VM at a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Vm {
    /// What it is.
    pub id: SourceVm,
    /// What the source's inventory calls it.
    pub name: String,
    /// Its path in the inventory: for an OVA `FILE.ova/SYSTEM`.
    pub path: String,
    /// Whether it runs.
    pub power: Power,
    /// How it boots; `None` where the source does not say.
    pub firmware: Option<Firmware>,
    /// Whether its UEFI starts only what is signed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure_boot: bool,
    /// Whether it has a virtual TPM, whose content no source gives away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tpm: bool,
    /// Virtual CPUs; `None` where the source does not say.
    pub cpus: Option<u32>,
    /// How many of them the guest sees in one socket; `None` where the source does not say, or they do not fill sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores_per_socket: Option<u32>,
    /// Memory; `None` where the source does not say.
    pub memory: Option<Bytes>,
    /// The guest's operating system as the source names it (`debian12_64Guest`).
    pub os: Option<String>,
    /// Its disks, in the order of their controllers and units: the first one boots.
    pub disks: Vec<Disk>,
    /// Its network cards, in order.
    pub nics: Vec<Nic>,
    /// Ferry's mark on it.
    pub claim: Claim,
    /// What a server that runs VMs tells besides.
    #[serde(default, skip_serializing_if = "Hosted::is_nothing")]
    pub hosted: Hosted,
}

/// What a server that runs VMs tells of one besides what it is made of. A file that was exported has nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a server tells")]
pub struct Hosted {
    /// What people and programs call it there besides its name: its id in the inventory, its UUIDs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// How its disks are read, and why that way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reading: Option<String>,
    /// What it ran in memory is stored, and its disks are not consistent by themselves.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// It runs, and nobody in the guest hears that it is asked to shut down.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deaf: bool,
    /// It waits for a person's answer to this question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// How many snapshots it has.
    #[serde(skip_serializing_if = "is_zero")]
    pub snapshots: u32,
    /// Its disks are encrypted by the server.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// A second copy of it runs in step.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fault_tolerant: bool,
    /// It is bound to certain CPUs or NUMA nodes of its host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// CPUs or memory may be added while it runs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hot_plug: bool,
    /// Disks that other VMs may write, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shared_disks: Vec<DiskKey>,
    /// Devices of the host that are passed through, by the source's names of their kinds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_through: Vec<String>,
    /// Devices that no target gets, by the source's names of their kinds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
}

impl Hosted {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Vm {
    /// Returns what all disks hold as the guest sees them.
    pub fn capacity(&self) -> Bytes {
        self.disks.iter().map(|disk| disk.capacity).sum()
    }

    /// Tells whether a person who writes this means it: its name, its path, or one of its identifiers.
    pub fn is_called(&self, text: &str) -> bool {
        [self.name.as_str(), &self.path, &self.id.to_string()].contains(&text)
            || self.hosted.ids.iter().any(|id| id.eq_ignore_ascii_case(text))
    }

    /// Tells whether the source says that the guest is a Windows.
    pub fn is_windows(&self) -> bool {
        // `windows2019srv_64Guest`, `winNetStandardGuest`, `Microsoft Windows Server 2019`; not `darwin23_64Guest`.
        let os = self.os.as_deref().unwrap_or_default().to_ascii_lowercase();
        os.starts_with("win") || os.contains("windows")
    }

    /// Returns how much is read to copy it: what is stored, of each disk of which that is known.
    pub fn to_copy(&self) -> Bytes {
        self.disks.iter().map(|disk| disk.stored.unwrap_or(disk.capacity)).sum()
    }
}
