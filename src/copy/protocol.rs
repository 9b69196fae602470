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

use crate::domain::id::{DiskKey, RunId};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Disk, TargetDisk};
use crate::journal::record::{Checkpoint, Fault};
use crate::manifest::document::Verify;

/// The version that both ends must agree on.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest frame. The longest message is a job with its disks: 1,000 of them stay far below.
pub const FRAME_MAX: u32 = 16 << 20;

/// What one worker has to do: the disks of one VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CopyJob {
    /// The attempt; one worker at most runs for it.
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

/// What the controller says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum ToWorker {
    /// The first message.
    Start {
        /// See [`PROTOCOL_VERSION`].
        protocol: u32,
        /// What to do.
        job: CopyJob,
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
