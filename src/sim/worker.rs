//! The simulated data plane: the real engine, in line, for as long as chance lets each worker run.
//!
//! A worker copies only within [`SimWorld::tick_workers`]. Between two ticks it stands at a boundary, as if the system had not
//! scheduled it. What it says is kept until it is acknowledged, and said again.

use std::collections::{BTreeMap, VecDeque};

use super::chance::{Call, Mishap};
use super::image::{SimImages, leaf_of};
use super::{SimWorld, State, crash};
use crate::copy::engine::{Bounds, Comparison, End, Flow, Heard, copy_disk, verify_disk};
use crate::copy::protocol::{DiskJob, FromWorker, Job, News, Stage, WorkerEvent};
use crate::copy::tree::LEAF_BYTES;
use crate::domain::id::RunId;
use crate::domain::unit::Bytes;
use crate::journal::record::Checkpoint;
use crate::manifest::document::Verify;
use crate::observed::WorkerState;
use crate::port::{PortError, Workers};

/// How much a simulated copy may use: no thread but this one, so that the same seed is the same run, and a checkpoint after
/// every few leaves.
const BOUNDS: Bounds =
    Bounds { threads: 0, memory: Bytes(1), checkpoint_every: Bytes(4 * LEAF_BYTES) };

/// A worker.
#[derive(Clone, Debug)]
pub(super) struct SimWorker {
    job: Job,
    /// The disk that it is at, or the step of a conversion.
    pub(super) at: usize,
    next_number: u64,
    /// What is not acknowledged.
    outbox: VecDeque<(u64, News)>,
    /// Up to which number it was taken.
    taken: u64,
    progress: Option<FromWorker>,
    /// Whether it said its last word.
    ended: bool,
    /// Whether the system took it away within what it does now.
    pub(super) killed: bool,
    power_cut: bool,
}

impl SimWorker {
    fn new(job: Job) -> Self {
        Self {
            job,
            at: 0,
            next_number: 1,
            outbox: VecDeque::new(),
            taken: 0,
            progress: None,
            ended: false,
            killed: false,
            power_cut: false,
        }
    }

    /// Lets the next controller hear everything that is not acknowledged.
    pub(super) fn say_again(&mut self) {
        self.taken = 0;
    }

    /// Tells whether it has not said its last word.
    pub(super) fn copies(&self) -> bool {
        !self.ended
    }

    /// Returns the disk that it copies.
    fn disk_mut(&mut self) -> Option<&mut DiskJob> {
        match &mut self.job {
            Job::Copy(job) => job.disks.get_mut(self.at),
            Job::Convert(_) => None,
        }
    }

    fn say(&mut self, news: News) {
        self.ended |= matches!(news, News::Ended | News::Failed(_));
        self.outbox.push_back((self.next_number, news));
        self.next_number += 1;
    }
}

impl SimWorld {
    /// Lets every worker run until it has said so much, or chance stops it.
    pub fn tick_workers(&self, budget: usize) {
        let runs: Vec<RunId> = self.lock().workers.keys().cloned().collect();
        for run in runs {
            self.work(&run, budget);
        }
    }

    fn work(&self, run: &RunId, budget: usize) {
        let mut slice = Slice { world: self, run, left: budget };
        let result = slice.perform();
        let mut state = self.lock();
        let Some(worker) = state.workers.get_mut(run) else { return };
        if worker.killed {
            let power_cut = worker.power_cut;
            if power_cut {
                state.crash_machine();
            } else {
                state.counts.crash(3);
                state.bury(run);
            }
            return;
        }
        match result {
            Ok(Flow::Continue) if !worker.ended => worker.say(News::Ended),
            Ok(Flow::Continue | Flow::Stop) => {}
            Err(error) => worker.say(News::Failed(error.fault)),
        }
    }
}

/// What a worker does in one tick.
pub(super) struct Slice<'a> {
    pub(super) world: &'a SimWorld,
    pub(super) run: &'a RunId,
    left: usize,
}

