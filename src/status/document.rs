//! The documents of a report, one type per kind. They are written for people and tools, and read by `ferry status --repo`
//! only: no manifest parsing ever sees them.
//!
//! # Guarantees
//!
//! Nothing in them changes with the clock alone: times come from the journal, rounded down to whole seconds, and bytes stand
//! at the ends of disks. Fields that end in `Ms` were measured, in milliseconds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::id::{CommitId, Digest, DiskKey, Instance, MigrationName, SourceVm, TargetName};
use crate::domain::unit::Bytes;
use crate::manifest::diagnostic::{Finding, Place, Severity};
use crate::manifest::document::PlanType;
use crate::preview::Estimate;

/// The kind of a plan's document.
pub const PLAN_KIND: &str = "PlanReport";

/// The kind of an instance's document.
pub const INSTANCE_KIND: &str = "InstanceReport";

/// The kind of a VM's document, after the resource of that name in the Migration Toolkit for Virtualization.
pub const VM_KIND: &str = "VirtualMachineImport";

/// How a plan or a VM stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Word {
    /// Something stands against it, or it could not be judged.
    #[serde(rename = "Not ready")]
    NotReady,
    /// It may move.
    Ready,
    /// It moves.
    Running,
    /// It is migrated.
    Completed,
    /// It failed, or nothing is tried any more until something changes.
    Failed,
    /// It was canceled or withdrawn.
    Canceled,
    /// It is out of use.
    Archived,
}

impl Word {
    /// Every word, in the order in which a page explains their signs.
    pub const ALL: [Self; 7] = [
        Self::Completed,
        Self::Running,
        Self::Ready,
        Self::NotReady,
        Self::Failed,
        Self::Canceled,
        Self::Archived,
    ];

    /// Returns the word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "Not ready",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Canceled => "Canceled",
            Self::Archived => "Archived",
        }
    }

    /// Returns its sign; what a preview shows as well has the same sign there.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::NotReady => "!",
            Self::Ready => "+",
            Self::Running => "~",
            Self::Completed => "✓",
            Self::Failed => "✗",
            Self::Canceled => "-",
            Self::Archived => "=",
        }
    }
}

/// The name of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ReportName {
    /// The plan's name, or the VM's name in it.
    pub name: String,
    /// The plan of a VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody can tell.
    Unknown,
}

/// The things that hold or do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionType {
    /// Nothing stands against it.
    Ready,
    /// It moves.
    Running,
    /// It is migrated.
    Succeeded,
    /// It failed or stalled.
    Failed,
    /// It is migrated, was to run, and was not started, since its target starts nothing. Said only where it holds.
    NotStarted,
}

/// One thing that holds or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: Holds,
    /// Why, in one word for tools.
    pub reason: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when; left out where the journal does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
}

/// What is reported of everything that one controller does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InstanceReport {
    /// The API group and version.
    pub api_version: String,
    /// See [`INSTANCE_KIND`].
    pub kind: String,
    /// Who reports.
    pub instance: Instance,
    /// The commit that counts, for all documents beside this one: were it in each, each commit would change them all.
    pub observed_commit: CommitId,
    /// Why a newer commit does not count yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Its plans.
    pub plans: Vec<PlanLine>,
    /// What is wrong with manifests and is no single VM's matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<ConcernReport>,
}

/// A plan within the report of everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PlanLine {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: Word,
    /// Its VMs, counted.
    pub totals: Totals,
}

/// VMs, counted and added up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Totals {
    /// How many there are.
    pub vms: usize,
    /// How many are migrated.
    pub migrated: usize,
    /// How many move.
    pub moving: usize,
    /// How many may move.
    pub ready: usize,
    /// How many are blocked or could not be judged.
    pub not_ready: usize,
    /// How many failed or stalled.
    pub failed: usize,
    /// How many were canceled or are archived.
    pub resting: usize,
    /// What the guests of all of them see, as far as that is known, in bytes.
    pub provisioned: Bytes,
    /// What was written for those that are migrated, in bytes.
    pub written: Bytes,
}

/// What is reported of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PlanReport {
    /// The API group and version.
    pub api_version: String,
    /// See [`PLAN_KIND`].
    pub kind: String,
    /// Its name.
    pub metadata: ReportName,
    /// Who reports.
    pub instance: Instance,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Names the source.
    pub source: String,
    /// The address of the source, where whoever answers there is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub believed: Option<String>,
    /// Names the target.
    pub target: String,
    /// Cold or warm.
    #[serde(rename = "type")]
    pub plan_type: PlanType,
    /// How it stands.
    pub status: Word,
    /// Its VMs, counted.
    pub totals: Totals,
    /// How it stands, in parts.
    pub conditions: Vec<Condition>,
    /// Its VMs.
    pub vms: Vec<VmLine>,
}

