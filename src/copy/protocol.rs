//! What a controller and a worker say to each other.
//!
//! # Flow
//!
//! A message is one frame: a length (u32, little-endian, at most [`FRAME_MAX`]) and that many bytes of JSON. The controller
//! opens with [`ToWorker::Start`]. Everything that the worker says which must not be lost is numbered from 1 and said again
//! after [`ToWorker::Resend`] until [`ToWorker::Acknowledge`] covers its number; [`FromWorker::Progress`] may be lost. While
//! [`UNACKNOWLEDGED_MAX`](crate::copy::worker::UNACKNOWLEDGED_MAX) messages wait to be acknowledged the worker makes no more
//! progress. It ends after its last numbered message was acknowledged, at once when the pipe closes, and at the next boundary
//! after [`ToWorker::Stop`].

use serde::{Deserialize, Serialize};

use crate::desired::Trust;
use crate::domain::id::{DiskKey, RunId};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Disk, TargetDisk};
use crate::journal::record::{Checkpoint, Fault};
use crate::manifest::document::Verify;

/// The version that both ends must agree on.
pub const PROTOCOL_VERSION: u32 = 3;

/// The longest frame. The longest message is a job with its disks: 1,000 of them stay far below.
pub const FRAME_MAX: u32 = 16 << 20;

/// What one worker has to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Job {
    /// Copies the disks of a VM, and compares them.
    Copy(CopyJob),
    /// Converts the guest of a VM whose disks are copied.
    Convert(ConvertJob),
}

impl Job {
    /// Returns the attempt that it is done for; one worker at most runs for it.
    pub fn run(&self) -> &RunId {
        match self {
            Self::Copy(job) => &job.run,
            Self::Convert(job) => &job.run,
        }
    }

    /// Returns the folder of the library of VMware that it may need.
    pub fn library(&self) -> Option<&str> {
        match self {
            Self::Copy(job) => job.access.as_ref()?.library.as_deref(),
            Self::Convert(_) => None,
        }
    }
}

/// The disks of one VM, copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CopyJob {
    /// The attempt.
    pub run: RunId,
    /// The disks.
    pub disks: Vec<DiskJob>,
    /// How much is read again and compared.
    pub verify: Verify,
    /// Files that images may be opened below (the settings' `allowPaths`).
    pub allow_paths: Vec<String>,
    /// The bound on buffers over all disks of this job.
    pub memory: Bytes,
    /// How much of a disk is copied between two checkpoints.
    pub checkpoint_every: Bytes,
    /// The server that the disks are read from, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

/// How a server of vSphere is reached. The secret stays in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Access {
    /// The address of its API.
    pub url: String,
    /// Who logs in.
    pub username: String,
    /// The file of the password.
    pub password_file: String,
    /// How it is trusted.
    pub trust: Trust,
    /// The folder of VMware's library, where the settings name it.
    pub library: Option<String>,
}

/// What is to be done with one disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DiskJob {
    /// The disk at the source.
    pub disk: Disk,
    /// Where it is written.
    pub target: TargetDisk,
    /// How far an earlier worker came; `None` starts at the beginning.
    pub checkpoint: Option<Checkpoint>,
    /// The root of its hash tree, where it is copied already and only compared again.
    pub copied: Option<String>,
}

/// One guest, made fit for KVM: on overlays over its disks, which are then committed to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConvertJob {
    /// The attempt.
    pub run: RunId,
    /// The guest's name, for the log.
    pub name: String,
    /// All disks of the VM, in their order.
    pub disks: Vec<ConvertDisk>,
    /// Whether it is a fact that the overlays hold the whole conversion: then they are committed, else they are made anew.
    pub converted: bool,
    /// Files that may be opened lie below (the settings' `allowPaths`).
    pub allow_paths: Vec<String>,
    /// The converter.
    pub tools: ConvertTools,
}

/// One disk of a guest that is converted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConvertDisk {
    /// The disk.
    pub disk: DiskKey,
    /// Where it was copied to.
    pub target: TargetDisk,
    /// Whether its overlay is committed.
    pub committed: bool,
}

/// What a guest is converted with, by the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConvertTools {
    /// virt-v2v-in-place: a path, or a name that is searched.
    pub program: String,
    /// Where it keeps its temporary files.
    pub tmp_dir: String,
    /// The drivers for Windows: a folder or an ISO image.
    pub virtio_win: String,
    /// The folder of its logs, one file for each attempt.
    pub log_dir: String,
}

/// What the controller says.
#[expect(clippy::large_enum_variant, reason = "one for each worker is large")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum ToWorker {
    /// The first message.
    Start {
        /// See [`PROTOCOL_VERSION`].
        protocol: u32,
        /// What to do.
        job: Job,
    },
    /// Everything up to this number is journaled.
    Acknowledge {
        /// The number.
        number: u64,
    },
    /// Say everything again that is not acknowledged.
    Resend,
    /// Checkpoint and end.
    Stop,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum FromWorker {
    /// Numbered: kept until it is acknowledged.
    Said {
        /// Counts from 1 within one worker's life.
        number: u64,
        /// What it says.
        news: News,
    },
    /// Not numbered: for eyes only.
    Progress {
        /// The disk.
        disk: DiskKey,
        /// What is done with it.
        stage: Stage,
        /// How much of the disk's capacity is behind.
        done: Bytes,
    },
    /// Not numbered: what the converter does now, in its own words.
    Doing {
        /// The words.
        text: String,
    },
}

/// What a worker does with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It copies.
    Copy,
    /// It reads the target again.
    Verify,
}

/// What must not be lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum News {
    /// Everything before a position is durable.
    Checkpointed(Checkpoint),
    /// A disk is copied, durable, and (where the source has a checksum) what was exported.
    Copied {
        /// The disk.
        disk: DiskKey,
        /// What was written, zeros left out.
        written: Bytes,
        /// The root of its hash tree, in hexadecimal.
        root: String,
    },
    /// A disk was read again and compared.
    Verified {
        /// The disk.
        disk: DiskKey,
    },
    /// The guest is converted on overlays that are durable.
    Converted {
        /// What the converter warned of.
        warnings: Vec<String>,
    },
    /// A disk's overlay is committed to it, durably.
    Committed {
        /// The disk.
        disk: DiskKey,
    },
    /// Nothing more comes: the job failed.
    Failed(Fault),
    /// Nothing more comes: everything is done, or the worker was told to stop.
    Ended,
}

/// One thing that a worker said, as the port `Workers` hands it on.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerEvent {
    /// Whose worker.
    pub run: RunId,
    /// What it said.
    pub said: FromWorker,
}