impl Slice<'_> {
    /// Goes on with the job. Returns whether it is done or only paused.
    fn perform(&mut self) -> Result<Flow, PortError> {
        let job = self.world.lock().workers.get(self.run).map(|worker| worker.job.clone());
        match job {
            Some(Job::Convert(job)) => self.convert(&job),
            Some(Job::Copy(_)) | None => self.copy(),
        }
    }

    fn copy(&mut self) -> Result<Flow, PortError> {
        while let Some((disk, verify)) = self.current() {
            let images = SimImages { world: self.world.clone(), run: self.run.clone() };
            let root = match &disk.copied {
                Some(root) => root.clone(),
                None => {
                    let mut hear = |heard| self.hear(&disk, Stage::Copy, heard);
                    match copy_disk(&images, &disk, BOUNDS, &mut hear)? {
                        End::Stopped => return Ok(Flow::Stop),
                        End::Copied { written, root } => {
                            let key = disk.disk.key.clone();
                            self.copied(&root);
                            self.say(News::Copied { disk: key, written, root: root.clone() });
                            root
                        }
                    }
                }
            };
            if verify != Verify::None {
                let mut hear = |heard| self.hear(&disk, Stage::Verify, heard);
                match verify_disk(&images, &disk, &root, verify, &mut hear)? {
                    Comparison::Stopped => return Ok(Flow::Stop),
                    Comparison::Equal => {
                        self.say(News::Verified { disk: disk.disk.key.clone() });
                    }
                }
            }
            self.next_disk();
        }
        Ok(Flow::Continue)
    }

    fn current(&self) -> Option<(DiskJob, Verify)> {
        let state = self.world.lock();
        let worker = state.workers.get(self.run).filter(|worker| !worker.ended)?;
        let Job::Copy(job) = &worker.job else { return None };
        Some((job.disks.get(worker.at)?.clone(), job.verify))
    }

    pub(super) fn with_worker<T: Default>(&self, change: impl FnOnce(&mut SimWorker) -> T) -> T {
        self.world.lock().workers.get_mut(self.run).map(change).unwrap_or_default()
    }

    pub(super) fn say(&self, news: News) {
        self.with_worker(|worker| worker.say(news));
    }

    fn copied(&self, root: &str) {
        self.with_worker(|worker| {
            if let Some(disk) = worker.disk_mut() {
                disk.copied = Some(root.to_owned());
            }
        });
    }

    fn next_disk(&self) {
        self.with_worker(|worker| worker.at += 1);
    }

    /// Hears the engine, and decides whether the worker goes on.
    fn hear(&mut self, disk: &DiskJob, stage: Stage, heard: Heard) -> Flow {
        let mut state = self.world.lock();
        let checkpoint = match heard {
            Heard::Progress(done) => {
                let disk = disk.disk.key.clone();
                let progress = FromWorker::Progress { disk, stage, done };
                if let Some(worker) = state.workers.get_mut(self.run) {
                    worker.progress = Some(progress);
                }
                None
            }
            Heard::Checkpointed(checkpoint) => Some(checkpoint),
        };
        if let Some(checkpoint) = checkpoint {
            state.hold_to_durability(disk, &checkpoint);
            if let Some(worker) = state.workers.get_mut(self.run) {
                if let Some(disk) = worker.disk_mut() {
                    disk.checkpoint = Some(checkpoint.clone());
                }
                worker.say(News::Checkpointed(checkpoint));
            }
        }
        drop(state);
        self.pause()
    }

    /// Decides whether the worker goes on.
    pub(super) fn pause(&mut self) -> Flow {
        let mut state = self.world.lock();
        self.left = self.left.saturating_sub(1);
        let mishap = state.draw(Call::WorkerHeard);
        let Some(worker) = state.workers.get_mut(self.run) else { return Flow::Stop };
        worker.killed |= matches!(mishap, Some(Mishap::Kill | Mishap::PowerCut));
        worker.power_cut |= mishap == Some(Mishap::PowerCut);
        if mishap.is_some() || self.left == 0 { Flow::Stop } else { Flow::Continue }
    }
}

