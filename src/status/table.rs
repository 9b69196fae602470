//! What `ferry status` prints, made of the journal beside a running controller, or of a committed report.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

use jiff::Timestamp;

use crate::decide::Standing;
use crate::domain::id::{DiskKey, PlanName, VmName};
use crate::domain::text::visible;
use crate::domain::unit::{Bytes, lasting};
use crate::journal::progress::Run;
use crate::journal::record::Checkpoint;
use crate::manifest::diagnostic::{Finding, Severity};
use crate::preview::{
    Estimate, bare, beyond_entries, harmless, lines, seconds_last, told, trimmed,
};
use crate::status::document::{
    ConcernReport, DiskReport, InstanceReport, PlanReport, Step, StepName, StepStatus, VmReport,
};
use crate::status::pipeline::measured;
use crate::status::vm::View;
use crate::status::{INSTANCE_PATHS, Input, aligned, run_of, runs_by_key, stand_by_journal};

/// The narrowest table that can still be read.
const WIDTH_MIN: u16 = 40;

/// From which width on numbers are not broken into lines.
const WIDTH_OF_WHOLE_CELLS: u16 = 100;

/// A report that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the report `{path}` cannot be read; a newer ferry may have written it")]
pub struct ReadError {
    path: String,
    #[source]
    cause: serde_yaml::Error,
}

/// Every VM as `ferry status` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    head: Vec<String>,
    vms: Vec<Shown>,
}

/// One VM, with what changes all the time.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    report: VmReport,
    progress: Vec<Progressing>,
    detail: Option<String>,
    now: Option<Timestamp>,
    began_at: Option<Timestamp>,
}

/// How far the copy of a disk came.
#[derive(Clone, Debug, PartialEq)]
struct Progressing {
    disk: DiskKey,
    done: Bytes,
    written: Bytes,
}

impl Overview {
    /// Takes what is known now. Attempts of which the decision says nothing are shown by the journal alone.
    pub fn live(input: &Input<'_>, now: Timestamp) -> Self {
        let runs = runs_by_key(input.progress);
        let entries: Vec<_> = input.wanted.plans.values().flat_map(|plan| &plan.vms).collect();
        let decided: HashSet<_> = input.stands.iter().map(|stand| &stand.key).collect();
        let journaled: Vec<_> = input
            .progress
            .newest()
            .filter(|run| !decided.contains(&run.begun.instructions().desired.key))
            .map(stand_by_journal)
            .collect();
        let stands = input.stands.iter().chain(&journaled);
        let mut vms: Vec<Shown> = stands
            .enumerate()
            .map(|(at, stand)| {
                let verdict = aligned(input.verdicts, at, |verdict| verdict.key == stand.key);
                let entry = aligned(&entries, at, |entry| entry.key == stand.key);
                let desired = entry.and_then(|entry| entry.desired.as_deref());
                let run = run_of(stand, &runs, input.progress);
                let view = View { instance: input.instance, stand, verdict, desired, run };
                let detail = match &stand.state {
                    Standing::Waiting(wait) => wait.detail(),
                    Standing::Acting(_) | Standing::Resting(_) => None,
                };
                Shown {
                    report: view.report(),
                    progress: run.map(progress).unwrap_or_default(),
                    detail,
                    now: Some(now),
                    began_at: run.filter(|run| !run.phase.ended()).map(|run| run.began_at),
                }
            })
            .collect();
        vms.sort_by(|a, b| a.report.metadata.plan.cmp(&b.report.metadata.plan));
        let findings = beyond_entries(input.wanted);
        Self {
            head: head(input.held, findings.iter().filter(|finding| finding.blocks()).map(told)),
            vms,
        }
    }

    /// Reads a committed report.
    pub fn committed(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, ReadError> {
        let mut order = HashMap::new();
        for (path, bytes) in files.iter().filter(|(path, _)| is_yaml(path, "plans/")) {
            let plan: PlanReport = read(path, bytes)?;
            for vm in plan.vms {
                let position = order.len();
                order.insert((plan.metadata.name.clone(), vm.name), position);
            }
        }
        let mut vms = Vec::new();
        for (path, bytes) in files.iter().filter(|(path, _)| is_yaml(path, "vms/")) {
            let report: VmReport = read(path, bytes)?;
            let (progress, detail) = (Vec::new(), None);
            vms.push(Shown { report, progress, detail, now: None, began_at: None });
        }
        let place = |shown: &Shown| {
            let name = &shown.report.metadata;
            let key = (name.plan.clone().unwrap_or_default(), name.name.clone());
            order.get(&key).copied().unwrap_or(usize::MAX)
        };
        vms.sort_by_cached_key(place);
        let [path, _] = INSTANCE_PATHS;
        let head = match files.get(path) {
            Some(bytes) => {
                let InstanceReport { held, findings, .. } = read(path, bytes)?;
                let blocks = |finding: &&ConcernReport| finding.category == Severity::Critical;
                head(held.as_deref(), findings.iter().filter(blocks).map(concern))
            }
            None => Vec::new(),
        };
        Ok(Self { head, vms })
    }

    /// Keeps one plan, or one VM of it.
    #[must_use]
    pub fn only(mut self, plan: &PlanName, vm: Option<&VmName>) -> Self {
        self.vms.retain(|shown| {
            let name = &shown.report.metadata;
            name.plan.as_deref() == Some(plan.as_str())
                && vm.is_none_or(|vm| name.name == vm.as_str())
        });
        self
    }

    /// Tells whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.vms.is_empty()
    }

