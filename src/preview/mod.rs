//! What `run` would do, as a person reads it before a merge: one row per VM with bytes, estimate and the reasons.
//!
//! # Guarantees
//!
//! A preview is made of the very values that `run` executes. The same inputs give the same bytes: it holds no age and no
//! time of now. What strangers wrote is escaped when it is rendered, in every format.

#![deny(clippy::wildcard_enum_match_arm)]

mod render;
mod risk;
mod schedule;

pub use crate::preview::risk::{Factor, Level, Risk};
pub use crate::preview::schedule::{Opening, Schedule};

pub(crate) use crate::preview::render::{bare, harmless, lines, seconds_last, told, trimmed};

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};

use crate::decide::{CutoverLimits, Rest, Stand, Standing, Wait};
use crate::desired::{Desired, Wanted};
use crate::domain::id::{CommitId, Digest, Instance, SourceVm, TargetName, VmKey};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Power, Vm};
use crate::journal::pace::Pace;
use crate::journal::phase::Phase;
use crate::journal::progress::{Progress, Run};
use crate::manifest::diagnostic::Finding;
use crate::manifest::document::{PlanType, Verify};
use crate::policy::{Outcome, Verdict};

/// The version of the JSON form. It counts up when a field changes its meaning or goes.
pub const FORMAT_VERSION: u32 = 1;

/// Returns the JSON Schema of a [`Preview`]'s JSON form (draft 2020-12, without references), for programs that read it.
pub fn schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| settings.inline_subschemas = true);
    let mut made = settings.into_generator().into_root_schema_for::<Preview>().to_value();
    made["properties"]["format_version"]["const"] = FORMAT_VERSION.into();
    let mut schema = serde_json::Map::new();
    for field in ["$schema", "title", "description", "type", "required", "properties"] {
        schema.insert(field.to_owned(), made[field].take());
    }
    schema.into()
}

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
    /// Where every VM stands.
    pub stands: &'a [Stand],
    /// Why a newer commit does not count yet.
    pub held: Option<&'a str>,
    /// When VMs may be taken down.
    pub cutover: CutoverLimits,
    /// The instant from which openings of windows are looked for.
    pub now: Timestamp,
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Preview {
    /// The version of this form. It counts up when a field changes its meaning or goes.
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
    /// What the commit changes of what is trusted, one sentence each: providers, windows, policies. It counts after the merge.
    pub after_merge: Vec<String>,
    /// What is wrong with manifests beyond single entries.
    pub manifests: Vec<Finding>,
    /// One for each entry, and for each attempt that moves without one.
    pub vms: Vec<Row>,
}

/// The totals of a preview.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Summary {
    /// How many VMs begin to move.
    pub start: usize,
    /// How many begin at their time, or when their windows open.
    pub scheduled: usize,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
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
    /// An attempt begins at its time, or when its windows open.
    Scheduled,
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
            Self::Scheduled => ">>",
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
            Self::Scheduled => "cutover scheduled",
            Self::GoOn => "go on",
            Self::Unchanged => "nothing to do",
        }
    }
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Row {
    /// What happens.
    pub change: Change,
    /// The sign of it.
    pub symbol: &'static str,
    /// The entry.
    pub key: VmKey,
    /// The VM, where it is known.
    #[schemars(with = "Option<String>")]
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
    /// When it is taken down, where a time or a window bounds that.
    pub schedule: Option<Schedule>,
    /// How long the copy takes.
    pub estimate: Option<Estimate>,
    /// What to look at before it moves.
    pub risk: Option<Risk>,
    /// Everything that was found, the worst first.
    pub findings: Vec<Finding>,
    /// What a reviewer saw: the digest over everything that was judged.
    pub digest: Option<Digest>,
    /// The fields of the entry that another commit changes, by their names in the journal's form.
    pub changed: Vec<String>,
    /// What is wanted of it.
    #[serde(skip)]
    pub desired: Option<Arc<Desired>>,
}

/// How large a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Sizes {
    /// What the guest sees.
    pub provisioned: Bytes,
    /// What the source stores, where it says so of every disk.
    pub stored: Option<Bytes>,
    /// What is read to copy it: what is stored, of each disk of which that is known.
    pub to_copy: Bytes,
}

impl Sizes {
    /// Adds up a VM's disks.
    pub fn of(vm: &Vm) -> Self {
        let stored = vm.disks.iter().map(|disk| disk.stored).sum();
        Self { provisioned: vm.capacity(), stored, to_copy: vm.to_copy() }
    }
}

/// Where a VM goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Destination {
    /// The target's name.
    pub provider: String,
    /// The VM's name there, where it is known.
    pub name: Option<TargetName>,
}

