//! What is journaled: facts only, intents among them, never a phase.
//!
//! An intent is a fact ("this step may now be attempted") written before an effect that must not repeat. A record is
//! versioned; a journal that holds a record newer than the binary is refused as a whole.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::domain::id::{
    CommitId, Digest, DiskKey, MigrationName, RunId, SourceVm, TargetName, Token, VmKey, VmName,
};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Power, TargetDisk, Vm};

/// The version of the records that this binary writes. A reader refuses higher ones and reads all lower ones.
pub const RECORD_VERSION: u32 = 2;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The format; see [`RECORD_VERSION`].
    pub version: u32,
    /// When it was written.
    pub at: Timestamp,
    /// What it says.
    pub entry: Entry,
}

/// What a record speaks of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Entry {
    /// One attempt at one VM.
    Run {
        /// Which attempt.
        run: RunId,
        /// What happened.
        fact: Fact,
    },
    /// The repository and what was read from it.
    Repo(RepoFact),
}

impl Entry {
    /// Tells which entries may take the room that is kept for a full state folder (safety rule 21): what an effect that was
    /// made already turned out to be, and what goes on with, finishes or undoes a VM that may be off. Nothing that begins
    /// something or takes something down, and no checkpoints, of which there are many.
    pub fn may_use_reserve(&self) -> bool {
        let Self::Run { run: _, fact } = self else { return false };
        match fact {
            Fact::Began(_)
            | Fact::ClaimIntended { .. }
            | Fact::PowerRemembered { .. }
            | Fact::PowerOffIntended { .. }
            | Fact::ForceIntended
            | Fact::Checkpointed(_) => false,
            Fact::Claimed
            | Fact::Unclaimable
            | Fact::ShutdownRequested { .. }
            | Fact::SourceOff
            | Fact::DisksCreated { .. }
            | Fact::DiskCopied { .. }
            | Fact::DiskVerified { .. }
            | Fact::ConversionIntended
            | Fact::Converted { .. }
            | Fact::DiskCommitted { .. }
            | Fact::CreateIntended
            | Fact::VmCreated
            | Fact::NotStarted
            | Fact::StartIntended { .. }
            | Fact::Started
            | Fact::MarkedMigrated
            | Fact::Completed
            | Fact::UndoBegan { .. }
            | Fact::RemovalIntended
            | Fact::AreaRemoved
            | Fact::PowerOnIntended { .. }
            | Fact::SourceOn
            | Fact::ClaimReleased
            | Fact::Undone
            | Fact::AreaIntended { .. }
            | Fact::AreaAdopted { .. }
            | Fact::Resumed { .. }
            | Fact::Tried(_)
            | Fact::Stalled(_) => true,
        }
    }
}

/// What is remembered about the repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum RepoFact {
    /// A commit of the watched branch was taken as what people want.
    Accepted {
        /// The commit.
        commit: CommitId,
    },
    /// A person accepted a commit that was held (`ferry adopt`), or took over a repository with an empty journal.
    Adopted {
        /// The commit.
        commit: CommitId,
    },
    /// A plan's entry means this VM from now on.
    Pinned {
        /// The entry.
        key: VmKey,
        /// The entry's own text, as a digest: another text may mean another VM.
        entry: Digest,
        /// The migration it was pinned for; a new one pins anew.
        migration: MigrationName,
        /// The VM.
        vm: SourceVm,
    },
    /// A migration was seen for the first time. Their order is the order of the runs.
    MigrationSeen {
        /// The migration.
        migration: MigrationName,
    },
    /// A `Migration` that says `now` was seen in this version for the first time: its `now` is that moment.
    NowSeen {
        /// The migration.
        migration: MigrationName,
        /// The document's own text, as a digest.
        digest: Digest,
    },
    /// A `Migration` names a time for its VMs, or for one of them.
    Timed {
        /// The migration.
        migration: MigrationName,
        /// The VM, by its name in the plan; `None` for all.
        vm: Option<VmName>,
    },
    /// What became of a cutover's time.
    Cutover {
        /// The migration.
        migration: MigrationName,
        /// The entry.
        key: VmKey,
        /// The time.
        time: Timestamp,
        /// What became of it.
        verdict: CutoverVerdict,
    },
    /// A file parsed, and this version of it counts until another one parses.
    LastGood {
        /// Its path below the configured folder.
        file: String,
        /// The blob in the object database.
        blob: String,
    },
    /// A file is gone from the tree.
    FileGone {
        /// Its path below the configured folder.
        file: String,
    },
}

/// What became of a cutover's time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum CutoverVerdict {
    /// It came, and nothing stood against it then: the VM stays due while its windows allow.
    Due,
    /// It passed, and is never caught up with.
    Missed {
        /// Why.
        why: String,
    },
}

/// What a run was begun with. Undoing and finishing need nothing else: the plan may be gone by then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Instructions {
    /// What people wanted.
    pub desired: Arc<Desired>,
    /// The VM as it was seen.
    pub vm: Arc<Vm>,
    /// What it is called on the target.
    pub target_name: TargetName,
    /// The digest that the verdict was made for.
    pub digest: Digest,
    /// The commit that asked for it.
    pub commit: CommitId,
}

