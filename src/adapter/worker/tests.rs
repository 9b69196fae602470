//! The port over processes that speak from a script. `tests/it` does it with the program itself.

use std::fs;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::copy::protocol::{CopyJob, Stage};
use crate::domain::id::{DiskKey, MigrationName, SourceVm};
use crate::domain::unit::Bytes;
use crate::journal::record::{Checkpoint, Disposition};
use crate::manifest::document::Verify;

fn job() -> Job {
    Job::Copy(CopyJob {
        run: RunId {
            vm: SourceVm::Ova { archive: "a".into(), system: "s".into() },
            migration: MigrationName::new("m"),
            attempt: 1,
        },
        disks: Vec::new(),
        verify: Verify::None,
        allow_paths: Vec::new(),
        memory: Bytes::mib(1),
        checkpoint_every: Bytes(1),
        access: None,
    })
}

fn progress() -> FromWorker {
    FromWorker::Progress { disk: DiskKey::new("d"), stage: Stage::Copy, done: Bytes(5) }
}

fn checkpoint(number: u64) -> FromWorker {
    let news = News::Checkpointed(Checkpoint {
        disk: DiskKey::new("d"),
        resume: String::new(),
        read: Bytes(1),
        done: Bytes(1),
        written: Bytes(1),
    });
    FromWorker::Said { number, news }
}

/// Workers that run a script of the shell, which finds what to say in `$frames`.
struct Play {
    _folder: tempfile::TempDir,
    workers: Subprocesses,
    woken: Receiver<()>,
}

fn play(frames: &[FromWorker], script: &str) -> Play {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    for frame in frames {
        write_frame(&mut bytes, frame).unwrap();
    }
    let file = folder.path().join("frames");
    fs::write(&file, bytes).unwrap();
    let (wake, woken) = channel();
    let waker = Box::new(move || {
        let _ = wake.send(());
    });
    let mut workers = Subprocesses::new("/bin/sh".into(), waker);
    workers.arguments = vec!["-c".into(), format!("frames='{}'; {script}", file.display()).into()];
    (workers.stop_wait, workers.end_wait) = (Duration::from_millis(50), Duration::from_secs(20));
    Play { _folder: folder, workers, woken }
}

impl Play {
    /// Looks whenever it is woken, until what was said together satisfies.
    fn until(&self, satisfied: impl Fn(&[FromWorker]) -> bool) -> Vec<FromWorker> {
        loop {
            self.woken.recv_timeout(Duration::from_secs(20)).unwrap();
            let taken: Vec<_> = self.workers.take().into_iter().map(|event| event.said).collect();
            if satisfied(&taken) {
                return taken;
            }
        }
    }
}

#[test]
fn what_is_not_acknowledged_is_handed_on_again() {
    let ended = FromWorker::Said { number: 3, news: News::Ended };
    let frames = [progress(), checkpoint(1), checkpoint(2), checkpoint(2), ended.clone()];
    let stage = play(&frames, r#"cat "$frames"; cat >/dev/null"#);
    let run = job().run().clone();
    stage.workers.start(job()).unwrap();
    stage.workers.start(job()).unwrap();
    assert_eq!(stage.workers.states().get(&run), Some(&WorkerState::Running));
    let taken = stage.until(|taken| taken.contains(&ended));
    assert_eq!(taken[taken.len() - 3..], [checkpoint(1), checkpoint(2), ended.clone()]);
    stage.workers.acknowledge(&run, 2);
    let left = [WorkerEvent { run: run.clone(), said: ended }];
    assert_eq!(stage.workers.take(), left);
    stage.workers.stop(&run).unwrap();
    // It has ended, but its last word was not acknowledged.
    assert_eq!(stage.workers.states().get(&run), Some(&WorkerState::Stopping));
    assert_eq!(stage.workers.take(), left);
    stage.workers.acknowledge(&run, 3);
    assert!(stage.workers.states().is_empty());
    assert_eq!(stage.workers.take(), []);
    stage.workers.stop(&run).unwrap();
}

fn failure(said: &FromWorker) -> Option<(u64, &str)> {
    match said {
        FromWorker::Said { number, news: News::Failed(fault) } => {
            assert_eq!(fault.disposition, Disposition::Retry);
            Some((*number, &fault.text))
        }
        _ => None,
    }
}

#[test]
fn a_worker_that_dies_leaves_a_failure_with_its_status_and_last_line() {
    let script = r#"cat "$frames"; echo first >&2; echo "disk on fire" >&2; exit 3"#;
    let stage = play(&[checkpoint(1)], script);
    stage.workers.start(job()).unwrap();
    let taken = stage.until(|taken| taken.iter().any(|said| failure(said).is_some()));
    let (number, text) = failure(taken.last().unwrap()).unwrap();
    assert_eq!((number, &taken[0]), (0, &checkpoint(1)));
    assert!(text.contains("exit status: 3") && text.contains("`disk on fire`"), "{text}");
    // All of it is told until it is acknowledged, and so long it counts as a worker: what it did is not known to everybody.
    let stopping = Some(&WorkerState::Stopping);
    assert_eq!(stage.workers.take().len(), 2);
    assert_eq!(stage.workers.states().get(job().run()), stopping);
    // Nobody takes its place before: the numbers begin again.
    stage.workers.start(job()).unwrap();
    stage.workers.acknowledge(job().run(), 1);
    assert_eq!(stage.workers.take().len(), 1);
    assert_eq!(stage.workers.states().get(job().run()), stopping);
    stage.workers.acknowledge(job().run(), 0);
    assert!(stage.workers.states().is_empty());
    stage.workers.start(job()).unwrap();
    stage.until(|taken| taken.iter().any(|said| failure(said).is_some()));
}

#[test]
fn a_worker_that_is_killed_or_speaks_nonsense_fails() {
    for (script, expected) in [
        ("kill -9 $$", "signal: 9"),
        ("printf '\\002\\000\\000\\000{}'; exec sleep 1000", "no message of this protocol"),
        ("printf '\\377\\377\\377\\377'; exec sleep 1000", "longer than"),
        ("printf '\\009\\000\\000\\000{'", "the pipe failed"),
    ] {
        let stage = play(&[], script);
        stage.workers.start(job()).unwrap();
        let taken = stage.until(|taken| taken.iter().any(|said| failure(said).is_some()));
        let (_, text) = failure(&taken[0]).unwrap();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_worker_that_does_not_stop_is_cut_off_and_then_killed() {
    let script = r#"cat "$frames"; exec sleep 1000"#;
    let mut stage = play(&[checkpoint(1)], script);
    stage.workers.end_wait = Duration::from_millis(50);
    let run = job().run().clone();
    stage.workers.start(job()).unwrap();
    stage.until(|taken| taken.contains(&checkpoint(1)));
    // What happens after the kill is bounded by the machine, not by this wait: a second stop finds it over.
    let _ = stage.workers.stop(&run);
    let ended = FromWorker::Said { number: 0, news: News::Ended };
    stage.until(|taken| taken.contains(&ended));
    stage.workers.acknowledge(&run, 0);
    assert!(stage.workers.states().is_empty());
    assert_eq!(stage.workers.stop(&run), Ok(()));
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let workers = Subprocesses::new("/nonexistent/ferry".into(), Box::new(|| ()));
    let text = workers.start(job()).unwrap_err().fault.text;
    assert!(text.contains("/nonexistent/ferry"), "{text}");
    assert!(workers.states().is_empty());
}
