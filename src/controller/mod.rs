//! One pass: read, look, judge, decide, note; the actions that follow are carried out by [`run`] and come back as facts.
//!
//! # Guarantees
//!
//! A fact is durable before anything is done on top of it. What an action found out before a crash is lost, never invented:
//! every effect looks again. A pass takes no hint about what changed.

pub mod accept;
pub mod chain;
pub mod read;
pub mod run;

#[cfg(test)]
mod campaign;
#[cfg(test)]
mod rehearsal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::collect::collect;
use crate::controller::accept::{Acceptance, Followed};
use crate::controller::chain::{Assessment, Chain};
use crate::controller::read::{Reader, Reading};
use crate::copy::protocol::{FromWorker, News, Stage, WorkerEvent};
use crate::decide::{Action, Decision, Limits, Stand, Standing, Wait};
use crate::desired::Wanted;
use crate::domain::id::{CommitId, DiskKey, Instance, RunId, VmKey};
use crate::domain::text::visible;
use crate::domain::unit::Bytes;
use crate::execute::WorkerMeans;
use crate::journal::phase::{IllegalStep, Phase, name_of};
use crate::journal::progress::{FoldError, Progress, Run};
use crate::journal::record::{Entry, Fact};
use crate::observed::Observed;
use crate::planted::{Bug, planted};
use crate::policy::Verdict;
use crate::port::{JournalStore, PortError, Sites, World};
use crate::{preview, status};

/// How far wall clock and monotonic clock may drift apart between two passes before nothing is powered off for that pass
/// (safety rule 14).
const CLOCK_JUMP_MAX: SignedDuration = SignedDuration::from_mins(5);

/// How often decisions may follow one another within a pass before it is taken for a fault of ours: an attempt passes
/// through fewer phases than that.
const DECISIONS_MAX: usize = 64;

/// How long a commit of the report covers the phases that follow it while something still moves: a migration of a second
/// makes two commits, not one for each step.
const PHASES_GATHER: SignedDuration = SignedDuration::from_secs(2);

/// What the settings say about the controller.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names this controller.
    pub instance: Instance,
    /// Bounds on what moves.
    pub limits: Limits,
    /// Bounds on manifests.
    pub manifests: crate::manifest::parse::Limits,
    /// Bounds on copies.
    pub copy: WorkerMeans,
    /// How often reports are committed at most while no phase changes.
    pub report_interval: SignedDuration,
}

/// Why a pass or a fact failed as a whole. The controller may be asked again: nothing was done on top of it.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The journal could not be read or written.
    #[error("cannot read or write the journal")]
    Journal {
        /// Why.
        #[source]
        source: PortError,
    },
    /// The journal does not add up.
    #[error("the journal cannot be gone on with")]
    Fold {
        /// Why.
        #[source]
        source: FoldError,
    },
    /// A fact does not follow: a fault of ours.
    #[error("a fact does not follow; this is a bug, and nothing was done on top of it")]
    Illegal {
        /// Which.
        #[source]
        source: IllegalStep,
    },
    /// Decisions did not come to an end: a fault of ours.
    #[error("the decision did not settle; this is a bug, and nothing was done on top of it")]
    Unsettled,
}

/// An action with the attempt that it belongs to.
#[derive(Clone, Debug)]
pub struct Task {
    /// What to do.
    pub action: Action,
    /// The attempt as it stands.
    pub run: Run,
}

/// What one pass came to.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// To be carried out and handed back to [`Controller::done`].
    pub tasks: Vec<Task>,
    /// Where every VM stands.
    pub stands: Vec<Stand>,
    /// What was found about every entry.
    pub verdicts: Arc<Vec<Verdict>>,
    /// Why a newer commit is not followed.
    pub held: Option<String>,
    /// Why the watched branch could not be read.
    pub unread: Option<PortError>,
    /// When something is due at the latest.
    pub wake: Option<Timestamp>,
    /// Why the report could not be written.
    pub report_error: Option<PortError>,
    /// Whether a report was committed.
    pub reported: bool,
}

impl Pass {
    /// Tells whether something is under way or will be without anybody's doing.
    pub fn active(&self) -> bool {
        !self.tasks.is_empty() || self.stands.iter().any(active)
    }
}

