//! The report: what becomes of every plan and VM, as documents on the status branch, and what `ferry status` prints.
//!
//! # Guarantees
//!
//! Deterministic to the byte: the same inputs give the same documents, and nothing in them changes with the clock alone. A
//! document whose inputs did not change is not rendered again; forgetting that changes nothing but the time.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod document;
mod page;
mod pipeline;
mod plan;
mod table;
mod vm;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::decide::{Rest, Stand, Standing, Wait};
use crate::desired::{Desired, PlanWanted, VmWanted};
use crate::domain::id::{
    CommitId, Instance, MigrationName, PlanName, ProviderName, SourceVm, TargetName, VmKey,
};
use crate::domain::text::{file_name, visible};
use crate::journal::phase::Phase;
use crate::journal::progress::{Progress, Run, Trouble};
use crate::journal::record::Abandon;
use crate::manifest::diagnostic::Finding;
use crate::manifest::document::API_VERSION;
use crate::policy::Verdict;
use crate::preview::beyond_entries;
use crate::status::document::{Condition, INSTANCE_KIND, InstanceReport, PlanLine, VmLine};
use crate::status::plan::Head;
use crate::status::vm::View;

pub use crate::preview::Input;
pub use crate::status::table::{Overview, ReadError, Why};
pub use crate::status::vm::result;

/// Where the report of everything stands: for tools, and for people who open the folder in a forge.
const INSTANCE_PATHS: [&str; 2] = ["instance.yaml", "README.md"];

/// Makes the whole report, by path below the instance's folder.
pub fn report(input: &Input<'_>) -> BTreeMap<String, Vec<u8>> {
    let mut renderer = Renderer::default();
    renderer.report(input);
    renderer.files
}

/// Makes reports, and renders only what changed since the last one.
#[derive(Debug, Default)]
pub struct Renderer {
    instance: Option<Instance>,
    beyond: Option<Beyond>,
    vms: HashMap<VmKey, KnownVm>,
    plans: BTreeMap<PlanName, KnownPlan>,
    files: BTreeMap<String, Vec<u8>>,
    pass: u64,
    revision: u64,
}

/// A VM as it was rendered last.
#[derive(Debug)]
struct KnownVm {
    inputs: Inputs,
    path: String,
    line: VmLine,
    conditions: Vec<Condition>,
    section: String,
    pass: u64,
}

/// A plan as it was rendered last.
#[derive(Debug)]
struct KnownPlan {
    head: Head,
    line: PlanLine,
    paths: [String; 2],
}

/// What the report of everything is made of beside its plans.
#[derive(Debug, PartialEq)]
struct Beyond {
    commit: CommitId,
    held: Option<String>,
    findings: Vec<Finding>,
}

/// What a VM's document depends on, kept to see whether it changed.
#[derive(Debug, PartialEq)]
struct Inputs {
    stand: Stand,
    verdict: Option<Verdict>,
    desired: Option<(ProviderName, ProviderName, Option<TargetName>)>,
    run: Option<Mark>,
}

/// What tells one state of an attempt from another: facts only add to it.
#[derive(Debug, PartialEq)]
struct Mark {
    vm: SourceVm,
    migration: MigrationName,
    attempt: u32,
    reached: usize,
    copied: usize,
    verified: usize,
    trouble: Option<Trouble>,
}

impl Renderer {
    /// Makes the report, by path below the instance's folder.
    pub fn report(&mut self, input: &Input<'_>) -> &BTreeMap<String, Vec<u8>> {
        self.pass += 1;
        if self.instance.as_ref() != Some(input.instance) {
            *self = Self {
                instance: Some(input.instance.clone()),
                pass: self.pass,
                revision: self.revision + 1,
                ..Self::default()
            };
        }
        let changed = self.vms(input);
        let changed = self.plans(input, &changed);
        self.instance(input, changed);
        &self.files
    }

    /// Returns the report as it was made last.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// Counts the reports that differed from the one before: while it stays, there is nothing to publish.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Renders the VMs that changed and drops those that are gone; returns their plans.
    fn vms(&mut self, input: &Input<'_>) -> BTreeSet<PlanName> {
        let runs = runs_by_key(input.progress);
        let entries: Vec<&VmWanted> =
            input.wanted.plans.values().flat_map(|plan| &plan.vms).collect();
        let mut changed = BTreeSet::new();
        for (at, stand) in input.stands.iter().enumerate() {
            let verdict = aligned(input.verdicts, at, |verdict| verdict.key == stand.key);
            let entry = aligned(&entries, at, |entry| entry.key == stand.key);
            let desired = entry.and_then(|entry| entry.desired.as_deref());
            let run = run_of(stand, &runs, input.progress);
            let view = View { instance: input.instance, stand, verdict, desired, run };
            if let Some(known) = self.vms.get_mut(&stand.key)
                && known.inputs.are(&view)
            {
                known.pass = self.pass;
                continue;
            }
            changed.insert(stand.key.plan.clone());
            self.render(&view);
        }
        let pass = self.pass;
        let files = &mut self.files;
        let revision = &mut self.revision;
        self.vms.retain(|key, known| {
            let stays = known.pass == pass;
            if !stays {
                changed.insert(key.plan.clone());
                files.remove(&known.path);
                *revision += 1;
            }
            stays
        });
        changed
    }

