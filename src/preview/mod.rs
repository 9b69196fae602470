//! What `run` would do, as a person reads it before a merge: one row per VM with bytes, estimate and the reasons.
//!
//! # Guarantees
//!
//! A preview is made of the very values that `run` executes. The same inputs give the same bytes: it holds no age and no
//! time of now. What strangers wrote is escaped when it is rendered, in every format.

#![deny(clippy::wildcard_enum_match_arm)]

mod render;

pub(crate) use crate::preview::render::{bare, harmless, lines, seconds_last, told, trimmed};

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::decide::{Decision, Rest, Stand, Standing, Wait};
use crate::desired::Wanted;
use crate::domain::id::{CommitId, Digest, Instance, SourceVm, TargetName, VmKey};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Power, Vm};
use crate::journal::phase::Phase;
use crate::journal::progress::{Progress, Run};
use crate::manifest::diagnostic::Finding;
use crate::manifest::document::{PlanType, TargetPowerState, Verify};
use crate::policy::{Outcome, Verdict};

/// The version of the JSON form. It counts up when a field changes its meaning or goes.
pub const FORMAT_VERSION: u32 = 1;

/// How many bytes a second an estimate reckons with, until there are measurements: what a gigabit link carries.
pub const DEFAULT_RATE: Bytes = Bytes::mib(110);

/// What a preview is made of.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Who would do it.
    pub instance: &'a Instance,
    /// The commit that asks for it.
    pub commit: &'a CommitId,
    /// The manifests.
    pub wanted: &'a Wanted,
    /// One verdict per entry.
    pub verdicts: &'a [Verdict],
    /// What the journal adds up to.
    pub progress: &'a Progress,
    /// What is to be done.
    pub decision: &'a Decision,
    /// Why a newer commit does not count yet.
    pub held: Option<&'a str>,
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Who would do it.
    pub instance: Instance,
    /// The commit that asks for it.
    pub commit: CommitId,
    /// Whether something would be done and nothing stands against any of it.
    pub applyable: bool,
    /// Whether every VM could be judged.
    pub complete: bool,
    /// Whether a manifest is wrong.
    pub errored: bool,
    /// The totals.
    pub summary: Summary,
    /// What is wrong with manifests beyond single entries.
    pub manifests: Vec<Finding>,
    /// One for each entry, and for each attempt that moves without one.
    pub vms: Vec<Row>,
}

/// The totals of a preview.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many VMs begin to move.
    pub start: usize,
    /// How many go on.
    pub go_on: usize,
    /// How many are undone.
    pub withdraw: usize,
    /// How many are blocked.
    pub blocked: usize,
    /// How many could not be judged.
    pub unknown: usize,
    /// How many need nothing.
    pub unchanged: usize,
    /// What the guests of those that begin see.
    pub provisioned: Bytes,
    /// What is read of their sources: what is stored, where that is known.
    pub to_copy: Bytes,
    /// How long that takes one after another, in seconds.
    pub seconds: u64,
}

/// What happens with a VM, at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Something stands against it.
    Blocked,
    /// It could not be judged.
    Unknown,
    /// An attempt is undone.
    Withdraw,
    /// An attempt begins.
    Start,
    /// An attempt goes on.
    GoOn,
    /// Nothing is done.
    Unchanged,
}

impl Change {
    /// Returns its sign.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Blocked => "!",
            Self::Unknown => "?",
            Self::Withdraw => "-",
            Self::Start => "+",
            Self::GoOn => "~",
            Self::Unchanged => "=",
        }
    }

    /// Explains its sign.
    pub fn words(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Unknown => "inventory unknown",
            Self::Withdraw => "undo and stop managing",
            Self::Start => "start a migration",
            Self::GoOn => "go on",
            Self::Unchanged => "nothing to do",
        }
    }
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What happens.
    pub change: Change,
    /// The sign of it.
    pub symbol: &'static str,
    /// The entry.
    pub key: VmKey,
    /// The VM, where it is known.
    pub source_vm: Option<SourceVm>,
    /// What would be done, in order.
    pub actions: Vec<&'static str>,
    /// The same in words.
    pub what: String,
    /// Why nothing is done now, where something waits.
    pub wait: Option<String>,
    /// How large it is, where that is known.
    pub bytes: Option<Sizes>,
    /// Where it goes: the target provider and the name there.
    pub target: Option<Destination>,
    /// How long the copy takes.
    pub estimate: Option<Estimate>,
    /// Everything that was found, the worst first.
    pub findings: Vec<Finding>,
    /// What a reviewer saw: the digest over everything that was judged.
    pub digest: Option<Digest>,
}