    /// Renders it for a terminal of so many columns; with `why` everything that stands against a VM and what to do about it.
    /// A row begins with the sign and the word of its VM's status.
    pub fn text(&self, width: u16, why: Why) -> String {
        let width = width.max(WIDTH_MIN);
        let mut text = lines(&self.head, width, 0);
        if !self.head.is_empty() {
            text.push('\n');
        }
        let mut table = bare(width);
        table.set_header(["status", "VM", "step", "copied", "time", "waits for"]);
        for shown in &self.vms {
            table.add_row(shown.cells());
        }
        // Where there is room, only names and reasons are broken into lines.
        let whole: &[usize] = if width < WIDTH_OF_WHOLE_CELLS { &[0] } else { &[0, 2, 3, 4] };
        for column in whole {
            if let Some(column) = table.column_mut(*column) {
                column.set_constraint(comfy_table::ColumnConstraint::ContentWidth);
            }
        }
        text.push_str(&trimmed(&mut table));
        if why == Why::Told {
            for shown in &self.vms {
                text.push('\n');
                text.push_str(&shown.told(width));
            }
        }
        if self.vms.len() > 1 {
            let all: Vec<_> = self.vms.iter().map(|shown| super::vm::line(&shown.report)).collect();
            let totals = super::page::told(&super::plan::totals(&all));
            text.push_str(&format!("\n{}", lines(&[totals], width, 0)));
        }
        text
    }

    /// Renders the VMs' documents as JSON.
    pub fn json(&self) -> String {
        let reports: Vec<&VmReport> = self.vms.iter().map(|shown| &shown.report).collect();
        let mut value =
            serde_json::to_value(reports).expect("strings, numbers and lists become JSON");
        harmless(&mut value);
        let mut text = serde_json::to_string_pretty(&value).expect("a JSON value becomes text");
        text.push('\n');
        text
    }
}

/// How much is said of each VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// One row.
    Brief,
    /// Steps, disks and findings as well.
    Told,
}

impl Shown {
    fn name(&self) -> String {
        let name = &self.report.metadata;
        let plan = name.plan.as_deref().unwrap_or_default();
        visible(&format!("{plan}/{}", name.name)).into_owned()
    }

    fn cells(&self) -> [String; 6] {
        let report = &self.report;
        let line = super::vm::line(report);
        let mut waits = line.waits.unwrap_or_default();
        if let Some(detail) = &self.detail {
            let _ = write!(waits, " ({detail})");
        }
        [
            format!("{} {}", report.status.symbol(), report.status.as_str()),
            self.name(),
            line.step.map_or_else(String::new, |step| step.as_str().to_owned()),
            self.copied(),
            self.time(),
            visible(&waits).into_owned(),
        ]
    }

    /// Says how much of all disks is behind the copy.
    fn copied(&self) -> String {
        let disks = &self.report.disks;
        let total: Bytes = disks.iter().map(|disk| disk.capacity).sum();
        let done: Bytes = disks
            .iter()
            .filter_map(|disk| disk.copied.or_else(|| Some(self.progress_of(disk)?.done)))
            .sum();
        if done == Bytes::default() {
            return String::new();
        }
        if done == total { total.to_string() } else { format!("{done} / {total}") }
    }

    fn progress_of(&self, disk: &DiskReport) -> Option<&Progressing> {
        self.progress.iter().find(|progress| progress.disk == disk.disk)
    }

    /// Says how long it took, or has been moving.
    fn time(&self) -> String {
        let moving = self.now.zip(self.began_at).map(|(now, began)| now.duration_since(began));
        let time = self.report.took_ms.map(measured).or(moving);
        time.map_or_else(String::new, lasting)
    }