    fn render(&mut self, view: &View<'_>) {
        let report = view.report();
        let key = &view.stand.key;
        let plan = file_name(key.plan.as_str());
        let path = format!("vms/{plan}/{}.yaml", file_name(key.vm.as_str()));
        self.put(&path, yaml(&report));
        let known = KnownVm {
            inputs: Inputs::of(view),
            path,
            line: vm::line(&report),
            section: page::section(&report),
            conditions: report.conditions,
            pass: self.pass,
        };
        self.vms.insert(key.clone(), known);
    }

    /// Renders the plans that changed, or whose VMs did, and drops those that are gone; tells whether there were any.
    fn plans(&mut self, input: &Input<'_>, changed: &BTreeSet<PlanName>) -> bool {
        let before = self.revision;
        for (name, wanted) in &input.wanted.plans {
            let known = self.plans.get(name).is_some_and(|known| known.head.is(wanted));
            if known && !changed.contains(name) {
                continue;
            }
            self.render_plan(input, name, wanted);
        }
        let gone: Vec<PlanName> = self
            .plans
            .keys()
            .filter(|name| !input.wanted.plans.contains_key(name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(known) = self.plans.remove(&name) {
                known.paths.iter().for_each(|path| drop(self.files.remove(path)));
                self.revision += 1;
            }
        }
        self.revision != before
    }

    /// Renders the report of everything, if something of it changed.
    fn instance(&mut self, input: &Input<'_>, plans_changed: bool) {
        let beyond = Beyond {
            commit: input.commit.clone(),
            held: input.held.map(str::to_owned),
            findings: beyond_entries(input.wanted),
        };
        if !plans_changed && self.beyond.as_ref() == Some(&beyond) {
            return;
        }
        let report = InstanceReport {
            api_version: API_VERSION.to_owned(),
            kind: INSTANCE_KIND.to_owned(),
            instance: input.instance.clone(),
            observed_commit: beyond.commit.clone(),
            held: beyond.held.clone(),
            plans: self.plans.values().map(|known| known.line.clone()).collect(),
            findings: beyond.findings.iter().map(Into::into).collect(),
        };
        self.put(INSTANCE_PATHS[0], yaml(&report));
        self.put(INSTANCE_PATHS[1], page::instance(&report).into_bytes());
        self.beyond = Some(beyond);
    }

    fn render_plan(&mut self, input: &Input<'_>, name: &PlanName, wanted: &PlanWanted) {
        let vms: Vec<&KnownVm> =
            wanted.vms.iter().filter_map(|entry| self.vms.get(&entry.key)).collect();
        let lines = vms.iter().map(|known| known.line.clone()).collect();
        let conditions: Vec<&[Condition]> =
            vms.iter().map(|known| known.conditions.as_slice()).collect();
        let head = Head::of(wanted);
        let report = plan::report(input.instance, name, &head, lines, &conditions);
        let file = file_name(name.as_str());
        let paths = [format!("plans/{file}.yaml"), format!("plans/{file}.md")];
        self.put(&paths[0], yaml(&report));
        let sections: Vec<&str> = self.sections(wanted);
        let page = page::plan(&report, &sections).into_bytes();
        self.put(&paths[1], page);
        let line =
            PlanLine { name: name.to_string(), status: report.status, totals: report.totals };
        self.plans.insert(name.clone(), KnownPlan { head, line, paths });
    }

    fn sections(&self, wanted: &PlanWanted) -> Vec<&str> {
        let vms = wanted.vms.iter().filter_map(|entry| self.vms.get(&entry.key));
        vms.map(|known| known.section.as_str()).collect()
    }

    fn put(&mut self, path: &str, bytes: Vec<u8>) {
        if self.files.get(path) != Some(&bytes) {
            self.files.insert(path.to_owned(), bytes);
            self.revision += 1;
        }
    }
}

impl Inputs {
    fn of(view: &View<'_>) -> Self {
        let View { instance: _, stand, verdict, desired, run } = *view;
        Self {
            stand: stand.clone(),
            verdict: verdict.cloned(),
            desired: desired.map(|desired| {
                let Desired { source, target, target_name, .. } = desired;
                (source.clone(), target.clone(), target_name.clone())
            }),
            run: run.map(Mark::of),
        }
    }