/// How large a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// What the guest sees.
    pub provisioned: Bytes,
    /// What the source stores, where it says so of every disk.
    pub stored: Option<Bytes>,
}

impl Sizes {
    /// Adds up a VM's disks.
    pub fn of(vm: &Vm) -> Self {
        let stored = vm.disks.iter().map(|disk| disk.stored).sum();
        Self { provisioned: vm.capacity(), stored }
    }

    /// Returns what has to be read.
    pub fn to_copy(&self) -> Bytes {
        self.stored.unwrap_or(self.provisioned)
    }
}

/// Where a VM goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Destination {
    /// The target's name.
    pub provider: String,
    /// The VM's name there, where it is known.
    pub name: Option<TargetName>,
}

/// How long something takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// In seconds, rounded up.
    pub seconds: u64,
    /// What it was reckoned from.
    pub basis: String,
}

impl Estimate {
    /// Reckons how long so many bytes are copied.
    pub fn of(bytes: Bytes) -> Self {
        let basis = format!("default {DEFAULT_RATE}/s");
        Self { seconds: bytes.0.div_ceil(DEFAULT_RATE.0), basis }
    }
}

impl Row {
    /// What an entry becomes that another commit no longer has. Nothing on the target is deleted.
    fn withdrawn(mut self) -> Self {
        self.change = Change::Withdraw;
        self.symbol = self.change.symbol();
        self.actions = vec!["stop-managing"];
        "stop managing; what stands on the target stays".clone_into(&mut self.what);
        self.wait = None;
        self.estimate = None;
        self.findings.clear();
        self
    }
}

impl Preview {
    /// Tells whether something is left to do, now or at its time.
    pub fn changes(&self) -> bool {
        let Summary { start, go_on, withdraw, unknown, .. } = &self.summary;
        start + go_on + withdraw + unknown > 0
    }

    /// Keeps what differs from a preview of another commit: what merging this one would change. Entries that only the other
    /// one has are no longer managed.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        let known: HashMap<&VmKey, &Row> = before.vms.iter().map(|row| (&row.key, row)).collect();
        let own: HashSet<VmKey> = self.vms.iter().map(|row| row.key.clone()).collect();
        self.vms.retain(|row| known.get(&row.key) != Some(&row));
        let gone = before.vms.iter().filter(|row| !own.contains(&row.key));
        let gone: Vec<Row> = gone.cloned().map(Row::withdrawn).collect();
        self.vms.extend(gone);
        self.manifests.retain(|finding| !before.manifests.contains(finding));
        self.summary = summary(&self.vms);
        self.complete = self.summary.unknown == 0;
        self.applyable = self.changes() && self.complete && !self.blocked();
        self
    }

    /// Tells whether a finding stands against something.
    pub fn blocked(&self) -> bool {
        self.summary.blocked > 0 || self.errored
    }
}

/// Makes a preview.
pub fn preview(input: &Input<'_>) -> Preview {
    let runs: HashMap<&VmKey, &Run> =
        input.progress.newest().map(|run| (&run.begun.instructions().desired.key, run)).collect();
    let verdicts: HashMap<&VmKey, &Verdict> =
        input.verdicts.iter().map(|verdict| (&verdict.key, verdict)).collect();
    let vms: Vec<Row> = input
        .decision
        .stands
        .iter()
        .map(|stand| {
            let moving = runs.get(&stand.key).filter(|run| !run.phase.ended()).copied();
            row(input.wanted, stand, verdicts.get(&stand.key).copied(), moving)
        })
        .collect();
    let manifests = beyond_entries(input.wanted);
    let summary = summary(&vms);
    let errored = input.wanted.findings.iter().any(Finding::blocks);
    let (commit, instance) = (input.commit.clone(), input.instance.clone());
    let mut preview = Preview {
        format_version: FORMAT_VERSION,
        instance,
        commit,
        applyable: false,
        complete: summary.unknown == 0,
        errored,
        summary,
        manifests,
        vms,
    };
    preview.applyable = preview.changes() && preview.complete && !preview.blocked();
    preview
}

