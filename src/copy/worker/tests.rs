//! The worker over real pipes, with disks in memory.

use std::io::{PipeReader, PipeWriter, pipe};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::copy::memory::Memory;
use crate::copy::protocol::{ConvertDisk, ConvertTools};
use crate::copy::tree::LEAF_BYTES;
use crate::domain::id::{DiskKey, MigrationName, RunId, SourceVm};
use crate::domain::vm::TargetDisk;
use crate::port::{Conversion, Converter, Piece, PortError, Stored};

const LEAF: usize = 64 << 10;

/// A disk of so many leaves of data.
fn memory(leaves: u64) -> Memory {
    let piece = |leaf| Piece {
        offset: leaf * LEAF_BYTES,
        length: 64 << 10,
        stored: Stored::Raw(vec![1; LEAF]),
    };
    Memory::new(leaves * LEAF_BYTES, (0..leaves).map(piece).collect())
}

fn job(memory: &Memory) -> CopyJob {
    CopyJob {
        run: RunId {
            vm: SourceVm::Ova { archive: "a".into(), system: "s".into() },
            migration: MigrationName::new("m"),
            attempt: 1,
        },
        disks: vec![memory.job()],
        verify: Verify::Full,
        allow_paths: Vec::new(),
        memory: Bytes::mib(8),
        checkpoint_every: Bytes(1),
        access: None,
    }
}

/// Guests that are converted in three steps; the disk `torn` cannot be committed.
struct Guest;

impl Converter for Guest {
    fn convert(&mut self, doing: &mut dyn FnMut(&str) -> bool) -> Result<Conversion, PortError> {
        if ["open", "convert", "close"].iter().all(|step| doing(step)) {
            Ok(Conversion::Done { warnings: vec!["no agent".to_owned()] })
        } else {
            Ok(Conversion::Stopped)
        }
    }

    fn commit(
        &mut self,
        disk: &TargetDisk,
        doing: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Conversion, PortError> {
        match disk.0.as_str() {
            "torn" => Err(PortError::passing("torn", "again")),
            _ if doing("commit") => Ok(Conversion::Done { warnings: Vec::new() }),
            _ => Ok(Conversion::Stopped),
        }
    }
}

fn conversion(disks: &[(&str, bool)], converted: bool) -> Job {
    let disk = |(name, committed): &(&str, bool)| ConvertDisk {
        disk: DiskKey::new(name),
        target: TargetDisk((*name).to_owned()),
        committed: *committed,
    };
    Job::Convert(ConvertJob {
        run: RunId {
            vm: SourceVm::Ova { archive: "a".into(), system: "s".into() },
            migration: MigrationName::new("m"),
            attempt: 1,
        },
        name: "web".to_owned(),
        disks: disks.iter().map(disk).collect(),
        converted,
        allow_paths: Vec::new(),
        tools: ConvertTools::default(),
    })
}

/// The controller's ends of the pipes.
struct Controller {
    output: Option<PipeWriter>,
    input: PipeReader,
}

impl Controller {
    fn tell(&mut self, message: &ToWorker) {
        write_frame(self.output.as_mut().unwrap(), message).unwrap();
    }

    fn start(&mut self, job: Job) {
        self.tell(&ToWorker::Start { protocol: PROTOCOL_VERSION, job });
    }