fn active(stand: &Stand) -> bool {
    match &stand.state {
        Standing::Acting(_) => true,
        Standing::Waiting(wait) => wait.passes_by_itself(),
        Standing::Resting(_) => false,
    }
}

/// The reconciler: the journal's progress, the memos, and nothing else that must not be lost.
pub struct Controller<'w> {
    world: World<'w>,
    journal: &'w mut dyn JournalStore,
    config: Config,
    progress: Progress,
    reader: Reader,
    chain: Chain,
    renderer: status::Renderer,
    reading: Option<Reading>,
    busy: BTreeSet<RunId>,
    heard: BTreeMap<RunId, u64>,
    live: BTreeMap<(RunId, DiskKey), (Stage, Bytes)>,
    /// What the converters say that they do.
    doing: BTreeMap<RunId, String>,
    living: usize,
    reported: Reported,
    clocks: Option<(Timestamp, SignedDuration)>,
    stopping: bool,
}

/// What was last committed as the report.
#[derive(Debug, Default)]
struct Reported {
    at: Option<Timestamp>,
    revision: u64,
    phases: Vec<(RunId, &'static str)>,
    /// Why the last try failed; it is logged once, not with every pass.
    error: Option<String>,
}

impl std::fmt::Debug for Controller<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<'w> Controller<'w> {
    /// Folds the journal.
    pub fn new(
        world: World<'w>,
        journal: &'w mut dyn JournalStore,
        config: Config,
    ) -> Result<Self, ControllerError> {
        let records = journal.read().map_err(|source| ControllerError::Journal { source })?;
        let progress = Progress::fold(journal.id(), &records)
            .map_err(|source| ControllerError::Fold { source })?;
        Ok(Self {
            world,
            journal,
            progress,
            reader: Reader::new(config.manifests),
            config,
            chain: Chain::default(),
            renderer: status::Renderer::default(),
            reading: None,
            busy: BTreeSet::new(),
            heard: BTreeMap::new(),
            live: BTreeMap::new(),
            doing: BTreeMap::new(),
            living: 0,
            reported: Reported::default(),
            clocks: None,
            stopping: false,
        })
    }

    /// Returns what the journal adds up to.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Returns what is wanted, as far as a commit was read.
    pub fn wanted(&self) -> Option<&Wanted> {
        self.reading.as_ref().map(|reading| &*reading.wanted)
    }

    /// Returns how far the workers came, for eyes only.
    pub fn live(&self) -> &BTreeMap<(RunId, DiskKey), (Stage, Bytes)> {
        &self.live
    }

    /// Returns what the converter of an attempt says that it does.
    pub fn doing(&self, run: &RunId) -> Option<&str> {
        self.doing.get(run).map(String::as_str)
    }

    /// Returns the time, as the controller sees it.
    pub fn now(&self) -> Timestamp {
        self.world.clock.now()
    }

    /// Starts nothing forward any more.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Reads, looks, judges, decides and journals what holds already. What it returns begins first, and is reported then: a
    /// slow remote does not hold up what was decided, only what is decided next.
    pub fn pass(&mut self) -> Result<Pass, ControllerError> {
        self.hear()?;
        let mut bars = self.clock_jumped().into_iter().collect::<Vec<_>>();
        let mut pass = Pass::default();
        self.read(&mut bars, &mut pass)?;
        let mut observed = collect(&self.world, &self.sites(), self.stopping);
        observed.power_off_bars = bars;
        let (decision, verdicts) = self.settle(&observed)?;
        self.chain.remember(observed);
        pass.wake = wake(&decision);
        for action in decision.actions {
            let Some(run) = self.progress.runs(&action.run.vm).last().cloned() else { continue };
            self.busy.insert(action.run.clone());
            pass.tasks.push(Task { action, run });
        }
        pass.stands = decision.stands;
        pass.verdicts = verdicts;
        Ok(pass)
    }

    /// Takes what an action found out.
    pub fn done(
        &mut self,
        run: &RunId,
        result: Result<Vec<Fact>, PortError>,
    ) -> Result<(), ControllerError> {
        self.busy.remove(run);
        match result {
            Ok(facts) => facts.into_iter().try_for_each(|fact| self.note(run, fact)),
            Err(error) => self.note(run, Fact::Tried(error.fault)),
        }
    }