/// A VM within its plan's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VmLine {
    /// Its name in the plan.
    pub name: String,
    /// How it stands.
    pub status: Word,
    /// Which attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The step that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepName>,
    /// What it waits for, or what stands against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// What it is called on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// What its guest sees, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioned: Option<Bytes>,
    /// What was written of all its disks, in bytes; once they are copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Bytes>,
    /// How long its copy should take, in seconds, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_seconds: Option<u64>,
    /// How long the attempt took, once it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// How many things were found about it.
    pub concerns: usize,
    /// The digest that it was begun with, or would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What is reported of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VmReport {
    /// The API group and version.
    pub api_version: String,
    /// See [`VM_KIND`].
    pub kind: String,
    /// Its name and plan.
    pub metadata: ReportName,
    /// Who reports.
    pub instance: Instance,
    /// Where it comes from.
    pub source: SourceReport,
    /// Where it goes.
    pub target: TargetReport,
    /// The migration that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationName>,
    /// Which attempt, from 1; left out before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The digest that the attempt was begun with; before, the one it would begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The commit that the attempt was begun for. Before an attempt the plan's report names the commit, so that a commit
    /// that does not concern a VM does not change its report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_commit: Option<CommitId>,
    /// How it stands.
    pub status: Word,
    /// How the attempt ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// The phase in the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Why nothing is done at this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// What a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What its guest sees, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioned: Option<Bytes>,
    /// What its source stores, in bytes, where it says so of every disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Bytes>,
    /// How long its copy should take, as the preview says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// How long its copy took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<Estimate>,
    /// How long the attempt took, once it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// How it stands, in parts.
    pub conditions: Vec<Condition>,
    /// The steps of the attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pipeline: Vec<Step>,
    /// The disks of the attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskReport>,
    /// What the converter warned of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conversion_warnings: Vec<String>,
    /// What was found about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concerns: Vec<ConcernReport>,
}

/// Where a VM comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SourceReport {
    /// Names the provider.
    pub provider: String,
    /// What it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<SourceVm>,
    /// How its disks are read, or were, and why that way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<String>,
    /// The address of the server, where whoever answers there is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub believed: Option<String>,
}

/// Where a VM goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetReport {
    /// Names the provider.
    pub provider: String,
    /// What it is called there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<TargetName>,
}

/// The steps that a person follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StepName {
    /// Claims the source, shuts it down where it runs, makes room on the target.
    Initialize,
    /// Copies the disks.
    DiskTransfer,
    /// Looks once more whether the source is off and unchanged.
    Cutover,
    /// Reads the target again and compares.
    Verify,
    /// Makes the guest fit for KVM.
    ImageConversion,
    /// Makes the VM on the target, starts it where that is wanted, marks the source.
    VirtualMachineCreation,
}

impl StepName {
    /// Returns the name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "Initialize",
            Self::DiskTransfer => "DiskTransfer",
            Self::Cutover => "Cutover",
            Self::Verify => "Verify",
            Self::ImageConversion => "ImageConversion",
            Self::VirtualMachineCreation => "VirtualMachineCreation",
        }
    }
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepStatus {
    /// Its turn comes.
    Pending,
    /// It is under way.
    Running,
    /// It is done.
    Completed,
    /// The attempt failed or stalled in it.
    Failed,
    /// The attempt was given up in it.
    Canceled,
    /// The attempt does without it.
    Skipped,
}

impl StepStatus {
    /// Returns the word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::Canceled => "Canceled",
            Self::Skipped => "Skipped",
        }
    }

    /// Returns its sign, as [`Word::symbol`] has them.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Pending | Self::Skipped => "·",
            Self::Running => "~",
            Self::Completed => "✓",
            Self::Failed => "✗",
            Self::Canceled => "-",
        }
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// How it stands.
    pub status: StepStatus,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DiskReport {
    /// Which.
    pub disk: DiskKey,
    /// What the guest sees, in bytes.
    pub capacity: Bytes,
    /// What the source stores of it, in bytes, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Bytes>,
    /// How far its copy came within the capacity, in bytes; once it is copied or nothing goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<Bytes>,
    /// What was written, zeros left out, in bytes; once it is copied or nothing goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Bytes>,
    /// The root of its hash tree; once it is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Whether it was read again and compared.
    pub verified: bool,
    /// Whether its guest was converted after that: the hashes are those of the copy, and speak of the disk no more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub converted: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConcernReport {
    /// Its stable name.
    pub id: String,
    /// How much it weighs.
    pub category: Severity,
    /// What was found.
    pub assessment: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Where the text stands that has to change.
    pub place: Place,
}

impl From<&Finding> for ConcernReport {
    fn from(finding: &Finding) -> Self {
        let Finding { code, severity, place, text, hint } = finding.clone();
        Self { id: code, category: severity, assessment: text, remedy: hint, place }
    }
}