/// Says what happens with one VM.
fn row(wanted: &Wanted, stand: &Stand, verdict: Option<&Verdict>, moving: Option<&Run>) -> Row {
    let change = change(&stand.state, verdict, moving);
    let cleared = verdict.and_then(|verdict| match &verdict.outcome {
        Outcome::Cleared(cleared) => Some(cleared),
        Outcome::Blocked | Outcome::Unknown(_) => None,
    });
    let begun = moving.map(|run| run.begun.instructions());
    let vm = begun.map(|begun| &begun.vm).or(cleared.map(|cleared| cleared.vm()));
    let desired = begun
        .map(|begun| &begun.desired)
        .or(cleared.map(|cleared| cleared.desired()))
        .or_else(|| entry_of(wanted, &stand.key));
    let name = begun
        .map(|begun| begun.target_name.clone())
        .or(cleared.map(|cleared| cleared.target_name().clone()))
        .or(desired.and_then(|desired| desired.target_name.clone()));
    let bytes = vm.map(Sizes::of);
    let (actions, what) = what(change, stand, vm, desired, moving);
    // What was migrated may be gone from the source: that is no finding any more.
    let silent =
        change == Change::Unchanged && !matches!(stand.state, Standing::Resting(Rest::NoMigration));
    Row {
        change,
        symbol: change.symbol(),
        key: stand.key.clone(),
        source_vm: stand.vm.clone().or_else(|| verdict.and_then(|verdict| verdict.vm.clone())),
        actions,
        what,
        wait: wait(&stand.state, verdict),
        bytes,
        target: desired.map(|desired| Destination { provider: desired.target.to_string(), name }),
        estimate: bytes
            .filter(|_| change == Change::Start)
            .map(|sizes| Estimate::of(sizes.to_copy())),
        findings: verdict
            .filter(|_| !silent)
            .map(|verdict| verdict.findings.clone())
            .unwrap_or_default(),
        digest: verdict.and_then(|verdict| verdict.digest.clone()),
    }
}

/// Lists what is wrong with manifests and is no single entry's matter: broken files, plans, migrations.
pub(crate) fn beyond_entries(wanted: &Wanted) -> Vec<Finding> {
    if wanted.findings.is_empty() {
        return Vec::new();
    }
    let plans = wanted.plans.values();
    let in_entries: HashSet<&Finding> =
        plans.flat_map(|plan| plan.vms.iter().flat_map(|entry| &entry.findings)).collect();
    let beyond = |finding: &&Finding| !in_entries.contains(*finding);
    wanted.findings.iter().filter(beyond).cloned().collect()
}

fn entry_of<'a>(wanted: &'a Wanted, key: &VmKey) -> Option<&'a crate::desired::Desired> {
    let plan = wanted.plans.get(&key.plan)?;
    plan.vms.iter().find(|entry| entry.key == *key)?.desired.as_ref()
}

/// Says what happens at a glance.
fn change(state: &Standing, verdict: Option<&Verdict>, moving: Option<&Run>) -> Change {
    let waiting = match state {
        Standing::Resting(Rest::Failed(_)) => return Change::Blocked,
        Standing::Resting(Rest::NoMigration) => {
            return match verdict.map(|verdict| &verdict.outcome) {
                Some(Outcome::Blocked) => Change::Blocked,
                Some(Outcome::Unknown(_)) => Change::Unknown,
                Some(Outcome::Cleared(_)) | None => Change::Unchanged,
            };
        }
        Standing::Resting(Rest::Archived | Rest::Completed | Rest::Canceled | Rest::Withdrawn) => {
            return Change::Unchanged;
        }
        Standing::Acting(_) => None,
        Standing::Waiting(wait) => Some(wait),
    };
    let undoing = moving.is_some_and(|run| matches!(run.phase, Phase::Undoing(_)));
    match waiting {
        Some(
            Wait::Blocked
            | Wait::NameTaken
            | Wait::Pinned { .. }
            | Wait::Claimed(_)
            | Wait::Stalled(_),
        ) => Change::Blocked,
        Some(Wait::Unknown(_)) => Change::Unknown,
        None
        | Some(
            Wait::Slot { .. }
            | Wait::Space { .. }
            | Wait::Older(_)
            | Wait::ElsewhereMoving(_)
            | Wait::Copying
            | Wait::ShuttingDown { .. }
            | Wait::Retry { .. }
            | Wait::Brake
            | Wait::PowerOffBarred(_),
        ) => match moving {
            Some(_) if undoing => Change::Withdraw,
            Some(_) => Change::GoOn,
            None => Change::Start,
        },
    }
}

