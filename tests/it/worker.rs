//! The program as a worker: it ends with its controller, it is killed, and another one goes on behind its last checkpoint.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ferry::adapter::image::vmdk_write::write_stream_optimized;
use ferry::adapter::location::{LocalDisk, Stamp, StoredDisk};
use ferry::adapter::worker::Subprocesses;
use ferry::copy::frame::{read_frame, write_frame};
use ferry::copy::protocol::{
    CopyJob, DiskJob, FromWorker, Job, News, PROTOCOL_VERSION, ToWorker, WorkerEvent,
};
use ferry::domain::id::{DiskKey, MigrationName, RunId, SourceVm, TargetName, Token};
use ferry::domain::unit::Bytes;
use ferry::domain::vm::{Checksum, Disk, DiskFormat};
use ferry::journal::record::Checkpoint;
use ferry::manifest::document::Verify;
use ferry::port::Workers;
use sha2::{Digest, Sha256};

/// Enough for two checkpoints, and a rest.
const DISK_MIB: u64 = 300;

/// Writes an image whose grains compress well and differ, an empty target beside it, and the job.
fn job(folder: &std::path::Path) -> CopyJob {
    let grain = |at: u64| {
        let mut bytes = vec![u8::try_from(at >> 16 & 0xff).unwrap() | 1; 64 << 10];
        bytes[..8].copy_from_slice(&at.to_le_bytes());
        (at, bytes)
    };
    let path = folder.join("disk.vmdk");
    let mut grains = (0..DISK_MIB << 20).step_by(64 << 10).map(grain);
    let mut image = Vec::new();
    write_stream_optimized(&mut image, "disk.vmdk", DISK_MIB << 20, &mut grains).unwrap();
    fs::write(&path, &image).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    let mtime_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    let stamp = Stamp { inode: metadata.ino(), size: metadata.len(), mtime_ns };
    let path = path.to_str().unwrap().to_owned();
    let source = StoredDisk { path, stamp, offset: 0, length: metadata.len() }.to_source();
    fs::create_dir(folder.join(".ferry-0123")).unwrap();
    let target = File::create(folder.join(".ferry-0123/disk.raw")).unwrap();
    target.set_len(DISK_MIB << 20).unwrap();
    let disk = Disk {
        key: DiskKey::new("vmdisk1"),
        capacity: Bytes::mib(DISK_MIB),
        stored: Some(Bytes(metadata.len())),
        format: DiskFormat::StreamOptimized,
        checksum: Checksum::Sha256(hex::encode(Sha256::digest(&image))),
        source,
    };
    let target = LocalDisk {
        folder: folder.to_str().unwrap().to_owned(),
        area: Token::new("0123"),
        name: TargetName::new("web-01"),
        file: "disk.raw".to_owned(),
    };
    let target = target.to_target();
    CopyJob {
        run: RunId {
            vm: SourceVm::Ova { archive: "a".into(), system: "s".into() },
            migration: MigrationName::new("m"),
            attempt: 1,
        },
        disks: vec![DiskJob { disk, target, checkpoint: None, copied: None }],
        verify: Verify::Full,
        allow_paths: vec![folder.to_str().unwrap().to_owned()],
        memory: Bytes::mib(32),
        checkpoint_every: Bytes::mib(128),
        access: None,
    }
}

fn start(job: &CopyJob) -> (Child, ChildStdout) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferry"))
        .arg("worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let start = ToWorker::Start { protocol: PROTOCOL_VERSION, job: Job::Copy(job.clone()) };
    write_frame(child.stdin.as_mut().unwrap(), &start).unwrap();
    let output = child.stdout.take().unwrap();
    (child, output)
}

fn next_checkpoint(output: &mut dyn Read) -> Checkpoint {
    loop {
        match read_frame(output).unwrap() {
            Some(FromWorker::Said { news: News::Checkpointed(made), .. }) => return made,
            Some(FromWorker::Progress { .. } | FromWorker::Doing { .. }) => {}
            other => unreachable!("a checkpoint is the first thing that is said: {other:?}"),
        }
    }
}

#[test]
fn a_worker_ends_with_its_controller_is_killed_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(folder.path());

    // The controller goes: the worker ends at once, in the middle of the copy.
    let (mut child, mut output) = start(&job);
    let first = next_checkpoint(&mut output);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().signal(), Some(9));

    // The worker is killed behind another checkpoint. The lock of the one before is gone with it.
    job.disks[0].checkpoint = Some(first.clone());
    let (mut child, mut output) = start(&job);
    let second = next_checkpoint(&mut output);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(second.read > first.read && second.done > first.done);
    assert_eq!(first.written, first.done);

    job.disks[0].checkpoint = Some(second.clone());
    let (root, written) = finish(&job);
    assert_eq!(written, Bytes::mib(DISK_MIB));
    let target = folder.path().join(".ferry-0123/disk.raw");
    let raw = fs::read(&target).unwrap();
    for (at, grain) in (0..).step_by(64 << 10).zip(raw.chunks(64 << 10)) {
        assert_eq!(grain[..8], u64::to_le_bytes(at));
    }

    // One byte changes; a worker that is told the root finds it.
    job.disks[0].copied = Some(root);
    let file = File::options().write(true).open(&target).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 99 << 20).unwrap();
    let failed = last_news(&job).pop();
    let Some(News::Failed(fault)) = failed else { unreachable!("it failed: {failed:?}") };
    assert!(fault.text.contains("at byte 103809024"), "{}", fault.text);
}

/// Copies to the end; returns the root and what was written.
fn finish(job: &CopyJob) -> (String, Bytes) {
    let news = last_news(job);
    let copied = news.iter().find_map(|news| match news {
        News::Copied { root, written, disk: _ } => Some((root.clone(), *written)),
        _ => None,
    });
    let [.., News::Verified { .. }, News::Ended] = &news[..] else {
        unreachable!("it is verified and ends: {news:?}")
    };
    copied.unwrap()
}

/// Runs a job through the port, acknowledges everything, and returns what was said.
fn last_news(job: &CopyJob) -> Vec<News> {
    let (wake, woken) = mpsc::channel();
    let waker = Box::new(move || {
        let _ = wake.send(());
    });
    let workers = Subprocesses::new(env!("CARGO_BIN_EXE_ferry").into(), waker);
    workers.start(Job::Copy(job.clone())).unwrap();
    let mut heard = Vec::new();
    while !matches!(heard.last(), Some(News::Ended | News::Failed(_))) {
        woken.recv_timeout(Duration::from_mins(1)).unwrap();
        for WorkerEvent { run, said } in workers.take() {
            if let FromWorker::Said { number, news } = said {
                heard.push(news);
                workers.acknowledge(&run, number);
            }
        }
    }
    // The last acknowledgement ends it.
    while !workers.states().is_empty() {
        woken.recv_timeout(Duration::from_mins(1)).unwrap();
    }
    heard
}
