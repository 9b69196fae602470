//! One VM's document and line, made of where it stands, its verdict and its attempt.

use jiff::Timestamp;

use crate::decide::{Rest, Stand, Standing, Wait};
use crate::desired::Desired;
use crate::domain::id::{Instance, ProviderName, SourceVm};
use crate::domain::unit::{Bytes, lasting};
use crate::journal::pace::Pace;
use crate::journal::phase::Phase;
use crate::journal::progress::Run;
use crate::journal::record::Abandon;
use crate::manifest::diagnostic::Finding;
use crate::manifest::document::API_VERSION;
use crate::policy::{Outcome, Verdict};
use crate::preview::{Estimate, Sizes};
use crate::status::document::{
    ConcernReport, Condition, ConditionType, DiskReport, Holds, ReportName, SourceReport,
    TargetReport, VM_KIND, VmLine, VmReport, Word,
};
use crate::status::pipeline::{actual, between, current, disks, steps, whole};

/// Everything that one VM's document is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub instance: &'a Instance,
    pub stand: &'a Stand,
    pub verdict: Option<&'a Verdict>,
    pub desired: Option<&'a Desired>,
    pub run: Option<&'a Run>,
}

impl View<'_> {
    /// Makes the document.
    pub(super) fn report(&self) -> VmReport {
        let Self { instance, stand, verdict, desired, run } = *self;
        let begun = run.map(|run| run.begun.instructions());
        let desired = begun.map(|begun| &*begun.desired).or(desired);
        let cleared = verdict.and_then(|verdict| match &verdict.outcome {
            Outcome::Cleared(cleared) => Some(cleared),
            Outcome::Blocked | Outcome::Unknown(_) => None,
        });
        let name = begun
            .map(|begun| begun.target_name.clone())
            .or(cleared.map(|cleared| cleared.target_name().clone()))
            .or(desired.and_then(|desired| desired.target_name.clone()));
        let provider = |of: fn(&Desired) -> &ProviderName| {
            desired.map(|it| of(it).to_string()).unwrap_or_default()
        };
        let vm = begun.map(|begun| &*begun.vm).or(cleared.map(|cleared| &**cleared.vm()));
        let sizes = vm.map(Sizes::of);
        let pipeline = run.map(steps).unwrap_or_default();
        VmReport {
            api_version: API_VERSION.to_owned(),
            kind: VM_KIND.to_owned(),
            metadata: ReportName {
                name: stand.key.vm.to_string(),
                plan: Some(stand.key.plan.to_string()),
            },
            instance: instance.clone(),
            source: SourceReport {
                provider: provider(|desired| &desired.source),
                id: self.id(),
                reading: vm.and_then(|vm| vm.hosted.reading.clone()),
                believed: desired.and_then(|it| it.source_site.believed()).map(str::to_owned),
            },
            target: TargetReport { provider: provider(|desired| &desired.target), name },
            migration: run
                .map(|run| run.begun.run().migration.clone())
                .or_else(|| stand.migration.clone()),
            attempt: run.map(|run| run.begun.run().attempt),
            digest: begun
                .map(|begun| begun.digest.clone())
                .or_else(|| verdict.and_then(|verdict| verdict.digest.clone())),
            observed_commit: begun.map(|begun| begun.commit.clone()),
            status: self.word(),
            result: run.and_then(result),
            phase: run.map(|run| run.phase.name().to_owned()),
            waits: self.waits(),
            remedy: match &stand.state {
                Standing::Waiting(wait) => wait.remedy(),
                Standing::Resting(Rest::Failed(fault)) => Some(fault.remedy.clone()),
                Standing::Resting(_) | Standing::Acting(_) => None,
            },
            provisioned: sizes.map(|sizes| sizes.provisioned),
            stored: sizes.and_then(|sizes| sizes.stored),
            // What is measured later changes no report.
            estimate: sizes.map(|sizes| {
                Estimate::of(sizes.to_copy, run.map_or(Pace::ASSUMED, |run| run.pace))
            }),
            actual: actual(&pipeline),
            took_ms: run
                .filter(|run| run.phase.ended())
                .map(|run| between(run.began_at, run.since)),
            conditions: self.conditions(),
            pipeline,
            disks: run.map(disks).unwrap_or_default(),
            conversion_warnings: run
                .and_then(|run| run.phase.made())
                .map(|area| area.warnings.clone())
                .unwrap_or_default(),
            concerns: self.findings().iter().map(ConcernReport::from).collect(),
        }
    }

    /// Returns the VM's id at its source, as soon as anybody knows it.
    fn id(&self) -> Option<SourceVm> {
        self.run
            .map(|run| run.begun.run().vm.clone())
            .or_else(|| self.stand.vm.clone())
            .or_else(|| self.verdict.and_then(|verdict| verdict.vm.clone()))
    }

    /// Returns what was found; of a VM that is migrated nothing matters any more.
    fn findings(&self) -> &[Finding] {
        match (&self.stand.state, self.verdict) {
            (Standing::Resting(Rest::Completed), _) | (_, None) => &[],
            (_, Some(verdict)) => &verdict.findings,
        }
    }

    /// Returns the attempt, while it moves.
    fn moving(&self) -> Option<&Run> {
        self.run.filter(|run| !run.phase.ended())
    }

    /// Says how the VM stands in one word.
    fn word(&self) -> Word {
        let by_verdict = || match self.verdict.map(|verdict| &verdict.outcome) {
            Some(Outcome::Cleared(_)) => Word::Ready,
            Some(Outcome::Blocked | Outcome::Unknown(_)) | None => Word::NotReady,
        };
        match &self.stand.state {
            Standing::Resting(Rest::Archived) => Word::Archived,
            Standing::Resting(Rest::Completed) => Word::Completed,
            Standing::Resting(Rest::Canceled | Rest::Withdrawn) => Word::Canceled,
            Standing::Resting(Rest::Failed(_)) | Standing::Waiting(Wait::Stalled(_)) => {
                Word::Failed
            }
            Standing::Resting(Rest::NoMigration) => by_verdict(),
            Standing::Acting(_) => Word::Running,
            Standing::Waiting(_) if self.moving().is_some() => Word::Running,
            Standing::Waiting(
                Wait::Blocked
                | Wait::Unknown(_)
                | Wait::NameTaken
                | Wait::Pinned { .. }
                | Wait::CutoverMissed { .. }
                | Wait::Claimed(_),
            ) => Word::NotReady,
            Standing::Waiting(
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
            ) => Word::Ready,
        }
    }

    /// Says why nothing is done at this moment.
    fn waits(&self) -> Option<String> {
        match &self.stand.state {
            Standing::Acting(_) | Standing::Resting(Rest::Completed) => None,
            Standing::Waiting(wait) => Some(wait.words()),
            Standing::Resting(rest) => Some(rest.words()),
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        let always = [self.ready(), self.running(), self.succeeded(), self.failed()];
        always.into_iter().chain(self.not_started()).collect()
    }

    /// Says with which command a VM is started that its target did not start.
    fn not_started(&self) -> Option<Condition> {
        let run = self.run.filter(|run| left_off(run))?;
        let instructions = run.begun.instructions();
        let site = &instructions.desired.target_site;
        let command = site.start_command(&instructions.target_name).unwrap_or_default();
        let (kind, at) = (ConditionType::NotStarted, Some(run.since));
        Some(condition(kind, Holds::True, "TargetStartsNothing", command, at))
    }

    fn ready(&self) -> Condition {
        let kind = ConditionType::Ready;
        let began = self.run.map(|run| run.began_at);
        let (status, reason, message, at) = match self.verdict.map(|verdict| &verdict.outcome) {
            _ if self.run.is_some_and(|run| run.phase.ended()) => {
                (Holds::True, "Began", String::new(), began)
            }
            Some(Outcome::Cleared(_)) => (Holds::True, "Cleared", String::new(), began),
            Some(Outcome::Blocked) => {
                let blocks = self.findings().iter().filter(|finding| finding.blocks());
                let texts: Vec<&str> = blocks.map(|finding| finding.text.as_str()).collect();
                (Holds::False, "Blocked", texts.join("; "), None)
            }
            Some(Outcome::Unknown(gap)) => (Holds::Unknown, "Unseen", gap.reason.clone(), None),
            None => (Holds::Unknown, "NotJudged", String::new(), None),
        };
        condition(kind, status, reason, message, at)
    }

    fn running(&self) -> Condition {
        let kind = ConditionType::Running;
        match self.run {
            None => condition(kind, Holds::False, "NotBegun", String::new(), None),
            Some(run) if run.phase.ended() => {
                condition(kind, Holds::False, "Ended", String::new(), Some(run.since))
            }
            Some(run) => {
                if let Some(stall) = run.trouble.as_ref().filter(|trouble| trouble.stalled) {
                    let message = stall.fault.text.clone();
                    return condition(kind, Holds::False, "Stalled", message, Some(stall.at));
                }
                let message = self.stand.state.words();
                condition(kind, Holds::True, run.phase.name(), message, Some(run.began_at))
            }
        }
    }

    fn succeeded(&self) -> Condition {
        let kind = ConditionType::Succeeded;
        match self.run {
            Some(run) if matches!(run.phase, Phase::Completed { .. }) => {
                condition(kind, Holds::True, "Completed", String::new(), Some(run.since))
            }
            Some(_) | None => condition(kind, Holds::False, "NotCompleted", String::new(), None),
        }
    }

    fn failed(&self) -> Condition {
        let kind = ConditionType::Failed;
        let stall = self
            .moving()
            .and_then(|run| run.trouble.as_ref())
            .filter(|trouble| trouble.stalled)
            .map(|trouble| ("Stalled", trouble.fault.text.clone(), Some(trouble.at)));
        let rest = match &self.stand.state {
            Standing::Resting(Rest::Failed(fault)) => {
                Some(("Failed", fault.text.clone(), self.run.map(|run| run.since)))
            }
            Standing::Resting(_) | Standing::Acting(_) | Standing::Waiting(_) => None,
        };
        match stall.or(rest) {
            Some((reason, message, at)) => condition(kind, Holds::True, reason, message, at),
            None => condition(kind, Holds::False, "NoFailure", String::new(), None),
        }
    }
}

