//! The worker: one job over a pair of pipes, as [`crate::copy::protocol`] says.
//!
//! # Guarantees
//!
//! - What must not be lost is kept until it is acknowledged, at most [`UNACKNOWLEDGED_MAX`] messages: a controller that
//!   journals nothing any more holds the copy up, it does not fill the memory.
//! - When the input ends, the controller is gone: `Terms::gone` is called at once, from whatever the copy is in.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::copy::engine::{
    Bounds, Comparison, End, Flow, Heard, PIECE_BYTES_MAX, copy_disk, verify_disk,
};
use crate::copy::frame::{FrameError, read_frame, write_frame};
use crate::copy::protocol::{
    ConvertJob, CopyJob, DiskJob, FromWorker, Job, News, PROTOCOL_VERSION, Stage, ToWorker,
};
use crate::domain::unit::Bytes;
use crate::journal::record::Mend;
use crate::manifest::document::Verify;
use crate::port::{Conversion, Converter, Images, PortError};

/// How many messages may wait to be acknowledged. A checkpoint is the only one that repeats, every few seconds.
pub const UNACKNOWLEDGED_MAX: usize = 64;

/// How often progress is said: ten times a second is more than an eye follows.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// A converter that is bound to the disks of a job.
pub type Opened = Result<Box<dyn Converter>, PortError>;

/// What a worker is given by its process.
pub struct Terms<'a> {
    /// Opens the disks of a job, below its `allow_paths` only.
    pub images: &'a (dyn Fn(&CopyJob) -> Box<dyn Images> + Sync),
    /// Makes the converter of a job, bound to its disks.
    pub converter: &'a (dyn Fn(&ConvertJob) -> Opened + Sync),
    /// Threads that inflate, hash and write.
    pub threads: usize,
    /// Called when the controller is gone, to end the process whatever it waits for.
    pub gone: &'a (dyn Fn() + Sync),
}

impl std::fmt::Debug for Terms<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terms").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// Why a worker could not talk.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The first message could not be read.
    #[error("cannot read the job")]
    Job(#[source] FrameError),
    /// The first message was another one.
    #[error("the first message is not the job")]
    NoJob,
}

/// Does one job and returns after its end was acknowledged, or its controller is gone.
pub fn serve(
    input: &mut (dyn Read + Send),
    output: &mut (dyn Write + Send),
    terms: &Terms<'_>,
) -> Result<(), WorkerError> {
    let (protocol, job) = match read_frame(input).map_err(WorkerError::Job)? {
        Some(ToWorker::Start { protocol, job }) => (protocol, job),
        Some(ToWorker::Acknowledge { .. } | ToWorker::Resend | ToWorker::Stop) => {
            return Err(WorkerError::NoJob);
        }
        None => return Ok(()),
    };
    let voice = Voice::new(output);
    thread::scope(|scope| {
        scope.spawn(|| voice.listen(input, terms.gone));
        scope.spawn(|| voice.progress());
        let done = catch_unwind(AssertUnwindSafe(|| perform(protocol, &job, terms, &voice)));
        voice.say(match done {
            Ok(Ok(())) => News::Ended,
            Ok(Err(error)) => News::Failed(error.fault),
            Err(_) => News::Failed(
                PortError::lasting(
                    "the worker ended by a bug of ferry",
                    "report it with the worker's log",
                    Mend::Person,
                )
                .fault,
            ),
        });
    });
    Ok(())
}

fn perform(
    protocol: u32,
    job: &Job,
    terms: &Terms<'_>,
    voice: &Voice<'_>,
) -> Result<(), PortError> {
    if protocol != PROTOCOL_VERSION {
        return Err(PortError::lasting(
            format!("the controller speaks protocol {protocol}, the worker {PROTOCOL_VERSION}"),
            "let both be the same version of ferry",
            Mend::Person,
        ));
    }
    match job {
        Job::Copy(job) => copy(job, terms, voice),
        Job::Convert(job) => convert(job, (terms.converter)(job)?.as_mut(), voice),
    }
}

/// Converts, or commits what is a fact. One worker never does both: the overlays are believed once it is journaled that they
/// hold the whole conversion.
fn convert(
    job: &ConvertJob,
    converter: &mut dyn Converter,
    voice: &Voice<'_>,
) -> Result<(), PortError> {
    let mut doing = |text: &str| voice.doing(text) == Flow::Continue;
    if !job.converted {
        if let Conversion::Done { warnings } = converter.convert(&mut doing)? {
            voice.say(News::Converted { warnings });
        }
        return Ok(());
    }
    for disk in job.disks.iter().filter(|disk| !disk.committed) {
        match converter.commit(&disk.target, &mut doing)? {
            Conversion::Done { .. } => voice.say(News::Committed { disk: disk.disk.clone() }),
            Conversion::Stopped => break,
        }
    }
    Ok(())
}