    /// Takes what the workers said. Returns whether a pass is worth its while: a fact was journaled, or a worker ended.
    pub fn hear(&mut self) -> Result<bool, ControllerError> {
        let mut noted = false;
        for WorkerEvent { run, said } in self.world.workers.take() {
            match said {
                FromWorker::Progress { disk, stage, done } => {
                    self.live.insert((run, disk), (stage, done));
                }
                FromWorker::Doing { text } => {
                    self.doing.insert(run, text);
                }
                FromWorker::Said { number, news } => {
                    // A number of 0 is the port's own word about a worker that ended without one.
                    let known =
                        self.heard.get(&run).is_some_and(|last| number != 0 && number <= *last);
                    if !known {
                        let last = matches!(news, News::Failed(_) | News::Ended);
                        let checkpoint = matches!(news, News::Checkpointed(_));
                        match self.hear_news(&run, news) {
                            Ok(heard) => noted |= heard,
                            // The next one says more; until then a restart copies from an earlier one.
                            Err(ControllerError::Journal { source }) if checkpoint => {
                                tracing::warn!(error = %visible(&source.fault.text), "a checkpoint is not written");
                            }
                            Err(error) => return Err(error),
                        }
                        // The next worker of the attempt counts from 1 again.
                        if last {
                            self.live.retain(|(other, _), _| *other != run);
                            self.doing.remove(&run);
                            self.heard.remove(&run);
                        } else {
                            self.heard.insert(run.clone(), number);
                        }
                    }
                    self.world.workers.acknowledge(&run, number);
                }
            }
        }
        let living = self.world.workers.states().len();
        noted |= std::mem::replace(&mut self.living, living) != living;
        Ok(noted)
    }

    fn hear_news(&mut self, run: &RunId, news: News) -> Result<bool, ControllerError> {
        let fact = match news {
            News::Checkpointed(checkpoint) => Fact::Checkpointed(checkpoint),
            News::Copied { disk, written, root } => Fact::DiskCopied { disk, written, root },
            News::Verified { disk } => Fact::DiskVerified { disk },
            News::Converted { warnings } => Fact::Converted { warnings },
            News::Committed { disk } => Fact::DiskCommitted { disk },
            News::Failed(fault) => Fact::Tried(fault),
            News::Ended => return Ok(false),
        };
        let current = self.progress.runs(&run.vm).last().filter(|last| last.begun.run() == run);
        let at_work = current
            .is_some_and(|run| matches!(run.phase, Phase::Copying(_) | Phase::Converting { .. }));
        if !at_work || self.progress.admits(self.world.clock.now(), run, &fact).is_err() {
            // Said again by a worker that outlived a controller, or too late for an attempt that is being undone.
            tracing::debug!(vm = %run.vm, "a worker said what is known or counts no more");
            return Ok(false);
        }
        self.note(run, fact).map(|()| true)
    }

    fn note(&mut self, run: &RunId, fact: Fact) -> Result<(), ControllerError> {
        self.append(&[Entry::Run { run: run.clone(), fact }])
    }

    /// Journals entries, all or none, and folds them. An entry that would not follow is not journaled.
    fn append(&mut self, entries: &[Entry]) -> Result<(), ControllerError> {
        if entries.is_empty() {
            return Ok(());
        }
        let at = self.world.clock.now();
        for entry in entries {
            if let Entry::Run { run, fact } = entry {
                self.progress
                    .admits(at, run, fact)
                    .map_err(|source| ControllerError::Illegal { source })?;
            }
        }
        self.journal.append(at, entries).map_err(|source| ControllerError::Journal { source })?;
        for entry in entries {
            if planted(Bug::ForgetsFailures)
                && matches!(entry, Entry::Run { fact: Fact::Tried(_), .. })
            {
                continue;
            }
            self.progress.apply(at, entry).map_err(|source| ControllerError::Illegal { source })?;
            self.logged(entry);
        }
        Ok(())
    }

    /// Logs what was just journaled.
    fn logged(&self, entry: &Entry) {
        let Entry::Run { run, fact } = entry else { return };
        let Some(attempt) = self.progress.runs(&run.vm).last() else { return };
        let _within = span(attempt).entered();
        match fact {
            Fact::Tried(fault) => tracing::warn!(error = %visible(&fault.text), "step failed"),
            Fact::Stalled(fault) => tracing::warn!(error = %visible(&fault.text), "stalled"),
            fact => tracing::info!(fact = name_of(fact), phase = attempt.phase.name(), "fact"),
        }
    }

