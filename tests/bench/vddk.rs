//! How fast a disk is read over VDDK and written, beside one synchronous request at a time: `cargo bench --bench vddk [-- [MIB
//! [MILLISECONDS…]]]`.
//!
//! VMware's library cannot be shipped: its stand-in models a link of 1 GB/s and round trips of 0, 1, 5 and 20 ms, and reads from the
//! page cache. Each row is a process of its own that opens the disk, reads all of it, writes it to a raw file and syncs that. Ferry
//! hashes every leaf as well. The other rows read 2 MiB at a time, as CDI does through nbdkit: a model of its pattern, and no more,
//! which at best reaches 1.0, 0.68, 0.30 and 0.09 GB/s, whatever the machine. Processor seconds are those of the process without
//! the stand-in's threads.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "the table is the answer")]
#![expect(clippy::disallowed_methods, reason = "it measures time and starts programs")]

mod rounds;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry::adapter::confine::Confine;
use ferry::adapter::image::files::{Files, Format};
use ferry::adapter::secret::Secret;
use ferry::adapter::vddk::{Place, Vddk};
use ferry::copy::engine::{Bounds, End, Flow, copy_disk};
use ferry::copy::plan::Planned;
use ferry::copy::protocol::DiskJob;
use ferry::domain::id::DiskKey;
use ferry::domain::unit::Bytes;
use ferry::domain::vm::{Checksum, Disk, DiskFormat, SourceDisk, TargetDisk};
use ferry::port::{BlockReader, BlockWriter, Blocks, Images, PortError};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use vddk_stub::config::{Config, install};
use vddk_sys::{Credential, Library, Login};

use crate::rounds::{Rounds, SPREAD_MAX, Used, median};

/// The disk's size unless one is given: two seconds of the link.
const MIB: u64 = 2048;

/// What the link carries in a second.
const LINK: u64 = 1_000_000_000;

/// How long a request is on its way, in milliseconds.
const ROUND_TRIPS: [u64; 4] = [0, 1, 5, 20];

/// One request of CDI's.
const REQUEST: u64 = 2 << 20;

/// What tells this program to copy once and say what it used.
const MEASURE: &str = "--measure-one";

const FERRY: &str = "ferry";
const PATTERN: &str = "one read of 2 MiB at a time";

const USER: &str = "ferry";
const PASSWORD: &str = "secret";
const THUMBPRINT: &str = "AA:BB";
const VM: &str = "vm-12";
const DISK: &str = "[ds1] web01/web01.vmdk";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, who, folder] = arguments.as_slice()
        && first == MEASURE
    {
        return measure_one(who, Path::new(folder));
    }
    // `cargo bench` adds `--bench` to what is given behind `--`.
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse().ok());
    let mib = numbers.next().unwrap_or(MIB);
    let mut round_trips: Vec<u64> = numbers.collect();
    if round_trips.is_empty() {
        round_trips = ROUND_TRIPS.to_vec();
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fill(folder.path(), mib);
    println!(
        "{mib} MiB, a link of {:.1} GB/s; of it: what of the link's time was used",
        gigabytes(LINK)
    );
    println!(
        "{:<40}{:>9}{:>9}{:>8}{:>9}{:>11}{:>9}{:>9}",
        "", "median", "spread", "GB/s", "of it", "CPU a GB", "memory", "against"
    );
    for round_trip in round_trips {
        let config = Config {
            sim: folder.path().to_owned(),
            round_trip_micros: round_trip * 1000,
            bytes_per_second: LINK,
            ..Config::default()
        };
        let built = std::env::current_exe().unwrap().with_file_name("libvddk_stub.so");
        install(&built, folder.path(), &config).unwrap();
        table(folder.path(), round_trip, mib);
    }
}

/// Prints a row for each way.
fn table(folder: &Path, round_trip: u64, mib: u64) {
    let ways = [FERRY, PATTERN];
    let rounds = Rounds::run(ways.len(), |nth| measured(ways[nth], folder));
    println!("round trip {round_trip} ms, {}", rounds.which);
    let bytes = gigabytes(mib << 20);
    let other = median(&rounds.used[1], |one| one.seconds).0;
    for (way, used) in ways.iter().zip(&rounds.used) {
        let (seconds, spread) = median(used, |one| one.seconds);
        let (processor, _) = median(used, |one| one.processor);
        let (peak, _) = median(used, |one| one.peak_kib / 1024.0);
        let carried = bytes / gigabytes(LINK) / seconds * 100.0;
        let void = if spread > SPREAD_MAX { " no result" } else { "" };
        println!(
            "{way:<40}{seconds:>7.2} s{spread:>7.0} %{:>8.2}{carried:>7.0} %{:>9.2} s{peak:>5.0} MiB{:>7.2} x{void}",
            bytes / seconds,
            processor / bytes,
            other / seconds
        );
    }
}

fn gigabytes(bytes: u64) -> f64 {
    Duration::from_nanos(bytes).as_secs_f64()
}