/// Lists what would be done, and says it.
fn what(
    change: Change,
    stand: &Stand,
    vm: Option<&Vm>,
    desired: Option<&crate::desired::Desired>,
    moving: Option<&Run>,
) -> (Vec<&'static str>, String) {
    match (change, desired, vm) {
        (Change::Start, Some(desired), Some(vm)) => {
            let mut actions = Vec::new();
            let mut words = match desired.kind {
                PlanType::Cold => "migrate cold".to_owned(),
                PlanType::Warm => "migrate warm".to_owned(),
            };
            if vm.power == Power::On {
                actions.push("shut-down");
                words.push_str(", powers it off");
            }
            actions.push("copy");
            if desired.verify != Verify::None {
                actions.push("verify");
            }
            actions.push("create");
            if starts(desired.power, vm.power) {
                actions.push("start");
                words.push_str(", starts it on the target");
            }
            (actions, words)
        }
        (Change::Start, _, _) => (vec!["copy", "create"], "migrate".to_owned()),
        (Change::GoOn, _, _) => {
            let phase = moving.map_or("", |run| run.phase.name());
            (vec!["go-on"], format!("go on ({phase})"))
        }
        (Change::Withdraw, _, _) => (vec!["undo"], "undo".to_owned()),
        (Change::Blocked, _, _) => (Vec::new(), "blocked".to_owned()),
        (Change::Unknown, _, _) => (Vec::new(), "unknown".to_owned()),
        (Change::Unchanged, _, _) => (Vec::new(), stand.state.words()),
    }
}

fn starts(wanted: TargetPowerState, was: Power) -> bool {
    match (wanted, was) {
        (TargetPowerState::On, _) | (TargetPowerState::Auto, Power::On) => true,
        (TargetPowerState::Off, _) | (TargetPowerState::Auto, Power::Off) => false,
    }
}

/// Says why nothing is done now, unless the findings say it already.
fn wait(state: &Standing, verdict: Option<&Verdict>) -> Option<String> {
    match state {
        Standing::Waiting(Wait::Blocked | Wait::Copying) | Standing::Acting(_) => None,
        Standing::Waiting(wait) => Some(wait.words()),
        Standing::Resting(rest @ Rest::Failed(_)) => Some(rest.words()),
        Standing::Resting(Rest::NoMigration) => match verdict.map(|verdict| &verdict.outcome) {
            Some(Outcome::Unknown(gap)) => Some(gap.reason.clone()),
            Some(Outcome::Blocked | Outcome::Cleared(_)) | None => None,
        },
        Standing::Resting(Rest::Archived | Rest::Completed | Rest::Canceled | Rest::Withdrawn) => {
            None
        }
    }
}

fn summary(rows: &[Row]) -> Summary {
    let mut summary = Summary::default();
    for row in rows {
        match row.change {
            Change::Start => summary.start += 1,
            Change::GoOn => summary.go_on += 1,
            Change::Withdraw => summary.withdraw += 1,
            Change::Blocked => summary.blocked += 1,
            Change::Unknown => summary.unknown += 1,
            Change::Unchanged => summary.unchanged += 1,
        }
        if let (Change::Start, Some(sizes)) = (row.change, row.bytes) {
            summary.provisioned += sizes.provisioned;
            summary.to_copy += sizes.to_copy();
        }
    }
    summary.seconds = Estimate::of(summary.to_copy).seconds;
    summary
}

#[cfg(test)]
pub(crate) mod tests;