/// How long something takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// In seconds, rounded up.
    pub seconds: u64,
    /// What it was reckoned from.
    pub basis: String,
}

impl Estimate {
    /// Reckons how long so many bytes are copied.
    pub fn of(bytes: Bytes, pace: Pace) -> Self {
        Self { seconds: pace.time(bytes).as_secs().unsigned_abs(), basis: pace.basis() }
    }
}

impl Row {
    /// Tells whether it says what another one says, wherever its entry stands in a file.
    fn says(&self, other: &Self) -> bool {
        let wish = |one: &Option<Arc<Desired>>, other: &Option<Arc<Desired>>| match (one, other) {
            (Some(one), Some(other)) => one.wishes(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let found = |(one, other): (&Finding, &Finding)| {
            *one == Finding { place: one.place.clone(), ..other.clone() }
        };
        let Self { change, symbol: _, key, source_vm, actions, what, .. } = self;
        let Self { wait, bytes, target, schedule, estimate, risk, .. } = self;
        let Self { findings, digest, changed: _, desired, .. } = self;
        (change, key, source_vm, actions, what)
            == (&other.change, &other.key, &other.source_vm, &other.actions, &other.what)
            && (wait, bytes, target, risk)
                == (&other.wait, &other.bytes, &other.target, &other.risk)
            && (schedule, estimate, digest) == (&other.schedule, &other.estimate, &other.digest)
            && findings.len() == other.findings.len()
            && findings.iter().zip(&other.findings).all(found)
            && wish(desired, &other.desired)
    }

    /// What an entry becomes that another commit no longer has. Nothing on the target is deleted.
    fn withdrawn(mut self) -> Self {
        self.change = Change::Withdraw;
        self.symbol = self.change.symbol();
        self.actions = vec!["stop-managing"];
        "stop managing; what stands on the target stays".clone_into(&mut self.what);
        self.wait = None;
        self.schedule = None;
        self.estimate = None;
        self.risk = None;
        self.findings.clear();
        self
    }
}

impl Preview {
    /// Tells whether something is left to do, now or at its time.
    pub fn changes(&self) -> bool {
        let Summary { start, scheduled, go_on, withdraw, unknown, .. } = &self.summary;
        start + scheduled + go_on + withdraw + unknown > 0
    }

    /// Keeps what differs from a preview of another commit: what merging this one would change. Entries that only the other
    /// one has are no longer managed.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        let known: HashMap<&VmKey, &Row> = before.vms.iter().map(|row| (&row.key, row)).collect();
        let own: HashSet<VmKey> = self.vms.iter().map(|row| row.key.clone()).collect();
        self.vms.retain(|row| known.get(&row.key).is_none_or(|before| !row.says(before)));
        for row in &mut self.vms {
            let before = known.get(&row.key).and_then(|before| before.desired.as_deref());
            if let (Some(before), Some(after)) = (before, row.desired.as_deref()) {
                row.changed = changed(before, after);
            }
        }
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
        .stands
        .iter()
        .map(|stand| {
            let moving = runs.get(&stand.key).filter(|run| !run.phase.ended()).copied();
            row(input, stand, verdicts.get(&stand.key).copied(), moving)
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
        after_merge: Vec::new(),
        manifests,
        vms,
    };
    preview.applyable = preview.changes() && preview.complete && !preview.blocked();
    preview
}

/// Names the fields in which two wishes differ.
fn changed(before: &Desired, after: &Desired) -> Vec<String> {
    let fields = |desired: &Desired| serde_json::to_value(desired).unwrap_or_default();
    let (before, after) = (fields(before), fields(after));
    let after = after.as_object().into_iter().flatten();
    let differs = |(name, value): (&String, &serde_json::Value)| {
        (before.get(name) != Some(value)).then(|| name.clone())
    };
    after.filter_map(differs).collect()
}

/// Says what happens with one VM.
fn row(input: &Input<'_>, stand: &Stand, verdict: Option<&Verdict>, moving: Option<&Run>) -> Row {
    let change = change(&stand.state, verdict, moving);
    let cleared = verdict.and_then(|verdict| match &verdict.outcome {
        Outcome::Cleared(cleared) => Some(cleared),
        Outcome::Blocked | Outcome::Unknown(_) => None,
    });
    let begun = moving.map(|run| run.begun.instructions());
    let vm = begun.map(|begun| &*begun.vm).or(cleared.map(|cleared| &**cleared.vm()));
    let desired = begun
        .map(|begun| &begun.desired)
        .or(cleared.map(|cleared| cleared.desired()))
        .or_else(|| entry_of(input.wanted, &stand.key));
    let name = begun
        .map(|begun| begun.target_name.clone())
        .or(cleared.map(|cleared| cleared.target_name().clone()))
        .or(desired.and_then(|desired| desired.target_name.clone()));
    let bytes = vm.map(Sizes::of);
    let schedule = bytes
        .filter(|_| matches!(change, Change::Start | Change::Scheduled | Change::Blocked))
        .zip(desired)
        .and_then(|(sizes, desired)| Schedule::of(input, stand, desired, sizes.to_copy));
    // A time that no window holds will be missed: that is told while it can still be changed.
    let too_short = change == Change::Scheduled && schedule.as_ref().is_some_and(|s| !s.fits);
    let change = if too_short { Change::Blocked } else { change };
    let (actions, what) = what(change, stand, vm, desired.map(Arc::as_ref), moving, verdict);
    // What was migrated may be gone from the source: that is no finding any more.
    let silent =
        change == Change::Unchanged && !matches!(stand.state, Standing::Resting(Rest::NoMigration));
    let risk = desired.zip(vm).filter(|_| matches!(change, Change::Start | Change::Scheduled));
    let risk = risk.zip(verdict).map(|((desired, vm), verdict)| {
        let of = (input.wanted, &stand.key);
        Risk::of(of, desired, vm, schedule.as_ref(), &verdict.findings)
    });
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
        schedule,
        estimate: bytes
            .filter(|_| matches!(change, Change::Start | Change::Scheduled))
            .zip(desired)
            .map(|(sizes, of)| Estimate::of(sizes.to_copy, input.progress.pace(&of.source))),
        risk,
        findings: verdict
            .filter(|_| !silent)
            .map(|verdict| verdict.findings.clone())
            .unwrap_or_default(),
        digest: verdict.and_then(|verdict| verdict.digest.clone()),
        changed: Vec::new(),
        desired: desired.cloned(),
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

fn entry_of<'a>(wanted: &'a Wanted, key: &VmKey) -> Option<&'a Arc<Desired>> {
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
            | Wait::CutoverMissed { .. }
            | Wait::Stalled(_),
        ) => Change::Blocked,
        Some(Wait::Unknown(_)) => Change::Unknown,
        Some(Wait::Cutover { .. } | Wait::Postponed | Wait::Window { .. }) if moving.is_none() => {
            Change::Scheduled
        }
        None
        | Some(
            Wait::Slot { .. }
            | Wait::Space { .. }
            | Wait::Older(_)
            | Wait::ElsewhereMoving(_)
            | Wait::Copying
            | Wait::Converting
            | Wait::Converter { .. }
            | Wait::ShuttingDown { .. }
            | Wait::Retry { .. }
            | Wait::Brake
            | Wait::Cutover { .. }
            | Wait::Postponed
            | Wait::Window { .. }
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
    desired: Option<&Desired>,
    moving: Option<&Run>,
    verdict: Option<&Verdict>,
) -> (Vec<&'static str>, String) {
    match (change, desired, vm) {
        (Change::Start | Change::Scheduled, Some(desired), Some(vm)) => {
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
            if !desired.skip_guest_conversion {
                actions.push("convert");
                words.push_str(", converts the guest");
            }
            actions.push("create");
            if desired.power.starts(vm.power) {
                if verdict.is_some_and(Verdict::leaves_off) {
                    words.push_str(", does not start it: the target starts nothing");
                } else {
                    actions.push("start");
                    words.push_str(", starts it on the target");
                }
            }
            (actions, words)
        }
        (Change::Start | Change::Scheduled, _, _) => (vec!["copy", "create"], "migrate".to_owned()),
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

/// Says why nothing is done now, unless the findings or the column of cutovers say it already.
fn wait(state: &Standing, verdict: Option<&Verdict>) -> Option<String> {
    match state {
        Standing::Waiting(Wait::Blocked | Wait::Copying | Wait::Cutover { .. })
        | Standing::Acting(_) => None,
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
            Change::Scheduled => summary.scheduled += 1,
            Change::GoOn => summary.go_on += 1,
            Change::Withdraw => summary.withdraw += 1,
            Change::Blocked => summary.blocked += 1,
            Change::Unknown => summary.unknown += 1,
            Change::Unchanged => summary.unchanged += 1,
        }
        if let (Change::Start | Change::Scheduled, Some(sizes)) = (row.change, row.bytes) {
            summary.provisioned += sizes.provisioned;
            summary.to_copy += sizes.to_copy;
        }
    }
    summary.seconds =
        rows.iter().filter_map(|row| row.estimate.as_ref()).map(|it| it.seconds).sum();
    summary
}

#[cfg(test)]
pub(crate) mod tests;
