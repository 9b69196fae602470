//! `ferry copy`: the data plane alone, from one image to another.

mod place;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::ProgressBar;
use jiff::SignedDuration;
use serde::Serialize;

use crate::adapter::clock::SystemClock;
use crate::adapter::confine::Confine;
use crate::adapter::image::files::{Files, Format, source};
use crate::cli::copy::place::{Allowed, Kept, Place};
use crate::cli::live::style;
use crate::cli::log::screen;
use crate::cli::{Exit, answer, explained, signals, tell, watched};
use crate::copy::engine::{
    Bounds, Comparison, End, Flow, Heard, copy_disk, still_holds, verify_disk,
};
use crate::copy::protocol::DiskJob;
use crate::domain::text::visible;
use crate::domain::unit::{Bytes, lasting};
use crate::domain::vm::Disk;
use crate::manifest::document::Verify;
use crate::port::Clock as _;

/// Copies one disk image: sparse, hashed, and from where it stopped where it was stopped.
///
/// Reads raw files and block devices, qcow2, VMDK (sparse, flat, in several files, stream-optimized), the disks of an OVA
/// (`web.ova/web-disk1.vmdk`), which are compared with its manifest, and exports of NBD servers (`nbd://HOST[:PORT]/EXPORT`,
/// `nbd+unix:///EXPORT?socket=PATH`), without TLS. Writes raw and qcow2 files, and block devices.
///
/// The copy grows in `DST.part`, with what is known of it beside it, and takes its name once all of it is durable: the same
/// command again goes on from the last checkpoint. Nothing that exists is replaced without `--force`.
///
/// A block device is written in place, with `--force`, and nothing else may use it meanwhile; `NAME.part.*` in the current
/// folder holds what is known of the copy. It goes on where the device is the same one, which after a restart of the machine
/// nobody knows, and still holds what was copied. What a larger device holds behind the disk's end stays.
///
/// Of a file as the source, any write is noticed, over all interruptions. Of a block device or a server only another size is:
/// let nothing write to it until the copy is whole, or use `--restart`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ferry copy web.ova/web-disk1.vmdk web.raw   a disk of an archive, without unpacking it
  ferry copy --verify old.vmdk new.qcow2      reads the copy again and compares it
  ferry copy 'nbd+unix:///?socket=/run/nbd.sock' disk.raw
  ferry copy --source-format raw /dev/vg0/db db.qcow2
  ferry copy --force web.qcow2 /dev/vg0/web   everything that the device held is lost

Exit codes:
  0    the copy is whole and durable
  1    an error
  64   wrong usage
  130  interrupted; the same command goes on")]
pub(super) struct Arguments {
    /// The disk that is read.
    #[arg(value_name = "SRC")]
    source: String,
    /// The file that is made, or the block device that is written.
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// How the source is stored, where the end of its name does not say it (`.raw`, `.img`, `.qcow2`, `.vmdk`): nothing is
    /// guessed from its content.
    #[arg(long, value_name = "FORMAT", value_parser = formats(&["raw", "qcow2", "vmdk"]))]
    source_format: Option<Format>,
    /// How the copy is stored, where the end of its name does not say it. A block device is raw.
    #[arg(long, value_name = "FORMAT", value_parser = formats(&["raw", "qcow2"]))]
    target_format: Option<Format>,
    /// Reads the copy again and compares it with the hashes of what was read.
    #[arg(long)]
    verify: bool,
    /// Replaces what exists.
    #[arg(long)]
    force: bool,
    /// Starts again where an earlier copy to this name stopped, whatever it left.
    #[arg(long)]
    restart: bool,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// How the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// One line.
    Text,
    /// One object.
    Json,
}

/// What a copy came to.
#[derive(Debug, Serialize)]
struct Done<'a> {
    source: &'a str,
    target: &'a Path,
    /// What the guest sees.
    capacity: Bytes,
    /// Where an earlier copy stopped.
    resumed_from: Bytes,
    /// What is written, zeros left out.
    written: Bytes,
    /// The root of the hash tree.
    root: String,
    verified: bool,
    seconds: f64,
}