/// What turned out true about one attempt at one VM, or is intended before it is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Fact {
    /// The attempt begins.
    Began(Box<Instructions>),
    /// The mark on the source VM may be written.
    ClaimIntended {
        /// The mark's token.
        token: Token,
    },
    /// The mark stands on the source VM.
    Claimed,
    /// The source keeps no marks.
    Unclaimable,
    /// The source's power state right before a shutdown, or before the copy of a VM that is off.
    PowerRemembered {
        /// The state.
        power: Power,
    },
    /// The guest may be shut down.
    PowerOffIntended {
        /// Names this shutdown.
        token: Token,
    },
    /// The guest was asked to shut down.
    ShutdownRequested {
        /// When patience ends.
        deadline: Timestamp,
    },
    /// Power may be cut: the deadline passed and the plan says `force`.
    ForceIntended,
    /// The source was observed off.
    SourceOff,
    /// The partial area on the target may be made.
    AreaIntended {
        /// Names the area; nobody else makes one of this name.
        token: Token,
    },
    /// The disks stand in the area, empty.
    DisksCreated {
        /// One for each disk of the VM.
        disks: Vec<(DiskKey, TargetDisk)>,
    },
    /// The partial area of an earlier attempt at the same unchanged VM is gone on with.
    AreaAdopted {
        /// The area.
        area: Token,
        /// Its disks as far as they came.
        disks: Vec<DiskCopy>,
    },
    /// Everything of a disk before a position is durable on the target, its block map too.
    Checkpointed(Checkpoint),
    /// A disk is copied and durable.
    DiskCopied {
        /// The disk.
        disk: DiskKey,
        /// What was written (zeros left out).
        written: Bytes,
        /// The root of its hash tree, in hexadecimal.
        root: String,
    },
    /// A disk was read again from the target and its hashes are those of the source.
    DiskVerified {
        /// The disk.
        disk: DiskKey,
    },
    /// The guest may be converted, on overlays over its disks.
    ConversionIntended,
    /// Durable overlays hold the whole conversion, and may be committed: from here on the disks are no copies any more.
    Converted {
        /// What the converter warned of.
        warnings: Vec<String>,
    },
    /// A disk's overlay is committed to it.
    DiskCommitted {
        /// The disk.
        disk: DiskKey,
    },
    /// The VM may be made on the target.
    CreateIntended,
    /// The VM stands on the target, off.
    VmCreated,
    /// The VM was to be started, and stays off: its target starts nothing. Nothing is undone from here on, as after
    /// [`Fact::VmCreated`] where nothing is to be started.
    NotStarted,
    /// The VM may be started on the target. The point of no return.
    StartIntended {
        /// Names this start.
        token: Token,
    },
    /// The VM was observed running on the target.
    Started,
    /// The source VM is marked as migrated, or keeps no marks.
    MarkedMigrated,
    /// The VM is migrated.
    Completed,
    /// The attempt is given up and undone.
    UndoBegan {
        /// Why.
        why: Abandon,
    },
    /// What the attempt made on the target may be deleted.
    RemovalIntended,
    /// What the attempt made on the target is gone.
    AreaRemoved,
    /// The source may be powered on again.
    PowerOnIntended {
        /// Names this power-on.
        token: Token,
    },
    /// The source was observed on again.
    SourceOn,
    /// The mark on the source VM is gone.
    ClaimReleased,
    /// Everything is as it was before the attempt.
    Undone,
    /// A step was tried and failed.
    Tried(Fault),
    /// Nothing is tried any more until something changes.
    Stalled(Fault),
    /// A stall ended.
    Resumed {
        /// What ended it.
        why: String,
    },
}

/// How far the copy of a disk is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Checkpoint {
    /// The disk.
    pub disk: DiskKey,
    /// Where the reader goes on; opaque above the adapters.
    pub resume: String,
    /// How much of what the source stores was read up to here.
    pub read: Bytes,
    /// How much of the guest's view is on the target, zeros included.
    pub done: Bytes,
    /// How much was written, zeros left out.
    pub written: Bytes,
}

/// One disk's copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DiskCopy {
    /// The disk.
    pub disk: DiskKey,
    /// Where it is written.
    pub target: TargetDisk,
    /// How far it came.
    pub checkpoint: Option<Checkpoint>,
    /// The root of its hash tree once it is copied.
    pub root: Option<String>,
    /// What was written once it is copied.
    pub written: Bytes,
    /// Whether it was read again and compared.
    pub verified: bool,
    /// Whether a conversion was, or may have been, written into it: no checkpoint and no hash speaks of it any more.
    #[serde(default)]
    pub converted: bool,
}

/// Why an attempt is given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "fault")]
pub enum Abandon {
    /// `cancel` names it.
    Canceled,
    /// Its `Migration` is gone from git.
    MigrationGone,
    /// It stalled, and what it was begun with has changed since: a new attempt takes its place.
    Superseded,
    /// It failed after the source was shut down, which therefore comes back.
    Failed(Fault),
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Fault {
    /// What went wrong, in one sentence without a full stop.
    pub text: String,
    /// What a person can do about it.
    pub remedy: String,
    /// What Ferry does about it.
    pub disposition: Disposition,
}

/// What a failure asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "mend")]
pub enum Disposition {
    /// It may pass: the step is tried again, a bounded number of times.
    Retry,
    /// It will not pass by itself.
    Stall(Mend),
}

/// What must be observed before a stall ends by itself. A commit that changes an input and a new `Migration` end every
/// stall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "bytes")]
pub enum Mend {
    /// So many bytes are free on the target.
    Space(Bytes),
    /// The source can be read again.
    Source,
    /// The target can be read again.
    Target,
    /// Only people can mend it.
    Person,
}
