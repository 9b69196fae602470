//! Workers as subprocesses: `ferry worker` with the protocol on its standard input and output.
//!
//! # Flow
//!
//! One thread for each worker reads what it says; [`Workers::take`] hands it on. A numbered message that was not acknowledged
//! is handed on again by the next `take`: whoever takes it journals it first and acknowledges it then.
//!
//! A worker that ends without its last message leaves a [`News::Failed`] that may pass ([`News::Ended`] where it was being
//! stopped), numbered 0: it is the last one, and acknowledging it acknowledges all. A new worker for the same run takes the
//! place of an ended one once all that it said is acknowledged; until then [`Workers::states`] shows it as stopping. So whoever
//! sees no worker has journaled everything that the last one did.
//!
//! # Guarantees
//!
//! A worker does not outlive this process: the pipe to it closes with the process, however it ends, and the worker ends with
//! the pipe.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::copy::frame::{FrameError, read_frame, write_frame};
use crate::copy::protocol::{FromWorker, Job, News, PROTOCOL_VERSION, ToWorker, WorkerEvent};
use crate::domain::id::RunId;
use crate::observed::WorkerState;
use crate::port::{PortError, Workers};

/// How long a worker may take to reach a boundary: one checkpoint on a slow storage.
const STOP_WAIT: Duration = Duration::from_mins(1);

/// How long a worker may take to end once its pipe is closed.
const END_WAIT: Duration = Duration::from_secs(5);

/// How long a worker may say nothing: it tells its progress ten times a second, and a storage that needs longer than this
/// for one checkpoint is as good as gone.
const SILENCE_MAX: Duration = Duration::from_mins(10);

/// The longest line of a worker's log that is kept.
const LINE_BYTES_MAX: u64 = 4 << 10;

/// The workers of this controller.
pub struct Subprocesses {
    program: PathBuf,
    arguments: Vec<OsString>,
    waker: Arc<dyn Fn() + Send + Sync>,
    workers: Mutex<BTreeMap<RunId, Arc<Worker>>>,
    stop_wait: Duration,
    end_wait: Duration,
}

impl fmt::Debug for Subprocesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subprocesses").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Subprocesses {
    /// Starts workers as `program worker`. The waker is called from other threads whenever something was said, and must not
    /// wait.
    pub fn new(program: PathBuf, waker: Box<dyn Fn() + Send + Sync>) -> Self {
        let waker = Arc::from(waker);
        Self {
            program,
            arguments: vec!["worker".into()],
            waker,
            workers: Mutex::default(),
            stop_wait: STOP_WAIT,
            end_wait: END_WAIT,
        }
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<RunId, Arc<Worker>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker(&self, run: &RunId) -> Option<Arc<Worker>> {
        self.workers().get(run).cloned()
    }

    #[expect(clippy::disallowed_methods, reason = "the data plane runs in a process of its own")]
    fn spawn(&self, job: &Job) -> Result<Child, PortError> {
        let run = job.run();
        let mut command = Command::new(&self.program);
        if let Some(library) = job.library() {
            // It loads its own parts by their names, which no other process may ever find.
            command.env("LD_LIBRARY_PATH", format!("{library}/lib64"));
        }
        let child = command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C on a terminal is for the controller, which then stops its workers at a boundary.
            .process_group(0)
            .spawn();
        child.map_err(|error| {
            PortError::passing(
                format!("cannot start `{}` for {run}: {error}", self.program.display()),
                "check that ferry's binary is where it was and that the machine has room for a process",
            )
        })
    }
}