    /// Returns the next numbered message.
    fn said(&mut self) -> Option<(u64, News)> {
        loop {
            match read_frame(&mut self.input).unwrap()? {
                FromWorker::Said { number, news } => return Some((number, news)),
                FromWorker::Progress { .. } | FromWorker::Doing { .. } => {}
            }
        }
    }
}

/// Runs a worker beside what the controller does; returns how it ended, and how often it heard that it is alone.
fn with_worker(
    memory: &Memory,
    control: impl FnOnce(&mut Controller),
) -> (Result<(), WorkerError>, usize) {
    let (mut input, output) = pipe().unwrap();
    let (reader, mut writer) = pipe().unwrap();
    let gone = AtomicUsize::new(0);
    let images = |_: &CopyJob| -> Box<dyn Images> { Box::new(memory.clone()) };
    let count = || {
        gone.fetch_add(1, Ordering::SeqCst);
    };
    let converter = |_: &ConvertJob| -> Opened { Ok(Box::new(Guest)) };
    let terms = Terms { images: &images, converter: &converter, threads: 2, gone: &count };
    let controller = Controller { output: Some(output), input: reader };
    let ended = thread::scope(|scope| {
        // It goes with this closure, however that ends: the worker is never left waiting.
        let mut controller = controller;
        let worker = scope.spawn(move || {
            let ended = serve(&mut input, &mut writer, &terms);
            drop(writer);
            ended
        });
        control(&mut controller);
        drop(controller);
        worker.join().unwrap()
    });
    (ended, gone.into_inner())
}

#[test]
fn a_job_is_done_said_in_order_and_ends_with_the_last_acknowledgement() {
    let memory = memory(3);
    let (ended, gone) = with_worker(&memory, |controller| {
        controller.start(Job::Copy(job(&memory)));
        let said: Vec<_> = (0..6).map(|_| controller.said().unwrap()).collect();
        assert_eq!(said.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert!(matches!(&said[2].1, News::Checkpointed(made) if made.resume == "3"));
        assert!(matches!(&said[3].1, News::Copied { written: Bytes(196_608), .. }));
        assert!(matches!(&said[4].1, News::Verified { .. }));
        assert_eq!(said[5].1, News::Ended);
        controller.tell(&ToWorker::Acknowledge { number: 4 });
        controller.tell(&ToWorker::Resend);
        assert_eq!([controller.said().unwrap(), controller.said().unwrap()], said[4..]);
        controller.tell(&ToWorker::Acknowledge { number: 6 });
        assert_eq!(controller.said(), None);
    });
    assert!(ended.is_ok());
    assert_eq!(gone, 0);
}

#[test]
fn a_copied_disk_is_compared_with_its_root_only() {
    let memory = memory(2);
    let mut again = job(&memory);
    let _ = with_worker(&memory, |controller| {
        controller.start(Job::Copy(job(&memory)));
        while let Some((number, news)) = controller.said() {
            if let News::Copied { root, .. } = &news {
                again.disks[0].copied = Some(root.clone());
            }
            controller.tell(&ToWorker::Acknowledge { number });
        }
    });
    let news_of = |job: CopyJob| {
        let mut heard = Vec::new();
        let _ = with_worker(&memory, |controller| {
            controller.start(Job::Copy(job));
            while let Some((number, news)) = controller.said() {
                heard.push(news);
                controller.tell(&ToWorker::Acknowledge { number });
            }
        });
        heard
    };
    let disk = again.disks[0].disk.key.clone();
    assert_eq!(news_of(again.clone()), [News::Verified { disk }, News::Ended]);
    let unread = CopyJob { verify: Verify::None, ..again.clone() };
    assert_eq!(news_of(unread), [News::Ended]);
    memory.lock().seen.disk[LEAF] = 9;
    let heard = news_of(again);
    assert!(
        matches!(&heard[..], [News::Failed(fault)] if fault.text.contains("at byte 65536")),
        "{heard:?}"
    );
    assert_eq!(memory.lock().read.len(), 2);
}

#[test]
fn unacknowledged_messages_are_bounded_and_a_stop_ends_the_wait() {
    let memory = memory(100);
    let (_, gone) = with_worker(&memory, |controller| {
        controller.start(Job::Copy(job(&memory)));
        for number in 1..=64 {
            assert_eq!(controller.said().unwrap().0, number);
        }
        // The copy waits now: not even the next piece but one was read.
        controller.tell(&ToWorker::Resend);
        for number in 1..=64 {
            assert_eq!(controller.said().unwrap().0, number);
        }
        assert!(memory.lock().read.len() <= 65);
        controller.tell(&ToWorker::Acknowledge { number: 1 });
        assert_eq!(controller.said().unwrap().0, 65);
        controller.tell(&ToWorker::Stop);
        let mut last = controller.said().unwrap();
        while last.1 != News::Ended {
            last = controller.said().unwrap();
        }
        assert!(memory.lock().read.len() <= 68);
        assert!(!memory.lock().finished);
        controller.tell(&ToWorker::Acknowledge { number: last.0 });
        assert_eq!(controller.said(), None);
    });
    assert_eq!(gone, 0);
}

#[test]
fn a_controller_that_goes_takes_the_worker_with_it() {
    let memory = memory(1000);
    let (ended, gone) = with_worker(&memory, |controller| {
        controller.start(Job::Copy(job(&memory)));
        controller.said().unwrap();
        controller.output = None;
        while controller.said().is_some() {}
    });
    assert!(ended.is_ok());
    assert_eq!(gone, 1);
    assert!(memory.lock().read.len() < 1000);
}

#[test]
fn another_protocol_a_panic_and_a_missing_job_are_told() {
    let disk = memory(1);
    let fault = |start: ToWorker, memory: &Memory| {
        let mut heard = None;
        let _ = with_worker(memory, |controller| {
            controller.tell(&start);
            if let Some((number, News::Failed(fault))) = controller.said() {
                heard = Some(fault.text);
                controller.tell(&ToWorker::Acknowledge { number });
            }
        });
        heard.unwrap()
    };
    let start = |protocol, job| ToWorker::Start { protocol, job: Job::Copy(job) };
    assert!(fault(start(1, job(&disk)), &disk).contains("speaks protocol 1, the worker 3"));
    // The disk in memory cannot parse this position and panics.
    let mut strange = job(&disk);
    strange.disks[0].checkpoint = Some(crate::journal::record::Checkpoint {
        disk: strange.disks[0].disk.key.clone(),
        resume: "nonsense".to_owned(),
        read: Bytes(0),
        done: Bytes(0),
        written: Bytes(0),
    });
    assert!(fault(start(3, strange), &disk).contains("by a bug of ferry"));

    let (ended, _) = with_worker(&disk, |controller| controller.tell(&ToWorker::Stop));
    assert!(matches!(ended, Err(WorkerError::NoJob)));
    let (ended, _) = with_worker(&disk, |controller| controller.output = None);
    assert!(ended.is_ok());
}

/// Hears everything of a worker that does one conversion job.
fn news_of_conversion(job: Job) -> Vec<News> {
    let mut news = Vec::new();
    let (ended, _) = with_worker(&memory(1), |controller| {
        controller.start(job);
        while let Some((number, said)) = controller.said() {
            news.push(said);
            controller.tell(&ToWorker::Acknowledge { number });
        }
    });
    assert!(ended.is_ok());
    news
}

#[test]
fn a_conversion_is_said_before_anything_of_it_is_committed() {
    let disks = [("a", false), ("b", false)];
    let converted = News::Converted { warnings: vec!["no agent".to_owned()] };
    assert_eq!(news_of_conversion(conversion(&disks, false)), [converted, News::Ended]);
    let committed = |disk| News::Committed { disk: DiskKey::new(disk) };
    let said = news_of_conversion(conversion(&[("a", true), ("b", false)], true));
    assert_eq!(said, [committed("b"), News::Ended]);
    let said = news_of_conversion(conversion(&[("a", false), ("torn", false), ("c", false)], true));
    assert!(matches!(&said[..], [first, News::Failed(_)] if *first == committed("a")), "{said:?}");
}