/// Makes a disk that does not compress and has no holes, and says where it is.
fn fill(folder: &Path, mib: u64) {
    let mut file = File::create(folder.join("0.raw")).unwrap();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..mib {
        let mut piece = Vec::with_capacity(1 << 20);
        while piece.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            piece.extend(state.to_le_bytes());
        }
        file.write_all(&piece).unwrap();
    }
    file.sync_all().unwrap();
    let disks = serde_json::json!({
        "username": USER, "password": PASSWORD, "thumbprint": THUMBPRINT,
        "disks": [{"vm": VM, "key": 2000, "snapshot": null, "path": DISK, "file": "0.raw", "capacity": mib << 20}],
    });
    fs::write(folder.join("disks.json"), disks.to_string()).unwrap();
    fs::write(folder.join("password"), PASSWORD).unwrap();
}

/// Copies once in a process of its own, and compares.
fn measured(way: &str, folder: &Path) -> Used {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own);
    command.args([MEASURE, way]).arg(folder).env("LD_LIBRARY_PATH", folder.join("lib64"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{way}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<f64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [seconds, processor, peak_kib] = numbers.try_into().unwrap();
    let mut same = Command::new("cmp");
    let same = same.args([folder.join("0.raw"), folder.join("target.raw")]).status().unwrap();
    assert!(same.success(), "{way} copied something else");
    fs::remove_file(folder.join("target.raw")).unwrap();
    let _ = fs::remove_file(folder.join("target.raw.map"));
    Used { seconds, processor, peak_kib }
}

fn measure_one(way: &str, folder: &Path) {
    let begin = Instant::now();
    if way == FERRY {
        let vddk = Vddk::start(folder).unwrap();
        copy(&vddk, folder);
        let seconds = begin.elapsed().as_secs_f64();
        say(seconds);
    } else {
        one_at_a_time(folder);
        say(begin.elapsed().as_secs_f64());
    }
}

/// Says what this process used, without the threads of the stand-in, which still run.
fn say(seconds: f64) {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let own = Duration::from_micros(micros.try_into().unwrap());
    println!(
        "{seconds} {} {}",
        own.saturating_sub(of_the_stand_in()).as_secs_f64(),
        usage.max_rss()
    );
}

/// Sums up what the threads named after the stand-in ran.
fn of_the_stand_in() -> Duration {
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let own = |thread: &PathBuf| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "vddk-stub")
    };
    let ran = |thread: PathBuf| -> Option<u64> {
        let text = fs::read_to_string(thread.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(threads.filter(own).filter_map(ran).sum())
}

/// Copies as a worker does.
fn copy(vddk: &Vddk, folder: &Path) {
    let place = Place {
        server: "localhost".to_owned(),
        port: 443,
        user: USER.to_owned(),
        password: Secret::read(&folder.join("password")).unwrap(),
        session: None,
        thumbprint: THUMBPRINT.to_owned(),
        vm: VM.to_owned(),
        snapshot: None,
        disk: DISK.to_owned(),
        transports: None,
    };
    let blocks = vddk.open(place).unwrap();
    let capacity = Bytes(blocks.size());
    let confine = Confine::new([folder.to_owned()]);
    let target = folder.join("target.raw");
    Files::make(&confine, &target, capacity, Format::Raw).unwrap();
    let images = Remote { blocks, files: Files::new(confine, Format::Raw) };
    let job = DiskJob {
        disk: Disk {
            key: DiskKey::new("2000"),
            capacity,
            stored: None,
            format: DiskFormat::Blocks,
            checksum: Checksum::Absent,
            source: SourceDisk(String::new()),
        },
        target: TargetDisk(target.to_str().unwrap().to_owned()),
        checkpoint: None,
        copied: None,
    };
    let bounds = Bounds { threads: 2, memory: Bytes::mib(256), checkpoint_every: Bytes::mib(128) };
    let end = copy_disk(&images, &job, bounds, &mut |_| Flow::Continue).unwrap();
    assert!(matches!(end, End::Copied { .. }));
}

/// The one disk that is read, and files.
struct Remote {
    blocks: Arc<dyn Blocks>,
    files: Files,
}

impl Images for Remote {
    fn reader(&self, _: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        Ok(Box::new(Planned::new(Arc::clone(&self.blocks), resume)?))
    }

    fn writer(&self, disk: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError> {
        self.files.writer(disk)
    }
}

/// Copies by one request after another, without a hash.
fn one_at_a_time(folder: &Path) {
    let session = Library::load(folder).unwrap().start(|_, _| {}).unwrap();
    let login = Login {
        server: "localhost",
        port: 443,
        user: USER,
        credential: Credential::Password(PASSWORD),
        thumbprint: THUMBPRINT,
        vm: VM,
        snapshot: None,
        transports: None,
    };
    let mut disk = session.connect(&login).unwrap().open(DISK).unwrap();
    let bytes = disk.sectors().unwrap() * 512;
    let target = File::create(folder.join("target.raw")).unwrap();
    let mut buffer = vec![0; usize::try_from(REQUEST).unwrap()];
    for at in (0..bytes).step_by(buffer.len()) {
        let length = usize::try_from(REQUEST.min(bytes - at)).unwrap();
        disk.read(at / 512, &mut buffer[..length]).unwrap();
        target.write_all_at(&buffer[..length], at).unwrap();
    }
    target.sync_all().unwrap();
}