fn copy(job: &CopyJob, terms: &Terms<'_>, voice: &Voice<'_>) -> Result<(), PortError> {
    let CopyJob { run: _, disks, verify, allow_paths: _, memory, checkpoint_every, access: _ } =
        job;
    let images = (terms.images)(job);
    let bounds = Bounds {
        threads: terms.threads,
        // Two pieces at least: one is read while the other is written.
        memory: Bytes(memory.0.max(4 * u64::from(PIECE_BYTES_MAX))),
        checkpoint_every: *checkpoint_every,
    };
    for disk in disks {
        if voice.flow() == Flow::Stop {
            break;
        }
        let Some(root) = copied(images.as_ref(), disk, bounds, voice)? else { break };
        if *verify == Verify::None {
            continue;
        }
        let mut hear = |heard| voice.hear(disk, Stage::Verify, heard);
        match verify_disk(images.as_ref(), disk, &root, *verify, &mut hear)? {
            Comparison::Equal => voice.say(News::Verified { disk: disk.disk.key.clone() }),
            Comparison::Stopped => break,
        }
    }
    Ok(())
}

/// Copies a disk that is not copied yet; returns its root, or `None` where it was stopped.
fn copied(
    images: &dyn Images,
    disk: &DiskJob,
    bounds: Bounds,
    voice: &Voice<'_>,
) -> Result<Option<String>, PortError> {
    if let Some(root) = &disk.copied {
        return Ok(Some(root.clone()));
    }
    let mut hear = |heard| voice.hear(disk, Stage::Copy, heard);
    match copy_disk(images, disk, bounds, &mut hear)? {
        End::Copied { written, root } => {
            let key = disk.disk.key.clone();
            voice.say(News::Copied { disk: key, written, root: root.clone() });
            Ok(Some(root))
        }
        End::Stopped => Ok(None),
    }
}

/// What is said and heard, shared by the threads.
struct Voice<'a> {
    state: Mutex<Spoken<'a>>,
    changed: Condvar,
}

struct Spoken<'a> {
    output: &'a mut (dyn Write + Send),
    unacknowledged: VecDeque<(u64, News)>,
    last: u64,
    progress: Option<FromWorker>,
    /// The last numbered message was said.
    ended: bool,
    stopping: bool,
    gone: bool,
}

impl Spoken<'_> {
    fn write(&mut self, message: &FromWorker) {
        // The controller hears nothing any more: it is gone, or takes this worker for dead.
        if !self.gone && write_frame(self.output, message).is_err() {
            self.gone = true;
        }
    }
}

impl<'a> Voice<'a> {
    fn new(output: &'a mut (dyn Write + Send)) -> Self {
        let state = Spoken {
            output,
            unacknowledged: VecDeque::new(),
            last: 0,
            progress: None,
            ended: false,
            stopping: false,
            gone: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Spoken<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something that is kept. While too much is kept it waits, but not at the end: then only little comes.
    fn say(&self, news: News) {
        let last = matches!(news, News::Ended | News::Failed(_));
        let full = |state: &mut Spoken<'_>| {
            !last
                && state.unacknowledged.len() >= UNACKNOWLEDGED_MAX
                && !state.stopping
                && !state.gone
        };
        let mut state =
            self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        state.last += 1;
        let number = state.last;
        state.unacknowledged.push_back((number, news.clone()));
        state.ended |= last;
        state.write(&FromWorker::Said { number, news });
        drop(state);
        self.changed.notify_all();
    }

    fn hear(&self, disk: &DiskJob, stage: Stage, heard: Heard) -> Flow {
        match heard {
            Heard::Progress(done) => {
                let disk = disk.disk.key.clone();
                self.lock().progress = Some(FromWorker::Progress { disk, stage, done });
            }
            Heard::Checkpointed(checkpoint) => self.say(News::Checkpointed(checkpoint)),
        }
        self.flow()
    }

    fn doing(&self, text: &str) -> Flow {
        self.lock().progress = Some(FromWorker::Doing { text: text.to_owned() });
        self.flow()
    }

    fn flow(&self) -> Flow {
        let state = self.lock();
        if state.stopping || state.gone { Flow::Stop } else { Flow::Continue }
    }

    /// Hears the controller until the end is acknowledged or it is gone. What cannot be read is no controller of ours.
    fn listen(&self, input: &mut (dyn Read + Send), gone: &(dyn Fn() + Sync)) {
        loop {
            let heard = read_frame(input);
            let mut state = self.lock();
            match heard {
                Ok(Some(ToWorker::Acknowledge { number })) => {
                    state.unacknowledged.retain(|(kept, _)| *kept > number);
                }
                Ok(Some(ToWorker::Resend)) => {
                    let again: Vec<_> = state.unacknowledged.iter().cloned().collect();
                    for (number, news) in again {
                        state.write(&FromWorker::Said { number, news });
                    }
                }
                Ok(Some(ToWorker::Stop)) => state.stopping = true,
                Ok(Some(ToWorker::Start { .. }) | None) | Err(_) => state.gone = true,
            }
            let (lost, over) = (state.gone, state.ended && state.unacknowledged.is_empty());
            drop(state);
            self.changed.notify_all();
            if lost {
                gone();
            }
            if lost || over {
                return;
            }
        }
    }

    /// Says the newest progress from time to time, until the end.
    fn progress(&self) {
        let mut state = self.lock();
        while !state.ended && !state.gone {
            if let Some(progress) = state.progress.take() {
                state.write(&progress);
            }
            let waited = self
                .changed
                .wait_timeout_while(state, PROGRESS_EVERY, |state| !state.ended && !state.gone);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests;
