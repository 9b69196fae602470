//! The steps that a person follows, made of the phases that an attempt went through.

use jiff::{SignedDuration, Timestamp};

use crate::journal::phase::Phase;
use crate::journal::progress::Run;
use crate::journal::record::Abandon;
use crate::manifest::document::Verify;
use crate::preview::Estimate;
use crate::status::document::{DiskReport, Step, StepName, StepStatus};

/// The phases of each step. Comparing has no phase of its own: it is part of `Copying`.
const STEPS: [(StepName, &[&str]); 6] = [
    (
        StepName::Initialize,
        &["Begun", "Claiming", "Claimed", "On", "ShuttingDown", "Off", "Preparing"],
    ),
    (StepName::DiskTransfer, &["Copying"]),
    (StepName::Cutover, &["Copied"]),
    (StepName::Verify, &[]),
    (StepName::ImageConversion, &["Converting", "Converted"]),
    (StepName::VirtualMachineCreation, &["Creating", "Created", "Starting", "Settling"]),
];

/// Makes the steps of an attempt.
pub(super) fn steps(run: &Run) -> Vec<Step> {
    STEPS
        .iter()
        .map(|(name, phases)| match name {
            StepName::Verify => verify(run),
            StepName::ImageConversion if !run.begun.converts() => {
                let (name, status) = (*name, StepStatus::Skipped);
                Step { name, status, started: None, finished: None, took_ms: None }
            }
            StepName::Initialize
            | StepName::DiskTransfer
            | StepName::Cutover
            | StepName::ImageConversion
            | StepName::VirtualMachineCreation => step(run, *name, phases),
        })
        .collect()
}

/// Returns the step that is under way, or in which the attempt ended badly.
pub(super) fn current(steps: &[Step]) -> Option<StepName> {
    let at = |step: &&Step| {
        matches!(step.status, StepStatus::Running | StepStatus::Failed | StepStatus::Canceled)
    };
    steps.iter().find(at).map(|step| step.name)
}

/// Makes the disks of an attempt; a running copy's progress stays out.
pub(super) fn disks(run: &Run) -> Vec<DiskReport> {
    let copies = run.phase.disks();
    let disks = &run.begun.instructions().vm.disks;
    disks
        .iter()
        .map(|disk| {
            let copy = copies.iter().find(|copy| copy.disk == disk.key);
            let done = copy.filter(|copy| copy.root.is_some());
            let reached = copy.and_then(|copy| copy.checkpoint.as_ref()).filter(|_| still(run));
            DiskReport {
                disk: disk.key.clone(),
                capacity: disk.capacity,
                stored: disk.stored,
                copied: done.map(|_| disk.capacity).or(reached.map(|reached| reached.done)),
                written: done.map(|copy| copy.written).or(reached.map(|reached| reached.written)),
                root: done.and_then(|copy| copy.root.clone()),
                verified: done.is_some_and(|copy| copy.verified),
                converted: copy.is_some_and(|copy| copy.converted),
            }
        })
        .collect()
}

/// Tells whether nothing goes on: only then it does not change all the time how far a copy came.
fn still(run: &Run) -> bool {
    let stalled = run.trouble.as_ref().is_some_and(|trouble| trouble.stalled);
    stalled || run.phase.ended() || matches!(run.phase, Phase::Undoing(_))
}

/// Returns how long the copy took, once it is over, beside what was reckoned.
pub(super) fn actual(steps: &[Step]) -> Option<Estimate> {
    let copied = steps.iter().find(|step| step.name == StepName::DiskTransfer)?;
    let took = copied.took_ms.filter(|_| copied.status == StepStatus::Completed)?;
    let basis = "measured: DiskTransfer, comparing included".to_owned();
    Some(Estimate { seconds: took.div_ceil(1000), basis })
}

/// Returns a time as reports show it: the journal keeps its precision, people read seconds.
pub(super) fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// Counts the milliseconds between two times of the journal.
pub(super) fn between(from: Timestamp, until: Timestamp) -> u64 {
    u64::try_from(until.duration_since(from).as_millis()).unwrap_or(0)
}

/// Returns how long a measured time is.
pub(super) fn measured(milliseconds: u64) -> SignedDuration {
    SignedDuration::from_millis(i64::try_from(milliseconds).unwrap_or(i64::MAX))
}

fn step(run: &Run, name: StepName, phases: &[&str]) -> Step {
    let within = |(_, phase): &&(Timestamp, &'static str)| phases.contains(phase);
    let Some(first) = run.trail.iter().position(|reached| within(&reached)) else {
        let status = if given_up(run).is_some() || run.phase.ended() {
            StepStatus::Skipped
        } else {
            StepStatus::Pending
        };
        return Step { name, status, started: None, finished: None, took_ms: None };
    };
    let started = run.trail.get(first).map(|(at, _)| *at);
    let left = run.trail.iter().skip(first).find(|reached| !within(reached));
    let status = match left {
        None if run.trouble.as_ref().is_some_and(|trouble| trouble.stalled) => StepStatus::Failed,
        None => StepStatus::Running,
        Some((_, "Undoing")) => given_up(run).unwrap_or(StepStatus::Canceled),
        Some(_) => StepStatus::Completed,
    };
    let finished = left.map(|(at, _)| *at);
    let took_ms = started.zip(finished).map(|(from, until)| between(from, until));
    Step { name, status, started: started.map(whole), finished: finished.map(whole), took_ms }
}

fn verify(run: &Run) -> Step {
    let copied = run.trail.iter().find(|(_, phase)| *phase == "Copied").map(|(at, _)| *at);
    let disks = run.phase.disks();
    let status = match (run.begun.instructions().desired.verify, &run.phase) {
        (Verify::None, _) => StepStatus::Skipped,
        (Verify::Full | Verify::Changed, _) if copied.is_some() => StepStatus::Completed,
        (Verify::Full | Verify::Changed, Phase::Copying(_))
            if disks.iter().all(|disk| disk.root.is_some()) =>
        {
            StepStatus::Running
        }
        (Verify::Full | Verify::Changed, _) if given_up(run).is_some() => StepStatus::Skipped,
        (Verify::Full | Verify::Changed, _) => StepStatus::Pending,
    };
    let finished = copied.filter(|_| status == StepStatus::Completed).map(whole);
    Step { name: StepName::Verify, status, started: None, finished, took_ms: None }
}

/// Tells how an attempt that is given up ends in the step that it had come to.
fn given_up(run: &Run) -> Option<StepStatus> {
    let why = run.phase.abandoned()?;
    Some(match why {
        Abandon::Failed(_) => StepStatus::Failed,
        Abandon::Canceled | Abandon::MigrationGone | Abandon::Superseded => StepStatus::Canceled,
    })
}