    fn told(&self, width: u16) -> String {
        let report = &self.report;
        let mut texts = Vec::new();
        let line = super::vm::line(report);
        let waits = line.waits.as_ref().filter(|_| report.concerns.is_empty());
        for (label, text) in
            [("result", &report.result), ("why", &waits.cloned()), ("to do", &report.remedy)]
        {
            texts.extend(text.as_ref().map(|text| format!("{label}: {text}")));
        }
        texts.extend(super::vm::to_start(report).map(|it| format!("not started: run `{it}`")));
        texts.extend(report.concerns.iter().map(concern));
        let warned = |text: &String| format!("the converter warned: {text}");
        texts.extend(report.conversion_warnings.iter().map(warned));
        texts.extend(report.pipeline.iter().map(|step| self.step(step)));
        texts.extend(report.disks.iter().map(|disk| self.disk(disk)));
        if let Some(Estimate { seconds, basis }) = &report.estimate {
            let mut text = format!("copy: estimated ≈ {} ({basis})", seconds_last(*seconds));
            let copied = |step: &&Step| step.name == StepName::DiskTransfer;
            let took = report.pipeline.iter().find(copied).and_then(|step| step.took_ms);
            if let Some(took) = took.filter(|_| report.actual.is_some()) {
                let _ = write!(text, ", took {} with comparing", lasting(measured(took)));
            }
            texts.push(text);
        }
        let name = format!("{} {} {}", report.status.symbol(), report.status.as_str(), self.name());
        lines(&[name], width, 0) + &lines(&texts, width, 2)
    }

    fn step(&self, step: &Step) -> String {
        let mut text = format!("{} {:<23}", step.status.symbol(), step.name.as_str());
        let since = step.started.zip(self.now).map(|(from, now)| lasting(now.duration_since(from)));
        text.push_str(&match (step.status, step.took_ms) {
            (StepStatus::Completed, Some(took)) => lasting(measured(took)),
            (StepStatus::Completed, None) => "done".to_owned(),
            (StepStatus::Pending, _) => "to come".to_owned(),
            (StepStatus::Skipped, _) => "not needed".to_owned(),
            (StepStatus::Running, _) => match (since, step.started) {
                (Some(since), _) => format!("for {since} now"),
                (None, Some(from)) => format!("since {from}"),
                (None, None) => "now".to_owned(),
            },
            (StepStatus::Failed, Some(took)) => format!("failed after {}", lasting(measured(took))),
            (StepStatus::Failed, None) => "failed".to_owned(),
            (StepStatus::Canceled, _) => "canceled".to_owned(),
        });
        text
    }

    fn disk(&self, disk: &DiskReport) -> String {
        let DiskReport { disk: key, capacity, stored: _, copied, written, root, .. } = disk;
        let reached = self.progress_of(disk);
        let copied = copied.or(reached.map(|reached| reached.done));
        let written = written.or(reached.map(|reached| reached.written));
        let mut text = match (root, copied, written) {
            (Some(_), _, written) => {
                format!("copied, {} of {capacity} written", written.unwrap_or_default())
            }
            (None, Some(copied), written) => {
                format!("{copied} of {capacity} copied, {} written", written.unwrap_or_default())
            }
            (None, None, _) => format!("{capacity}, not copied yet"),
        };
        if disk.verified {
            text.push_str(", compared");
        }
        if disk.converted {
            text.push_str(", then converted");
        }
        format!("disk {key}: {text}")
    }
}

/// Says what concerns everything.
fn head(held: Option<&str>, findings: impl Iterator<Item = String>) -> Vec<String> {
    let held = held.map(|held| format!("held: {held}"));
    held.into_iter().chain(findings.map(|finding| format!("! {finding}"))).collect()
}

/// Says a finding as `ferry diff` does.
fn concern(concern: &ConcernReport) -> String {
    let ConcernReport { id, category, assessment, remedy, place } = concern.clone();
    told(&Finding { code: id, severity: category, place, text: assessment, hint: remedy })
}

/// Lists the disks whose copy is under way.
fn progress(run: &Run) -> Vec<Progressing> {
    let under_way = run.phase.disks().iter().filter(|copy| copy.root.is_none());
    under_way
        .filter_map(|copy| {
            let Checkpoint { disk, done, written, .. } = copy.checkpoint.clone()?;
            Some(Progressing { disk, done, written })
        })
        .collect()
}

fn is_yaml(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .and_then(|rest| rest.rsplit_once('.'))
        .is_some_and(|(_, end)| end == "yaml")
}

fn read<T: serde::de::DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, ReadError> {
    serde_yaml::from_slice(bytes).map_err(|cause| ReadError { path: path.to_owned(), cause })
}