    /// Decides until nothing is left to note.
    fn settle(
        &mut self,
        observed: &Observed,
    ) -> Result<(Decision, Arc<Vec<Verdict>>), ControllerError> {
        for _ in 0..DECISIONS_MAX {
            let assessed = self.chain.assess(&Assessment {
                reading: self.reading.as_ref(),
                observed,
                progress: &self.progress,
                busy: &self.busy,
                limits: self.config.limits,
                now: self.world.clock.now(),
            });
            if assessed.0.notes.is_empty() {
                return Ok(assessed);
            }
            // In a full state folder what finishes or undoes a VM is still written: it must not fail with what begins one.
            let (kept, new): (Vec<Entry>, Vec<Entry>) =
                assessed.0.notes.iter().cloned().partition(Entry::may_use_reserve);
            self.append(&kept)?;
            match self.append(&new) {
                // Nothing new begins, and what is under way goes on.
                Err(ControllerError::Journal { source })
                    if !kept.is_empty() || !assessed.0.actions.is_empty() =>
                {
                    tracing::error!(error = %visible(&source.fault.text), "nothing new begins");
                    if kept.is_empty() {
                        return Ok(assessed);
                    }
                }
                other => other?,
            }
        }
        Err(ControllerError::Unsettled)
    }

    /// Follows the watched branch.
    fn read(&mut self, bars: &mut Vec<String>, pass: &mut Pass) -> Result<(), ControllerError> {
        let (repo, instance) = (self.world.repo, &self.config.instance);
        let found = self.reader.follow(repo, &self.progress, self.reading.as_ref(), instance);
        match found {
            Ok(Acceptance::Same) => {}
            Ok(Acceptance::Follow(followed)) => match self.remember(followed) {
                // What cannot be remembered is not followed; what counted before counts on.
                Err(ControllerError::Journal { source }) if self.reading.is_some() => {
                    bars.push(source.fault.text.clone());
                    pass.unread = Some(source);
                }
                other => other?,
            },
            Ok(Acceptance::Hold { instead, reason }) => {
                if let Some(followed) = instead {
                    self.remember(followed)?;
                }
                bars.push(reason.clone());
                pass.held = Some(reason);
            }
            Err(error) => {
                if self.reading.is_none()
                    && let Some(followed) = self.reader.accepted(repo, &self.progress)
                {
                    self.remember(followed)?;
                }
                bars.push(error.fault.text.clone());
                pass.unread = Some(error);
            }
        }
        Ok(())
    }

    /// Lets a commit count once what is remembered of it is durable.
    fn remember(&mut self, followed: Followed) -> Result<(), ControllerError> {
        let Followed { reading, facts } = followed;
        let facts: Vec<Entry> = facts.into_iter().map(Entry::Repo).collect();
        self.append(&facts)?;
        tracing::info!(commit = %reading.commit, "following");
        self.reading = Some(reading);
        Ok(())
    }

    /// Lists the sites that plans and attempts that are not over name.
    fn sites(&self) -> Sites {
        sites(self.wanted(), &self.progress)
    }

    fn clock_jumped(&mut self) -> Option<String> {
        let (now, elapsed) = (self.world.clock.now(), self.world.clock.elapsed());
        let before = self.clocks.replace((now, elapsed));
        let (then, ran) = before?;
        let drift = now.duration_since(then).checked_sub(elapsed.checked_sub(ran)?)?;
        (drift.abs() > CLOCK_JUMP_MAX).then(|| "this machine's clock has just jumped".to_owned())
    }

    /// Renders the report of a pass, and commits it when it is due.
    pub fn report(&mut self, pass: &mut Pass) {
        let Some(reading) = &self.reading else { return };
        let instance = &self.config.instance;
        self.renderer.report(&preview::Input {
            wanted: &reading.wanted,
            verdicts: &pass.verdicts,
            progress: &self.progress,
            stands: &pass.stands,
            commit: &reading.commit,
            instance,
            held: pass.held.as_deref(),
            cutover: self.config.limits.cutover,
            now: self.world.clock.now(),
        });
        if planted(Bug::ReportsTheTime) {
            let now = self.world.clock.now().to_string().into_bytes();
            let files = [("time".to_owned(), now)].into();
            let _ = self.world.repo.publish("time", &files, "the time");
        }
        if self.report_due(pass.stands.iter().any(active)) {
            self.publish(pass);
        }
    }