/// Makes the line of a document in its plan's report.
pub(super) fn line(report: &VmReport) -> VmLine {
    let blocked = report
        .conditions
        .iter()
        .find(|condition| condition.kind == ConditionType::Ready && condition.status != Holds::True)
        .map(|condition| condition.message.clone())
        .filter(|message| !message.is_empty());
    VmLine {
        name: report.metadata.name.clone(),
        status: report.status,
        attempt: report.attempt,
        step: current(&report.pipeline),
        target: report.target.name.clone(),
        provisioned: report.provisioned,
        written: copied(report),
        estimate_seconds: report.estimate.as_ref().map(|estimate| estimate.seconds),
        took_ms: report.took_ms,
        concerns: report.concerns.len(),
        waits: blocked.filter(|_| report.status == Word::NotReady).or_else(|| report.waits.clone()),
        digest: report.digest.clone(),
    }
}

/// Returns what was written of all disks, once they are copied.
fn copied(report: &VmReport) -> Option<Bytes> {
    let disks = report.disks.iter();
    let written = |disk: &DiskReport| disk.root.as_ref().and(disk.written);
    (!report.disks.is_empty()).then(|| disks.map(written).sum()).flatten()
}

/// Says how an attempt ended; `None` while it is not over.
pub fn result(run: &Run) -> Option<String> {
    let name = &run.begun.instructions().target_name;
    let took = lasting(run.since.duration_since(run.began_at));
    match &run.phase {
        Phase::Completed { area } => {
            let written: Bytes = area.disks.iter().map(|disk| disk.written).sum();
            let off = if area.left_off { ", not started there" } else { "" };
            Some(format!("migrated to {name} in {took}, {written} written{off}"))
        }
        Phase::Undone { why, kept, .. } => {
            let undone = match kept {
                Some(_) => "undone, its disks stay for the next attempt",
                None => "undone",
            };
            Some(match why {
                Abandon::Canceled => format!("canceled, {undone}"),
                Abandon::MigrationGone => format!("its Migration was taken away, {undone}"),
                Abandon::Superseded => format!("given up for a new attempt, {undone}"),
                Abandon::Failed(fault) => format!("failed: {}; {undone}", fault.text),
            })
        }
        Phase::Begun
        | Phase::Claiming { .. }
        | Phase::Claimed { .. }
        | Phase::On { .. }
        | Phase::ShuttingDown { .. }
        | Phase::Off(_)
        | Phase::Preparing { .. }
        | Phase::Copying(_)
        | Phase::Copied(_)
        | Phase::Converting { .. }
        | Phase::Converted(_)
        | Phase::Creating(_)
        | Phase::Created(_)
        | Phase::Starting { .. }
        | Phase::Settling { .. }
        | Phase::Undoing(_) => None,
    }
}

/// Tells whether the VM was to run and was not started.
fn left_off(run: &Run) -> bool {
    run.phase.made().is_some_and(|area| area.left_off)
}

/// Returns the command that starts a VM which its target did not start.
pub(super) fn to_start(report: &VmReport) -> Option<&str> {
    let found = report.conditions.iter().find(|it| it.kind == ConditionType::NotStarted);
    found.map(|condition| condition.message.as_str())
}

pub(super) fn condition(
    kind: ConditionType,
    status: Holds,
    reason: &str,
    message: String,
    at: Option<Timestamp>,
) -> Condition {
    let last_transition_time = at.map(whole);
    Condition { kind, status, reason: reason.to_owned(), message, last_transition_time }
}