impl Workers for Subprocesses {
    fn start(&self, job: Job) -> Result<(), PortError> {
        let mut workers = self.workers();
        // What a worker said before it died is taken first: the numbers of its successor begin again.
        let stands = |worker: &Arc<Worker>| {
            let state = worker.lock();
            state.life != Life::Over || !state.said.is_empty()
        };
        if workers.get(job.run()).is_some_and(stands) {
            return Ok(());
        }
        let run = job.run().clone();
        let mut child = self.spawn(&job)?;
        let input = child.stdin.take().expect("asked for as a pipe");
        let output = child.stdout.take().expect("asked for as a pipe");
        let log = child.stderr.take().expect("asked for as a pipe");
        let worker = Arc::new(Worker {
            run: run.clone(),
            child: Mutex::new(child),
            input: Mutex::new(Some(input)),
            state: Mutex::new(State {
                said: VecDeque::new(),
                progress: BTreeMap::new(),
                doing: None,
                finished: false,
                heard_at: now(),
                life: Life::Running,
            }),
            changed: Condvar::new(),
        });
        let start = ToWorker::Start { protocol: PROTOCOL_VERSION, job };
        // A worker that cannot be told anything has ended, which its thread finds out and tells.
        worker.tell(&start);
        workers.insert(run, Arc::clone(&worker));
        let waker = Arc::clone(&self.waker);
        thread::spawn(move || worker.listen(output, log, waker.as_ref()));
        Ok(())
    }

    fn states(&self) -> BTreeMap<RunId, WorkerState> {
        let workers = self.workers();
        let state = |worker: &Worker| {
            let state = worker.lock();
            let (life, heard) = (state.life, state.said.is_empty());
            drop(state);
            match life {
                Life::Running => Some(worker.speaks()),
                Life::Over if heard => None,
                Life::Stopping | Life::Over => Some(WorkerState::Stopping),
            }
        };
        let known = |(run, worker): (&RunId, &Arc<Worker>)| Some((run.clone(), state(worker)?));
        workers.iter().filter_map(known).collect()
    }

    fn take(&self) -> Vec<WorkerEvent> {
        let mut workers = self.workers();
        let taken = workers.values().flat_map(|worker| worker.take()).collect();
        workers.retain(|_, worker| {
            let state = worker.lock();
            state.life != Life::Over || !state.said.is_empty()
        });
        taken
    }

    fn acknowledge(&self, run: &RunId, number: u64) {
        if let Some(worker) = self.worker(run) {
            worker.lock().said.retain(|(said, _)| number != 0 && (*said == 0 || *said > number));
            worker.tell(&ToWorker::Acknowledge { number });
        }
    }

    fn stop(&self, run: &RunId) -> Result<(), PortError> {
        let Some(worker) = self.worker(run) else { return Ok(()) };
        {
            let mut state = worker.lock();
            if state.life == Life::Running {
                state.life = Life::Stopping;
            }
        }
        worker.tell(&ToWorker::Stop);
        worker.wait(self.stop_wait, |state| state.finished || state.life == Life::Over);
        // Everything that it said is here: without its pipe it ends, acknowledged or not.
        worker.hang_up();
        if worker.wait(self.end_wait, |state| state.life == Life::Over) {
            return Ok(());
        }
        worker.kill();
        if worker.wait(self.end_wait, |state| state.life == Life::Over) {
            return Ok(());
        }
        Err(PortError::passing(
            format!("the worker of {run} does not end, not even by SIGKILL"),
            "its storage hangs: look at the kernel's log",
        ))
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a process is silent is told by the clock")]
fn now() -> Instant {
    Instant::now()
}

/// One worker.
struct Worker {
    run: RunId,
    child: Mutex<Child>,
    /// `None` once nothing more is told. Apart from the state: a full pipe must not keep this side from listening.
    input: Mutex<Option<ChildStdin>>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What it said and was not acknowledged, with its number.
    said: VecDeque<(u64, News)>,
    /// The newest progress of each disk.
    progress: BTreeMap<crate::domain::id::DiskKey, FromWorker>,
    /// What it last said that it does.
    doing: Option<FromWorker>,
    /// Its last numbered message is here.
    finished: bool,
    /// When it last said anything.
    heard_at: Instant,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    Stopping,
    Over,
}

impl Worker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it something. One that cannot be told has ended or will be stopped; nobody waits for an answer.
    fn tell(&self, message: &ToWorker) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        if input.as_mut().is_some_and(|input| write_frame(input, message).is_err()) {
            *input = None;
        }
    }