impl State {
    /// Lets a worker be gone without a last word: whoever carries its messages says so, under the number 0.
    fn bury(&mut self, run: &RunId) {
        let Some(worker) = self.workers.get_mut(run) else { return };
        let fault = PortError::passing("the simulated worker was killed", "it is started again");
        worker.killed = false;
        worker.ended = true;
        worker.outbox.push_back((0, News::Failed(fault.fault)));
    }

    pub(super) fn killed(&self, run: &RunId) -> bool {
        self.workers.get(run).is_none_or(|worker| worker.killed)
    }

    /// Notes it where a checkpoint is said before what it says is durable.
    fn hold_to_durability(&mut self, job: &DiskJob, checkpoint: &Checkpoint) {
        let Some(leaves) = leaf_of(&checkpoint.resume) else {
            self.slip(format!("{} is no position", checkpoint.resume));
            return;
        };
        let disk = self.target.disks.get(&job.target.0);
        if let Some(why) = disk.and_then(|disk| disk.not_durable(leaves)) {
            self.slip(format!("a checkpoint of {} was said although {why}", job.target.0));
        }
    }
}

impl Workers for SimWorld {
    fn start(&self, job: Job) -> Result<(), PortError> {
        self.call(Call::WorkerStart, |state| {
            let stands = |worker: &SimWorker| !worker.ended || !worker.outbox.is_empty();
            if !state.workers.get(job.run()).is_some_and(stands) {
                state.workers.insert(job.run().clone(), SimWorker::new(job));
            }
            Ok(())
        })
    }

    fn states(&self) -> BTreeMap<RunId, WorkerState> {
        let state = self.lock();
        let known = |(run, worker): (&RunId, &SimWorker)| {
            let seen = match (worker.ended, worker.outbox.is_empty()) {
                (false, _) => WorkerState::Running,
                (true, false) => WorkerState::Stopping,
                (true, true) => return None,
            };
            Some((run.clone(), seen))
        };
        state.workers.iter().filter_map(known).collect()
    }

    fn take(&self) -> Vec<WorkerEvent> {
        let mut state = self.lock();
        if state.crashed {
            return Vec::new();
        }
        let repeat = state.draw(Call::WorkerTake).is_some();
        let mut events = Vec::new();
        for (run, worker) in &mut state.workers {
            if repeat {
                worker.say_again();
            }
            let event = |said| WorkerEvent { run: run.clone(), said };
            events.extend(worker.progress.take().map(event));
            for (number, news) in &worker.outbox {
                if *number == 0 || *number > worker.taken {
                    events.push(event(FromWorker::Said { number: *number, news: news.clone() }));
                }
            }
            worker.taken = worker.next_number - 1;
        }
        events
    }

    fn acknowledge(&self, run: &RunId, number: u64) {
        let mut state = self.lock();
        if state.crashed || state.draw(Call::WorkerAcknowledge).is_some() {
            return;
        }
        let Some(worker) = state.workers.get_mut(run) else { return };
        // The word about its death is the last one, whatever its number is.
        worker.outbox.retain(|(other, _)| number != 0 && (*other == 0 || *other > number));
        if worker.ended && worker.outbox.is_empty() {
            state.workers.remove(run);
        }
    }

    fn stop(&self, run: &RunId) -> Result<(), PortError> {
        if self.lock().crashed {
            return Err(crash());
        }
        self.call(Call::WorkerStop, |state| {
            // It stands at a boundary: what it said last is what it leaves behind.
            if let Some(worker) = state.workers.get_mut(run).filter(|worker| !worker.ended) {
                worker.say(News::Ended);
            }
            Ok(())
        })
    }
}