/// Copies and prints what was copied.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments {
        source: from,
        target,
        source_format,
        target_format,
        verify,
        force,
        restart,
        output,
    } = arguments;
    let place = Place::of(&target, target_format)?;
    // A person names these files, no manifest does: everything that the person may open is allowed.
    let confine = Confine::new([PathBuf::from("/")]);
    let disk = source(&confine, &from, source_format).map_err(explained)?;
    if fs::canonicalize(&target).is_ok_and(|target| fs::canonicalize(&from).ok() == Some(target)) {
        bail!("{from} cannot be its own copy … hint: name another file");
    }
    let _alone = place.alone()?;
    // Before anything is made: whoever sees that the copy began may ask it to end.
    let stop = Arc::new(AtomicBool::new(false));
    let heard = stop.clone();
    signals::watch(move || heard.store(true, Ordering::SeqCst))?;
    let mut kept = place.begin(&confine, &disk, Allowed { force, restart })?;
    let files = place.files(confine.clone());
    let mut screen = Screen::new(&disk, &target, stop);
    let mut job = DiskJob {
        disk: disk.clone(),
        target: place.disk(),
        checkpoint: kept.checkpoint.clone(),
        copied: None,
    };
    if place.is_device()
        && !is_still_there(&place, &confine, &files, &mut job, &mut kept, &mut screen)?
    {
        return Ok(screen.stopped());
    }
    if let Some(checkpoint) = &kept.checkpoint {
        tell(&format!("goes on from {}", checkpoint.done));
    }
    let resumed_from = kept.checkpoint.as_ref().map_or(Bytes(0), |checkpoint| checkpoint.done);
    let bounds = Bounds { threads: cores(), memory: MEMORY, checkpoint_every: CHECKPOINT_EVERY };
    let mut unsaved = None;
    let end = copy_disk(&files, &job, bounds, &mut |heard| {
        if let Heard::Checkpointed(checkpoint) = &heard {
            kept.checkpoint = Some(checkpoint.clone());
            if let Err(error) = place.keep(&kept) {
                unsaved = Some(error);
                return Flow::Stop;
            }
        }
        screen.hear("copy", heard)
    });
    if let Some(error) = unsaved {
        return Err(error);
    }
    let End::Copied { written, root } = end.map_err(explained)? else {
        return Ok(screen.stopped());
    };
    job.checkpoint = None;
    if verify && !is_equal(&place, &files, &job, &root, &mut kept, &mut screen)? {
        return Ok(screen.stopped());
    }
    place.finish()?;
    let seconds = screen.finish().as_secs_f64();
    let capacity = disk.capacity;
    let (source, target) = (from.as_str(), target.as_path());
    print(
        &Done { source, target, capacity, resumed_from, written, root, verified: verify, seconds },
        output,
    );
    Ok(Exit::Done)
}

/// Begins anew on a device that does not hold any more what was copied to it. Returns whether to go on.
fn is_still_there(
    place: &Place,
    confine: &Confine,
    files: &Files,
    job: &mut DiskJob,
    kept: &mut Kept,
    screen: &mut Screen,
) -> anyhow::Result<bool> {
    if job.checkpoint.is_none() {
        return Ok(true);
    }
    let held = still_holds(files, job, &mut |heard| screen.hear("check", heard));
    screen.again();
    if held.map_err(explained)?.is_none_or(|holds| holds) {
        return Ok(!screen.is_stopped());
    }
    tell("what was copied to it is not there any more: the copy starts again");
    kept.checkpoint = None;
    place.begin_anew(confine, kept)?;
    job.checkpoint = None;
    Ok(true)
}