    /// Tells whether what was rendered is committed now. A new phase waits a moment while something moves; what else
    /// changes waits for the settings' interval.
    fn report_due(&self, moves: bool) -> bool {
        if self.reported.revision == self.renderer.revision() {
            return false;
        }
        let Some(at) = self.reported.at else { return true };
        // A clock that was set back is no reason to wait for it.
        let age = self.world.clock.now().duration_since(at).abs();
        let gathered = age >= PHASES_GATHER || !moves || self.stopping;
        age >= self.config.report_interval
            || (gathered && (self.stopping || self.phases() != self.reported.phases))
    }

    /// Commits what was rendered last, unless it is committed already. Called for the last pass of a loop, too: nothing
    /// that a pass found out stays unsaid.
    fn publish(&mut self, pass: &mut Pass) {
        let Some(reading) = &self.reading else { return };
        let (instance, revision) = (&self.config.instance, self.renderer.revision());
        if self.reported.revision == revision {
            return;
        }
        let now = self.world.clock.now();
        let message = format!(
            "status of {instance} at {}\n\nFerry-Instance: {instance}\nFerry-Observed-Commit: {}\n",
            short(&reading.commit),
            reading.commit
        );
        match self.world.repo.publish(instance.as_str(), self.renderer.files(), &message) {
            Ok(made) => {
                pass.reported = made;
                pass.report_error = None;
                let (at, phases) = (Some(now), self.phases());
                self.reported = Reported { at, revision, phases, error: None };
            }
            Err(error) => {
                if self.reported.error.as_ref() != Some(&error.fault.text) {
                    tracing::warn!(error = %visible(&error.fault.text), "the report was not committed");
                    self.reported.error = Some(error.fault.text.clone());
                }
                pass.report_error = Some(error);
            }
        }
    }

    fn phases(&self) -> Vec<(RunId, &'static str)> {
        self.progress.newest().map(|run| (run.begun.run().clone(), run.phase.name())).collect()
    }
}

fn short(commit: &CommitId) -> &str {
    commit.as_str().get(..10).unwrap_or(commit.as_str())
}

/// Makes the span that everything about an attempt is logged in.
fn span(run: &Run) -> tracing::Span {
    let VmKey { plan, vm } = &run.begun.instructions().desired.key;
    let RunId { vm: _, migration, attempt } = run.begun.run();
    let (vm, plan) = (visible(vm.as_str()), visible(plan.as_str()));
    // Of the highest level, so that a warning within it names its VM whatever is filtered.
    tracing::error_span!("vm", %vm, %plan, run = %format_args!("{migration}#{attempt}"))
}

/// Lists the sites that plans and attempts that are not over name.
pub fn sites(wanted: Option<&Wanted>, progress: &Progress) -> Sites {
    let mut sites = Sites::new();
    for run in progress.moving() {
        let desired = &run.begun.instructions().desired;
        sites.insert(desired.source.clone(), desired.source_site.clone());
        sites.insert(desired.target.clone(), desired.target_site.clone());
    }
    for (name, site) in wanted.iter().flat_map(|wanted| &wanted.providers) {
        sites.insert(name.clone(), site.clone());
    }
    sites
}

/// Returns the earliest moment at which a wait ends by the clock.
fn wake(decision: &Decision) -> Option<Timestamp> {
    let due = |stand: &Stand| match &stand.state {
        Standing::Waiting(Wait::Retry { at, .. }) => Some(*at),
        Standing::Waiting(Wait::ShuttingDown { deadline }) => Some(*deadline),
        Standing::Waiting(Wait::Cutover { at }) => Some(*at),
        Standing::Waiting(Wait::Window { by: _, opens }) => *opens,
        Standing::Acting(_) | Standing::Waiting(_) | Standing::Resting(_) => None,
    };
    decision.stands.iter().filter_map(due).min()
}