    /// Tells whether a view is made of the same, without copying it.
    fn are(&self, view: &View<'_>) -> bool {
        let View { instance: _, stand, verdict, desired, run } = *view;
        let ends = match (&self.desired, desired) {
            (None, None) => true,
            (Some((source, target, name)), Some(desired)) => {
                (source, target, name) == (&desired.source, &desired.target, &desired.target_name)
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        ends && self.stand == *stand
            && self.verdict.as_ref() == verdict
            && self.run == run.map(Mark::of)
    }
}

impl Mark {
    fn of(run: &Run) -> Self {
        let id = run.begun.run();
        let disks = run.phase.disks();
        Self {
            vm: id.vm.clone(),
            migration: id.migration.clone(),
            attempt: id.attempt,
            reached: run.trail.len(),
            copied: disks.iter().filter(|disk| disk.root.is_some()).count(),
            verified: disks.iter().filter(|disk| disk.verified).count(),
            trouble: run.trouble.clone(),
        }
    }
}

/// Returns the element at a position where it is the right one, else looks for it: lists are in the order of the entries.
fn aligned<T>(list: &[T], at: usize, right: impl Fn(&T) -> bool) -> Option<&T> {
    list.get(at).filter(|item| right(item)).or_else(|| list.iter().find(|item| right(item)))
}

fn runs_by_key(progress: &Progress) -> HashMap<&VmKey, &Run> {
    progress.newest().map(|run| (&run.begun.instructions().desired.key, run)).collect()
}

/// Returns the attempt that a VM's report speaks of: one that moves, or the last one while nothing is left to do. An older
/// attempt is no news for a VM that waits for its next one.
fn run_of<'a>(
    stand: &Stand,
    runs: &HashMap<&VmKey, &'a Run>,
    progress: &'a Progress,
) -> Option<&'a Run> {
    let own = runs.get(&stand.key).copied();
    match &stand.state {
        Standing::Resting(Rest::Completed) => {
            let by_vm = stand.vm.as_ref().and_then(|vm| progress.runs(vm).last());
            own.or(by_vm).filter(|run| matches!(run.phase, Phase::Completed { .. }))
        }
        Standing::Resting(_) => own,
        Standing::Acting(_) | Standing::Waiting(_) => own.filter(|run| !run.phase.ended()),
    }
}

/// Says where an attempt stands by the journal alone, for a reader that decides nothing.
fn stand_by_journal(run: &Run) -> Stand {
    let stalled = || {
        let stall = run.trouble.as_ref().filter(|trouble| trouble.stalled)?;
        Some(Standing::Waiting(Wait::Stalled(stall.fault.clone())))
    };
    let state = match &run.phase {
        Phase::Completed { .. } => Standing::Resting(Rest::Completed),
        Phase::Undone { why, .. } => Standing::Resting(match why {
            Abandon::Failed(fault) => Rest::Failed(fault.clone()),
            Abandon::Canceled | Abandon::Superseded => Rest::Canceled,
            Abandon::MigrationGone => Rest::Withdrawn,
        }),
        Phase::Copying(_) => stalled().unwrap_or(Standing::Waiting(Wait::Copying)),
        Phase::Converting { .. } => stalled().unwrap_or(Standing::Waiting(Wait::Converting)),
        Phase::Begun
        | Phase::Claiming { .. }
        | Phase::Claimed { .. }
        | Phase::On { .. }
        | Phase::ShuttingDown { .. }
        | Phase::Off(_)
        | Phase::Preparing { .. }
        | Phase::Copied(_)
        | Phase::Converted(_)
        | Phase::Creating(_)
        | Phase::Created(_)
        | Phase::Starting { .. }
        | Phase::Settling { .. }
        | Phase::Undoing(_) => stalled().unwrap_or(Standing::Acting(run.phase.name())),
    };
    Stand {
        key: run.begun.instructions().desired.key.clone(),
        vm: Some(run.begun.run().vm.clone()),
        migration: Some(run.begun.run().migration.clone()),
        state,
    }
}

/// Writes a document with every text made harmless to look at.
fn yaml(document: &impl Serialize) -> Vec<u8> {
    let mut value = serde_yaml::to_value(document).expect("strings, numbers and lists become YAML");
    harmless(&mut value);
    serde_yaml::to_string(&value).expect("a YAML value becomes text").into_bytes()
}

fn harmless(value: &mut serde_yaml::Value) {
    match value {
        serde_yaml::Value::String(text) => *text = visible(text).into_owned(),
        serde_yaml::Value::Sequence(values) => values.iter_mut().for_each(harmless),
        serde_yaml::Value::Mapping(fields) => fields.values_mut().for_each(harmless),
        serde_yaml::Value::Tagged(tagged) => harmless(&mut tagged.value),
        serde_yaml::Value::Null | serde_yaml::Value::Bool(_) | serde_yaml::Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests;