/// Reads the copy again; one that differs is forgotten. Returns whether to go on.
fn is_equal(
    place: &Place,
    files: &Files,
    job: &DiskJob,
    root: &str,
    kept: &mut Kept,
    screen: &mut Screen,
) -> anyhow::Result<bool> {
    screen.again();
    match verify_disk(files, job, root, Verify::Full, &mut |heard| screen.hear("verify", heard)) {
        Ok(comparison) => Ok(comparison == Comparison::Equal),
        Err(error) => {
            kept.checkpoint = None;
            place.keep(kept)?;
            Err(explained(error))
        }
    }
}

/// The bound on pieces between source and copy.
const MEMORY: Bytes = Bytes::mib(32);

/// How much is copied between two checkpoints.
const CHECKPOINT_EVERY: Bytes = Bytes::mib(512);

fn formats(names: &'static [&'static str]) -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(names).map(|name| Format::named(&name).expect("a name of a format"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

fn print(done: &Done<'_>, output: Output) {
    if output == Output::Json {
        let json = serde_json::to_string_pretty(done).expect("plain fields always serialize");
        answer(&format!("{json}\n"));
        return;
    }
    let Done { target, capacity, resumed_from, written, root, verified, seconds, .. } = done;
    let name = target.display().to_string();
    let took = lasting(SignedDuration::try_from_secs_f64(*seconds).unwrap_or_default());
    let resumed = match resumed_from.0 {
        0 => String::new(),
        _ => format!(", from {resumed_from} on"),
    };
    let verified = if *verified { ", read again and equal" } else { "" };
    answer(&format!(
        "{}  {capacity}, {written} written in {took}{resumed}{verified}\nroot  {root}\n",
        visible(&name)
    ));
}

/// A bar where a person watches, else a line from time to time.
struct Screen {
    clock: SystemClock,
    began: SignedDuration,
    told: SignedDuration,
    /// Where and when this copy, or the comparison after it, began.
    first: Option<(u64, SignedDuration)>,
    total: Bytes,
    bar: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
}

/// How often a line tells how far a copy is.
const TELL_EVERY: SignedDuration = SignedDuration::from_secs(10);

impl Screen {
    fn new(disk: &Disk, target: &Path, stop: Arc<AtomicBool>) -> Self {
        let clock = SystemClock::start();
        let began = clock.elapsed();
        let bar = watched().then(|| {
            let bar = screen().add(ProgressBar::new(disk.capacity.0).with_style(style(16)));
            let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            bar.with_prefix(visible(&name).into_owned())
        });
        Self { clock, began, told: began, first: None, total: disk.capacity, bar, stop }
    }

    fn hear(&mut self, stage: &'static str, heard: Heard) -> Flow {
        if let Heard::Progress(done) = heard {
            let first = *self.first.get_or_insert((done.0, self.clock.elapsed()));
            if let Some(bar) = &self.bar {
                bar.set_message(stage);
                bar.set_position(done.0);
            } else if self.clock.elapsed() - self.told >= TELL_EVERY {
                self.told = self.clock.elapsed();
                tell(&self.line(stage, done, first));
            }
        }
        if self.is_stopped() { Flow::Stop } else { Flow::Continue }
    }

    /// Says how far it is, how fast, and how long the rest takes at that pace.
    fn line(&self, stage: &str, done: Bytes, first: (u64, SignedDuration)) -> String {
        let seconds = (self.clock.elapsed() - first.1).as_secs().max(1);
        let pace = done.0.saturating_sub(first.0) / u64::try_from(seconds).unwrap_or(1);
        let left = self.total.0.saturating_sub(done.0).checked_div(pace);
        let left = left.and_then(|left| i64::try_from(left).ok()).map(SignedDuration::from_secs);
        let left = left.map(|left| format!(", {} left", lasting(left))).unwrap_or_default();
        format!("{stage}  {done} of {}, {}/s{left}", self.total, Bytes(pace))
    }

    /// Tells whether somebody asked for the end.
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Begins with the next stage.
    fn again(&mut self) {
        self.first = None;
    }

    fn stopped(&self) -> Exit {
        self.finish();
        tell("stopped: the same command goes on from here");
        Exit::Interrupted
    }

    fn finish(&self) -> SignedDuration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.clock.elapsed() - self.began
    }
}