    /// Closes the pipe: it ends.
    fn hang_up(&self) {
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits, for a bounded time, until something is so; tells whether it is.
    fn wait(&self, time: Duration, so: impl Fn(&State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), time, |state| !so(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        so(&state)
    }

    fn kill(&self) {
        // One that has ended already cannot be killed, which is what was wanted.
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    fn take(&self) -> Vec<WorkerEvent> {
        let mut state = self.lock();
        let event = |said| WorkerEvent { run: self.run.clone(), said };
        let progress = std::mem::take(&mut state.progress);
        let mut taken: Vec<_> =
            progress.into_values().chain(state.doing.take()).map(event).collect();
        taken.extend(
            state
                .said
                .iter()
                .cloned()
                .map(|(number, news)| event(FromWorker::Said { number, news })),
        );
        taken
    }

    /// Reads what it says until it ends, then finds out how it ended.
    fn listen(&self, output: ChildStdout, log: ChildStderr, waker: &(dyn Fn() + Send + Sync)) {
        let log = thread::spawn(move || last_line(log));
        let mut output = BufReader::new(output);
        let broken = loop {
            match read_frame(&mut output) {
                Ok(Some(message)) => self.heard(message),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
            waker();
        };
        self.kill();
        let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
        let last_line = log.join().unwrap_or_default();
        self.hang_up();
        let mut state = self.lock();
        if !state.finished {
            let news = match state.life {
                // It was made to end before it came to a boundary.
                Life::Stopping => News::Ended,
                Life::Running | Life::Over => {
                    News::Failed(died(broken, status.ok(), &last_line).fault)
                }
            };
            state.said.push_back((0, news));
        }
        state.life = Life::Over;
        drop(state);
        self.changed.notify_all();
        waker();
    }

    /// Tells whether a running worker still says something.
    fn speaks(&self) -> WorkerState {
        let silent = now().duration_since(self.lock().heard_at);
        if silent > SILENCE_MAX { WorkerState::Silent } else { WorkerState::Running }
    }

    fn heard(&self, message: FromWorker) {
        let mut state = self.lock();
        state.heard_at = now();
        match message {
            FromWorker::Said { number, news } => {
                state.finished |= matches!(news, News::Ended | News::Failed(_));
                // After a `Resend` what is here comes once more.
                if state.said.back().is_none_or(|(last, _)| *last < number) {
                    state.said.push_back((number, news));
                }
            }
            FromWorker::Progress { ref disk, .. } => {
                state.progress.insert(disk.clone(), message);
            }
            FromWorker::Doing { .. } => state.doing = Some(message),
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// Reads a worker's log to its end, hands it on, and returns the last line.
fn last_line(log: ChildStderr) -> String {
    let mut log = BufReader::new(log);
    let mut last = String::new();
    loop {
        let mut line = Vec::new();
        match log.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return last,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if !line.is_empty() {
            tracing::debug!(line, "a worker logged");
            last = line;
        }
    }
}

fn died(broken: Option<FrameError>, status: Option<ExitStatus>, last_line: &str) -> PortError {
    let status = status.map_or_else(|| "in an unknown way".to_owned(), |status| status.to_string());
    let line = match last_line {
        "" => String::new(),
        line => format!("; it last logged `{}`", line.escape_debug()),
    };
    let pipe = broken.map(|error| format!(" ({error})")).unwrap_or_default();
    PortError::passing(
        format!("the worker ended unexpectedly{pipe}: {status}{line}"),
        "look at the machine's log for why the process was ended; what was copied is kept",
    )
}

#[cfg(test)]
mod tests;
