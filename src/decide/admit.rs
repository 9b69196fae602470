//! What may be begun, tried again or powered off now: places, room, pauses and the one gate before a power-off.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::decide::cutover::{self, CutoverLimits};
use crate::decide::{Input, Wait};
use crate::domain::id::ProviderName;
use crate::domain::unit::Bytes;
use crate::domain::vm::{CONVERSION_ROOM, Claim, DiskFormat, Vm};
use crate::journal::phase::Phase;
use crate::journal::progress::{Run, Trouble};
use crate::journal::record::{Disposition, Fault, Mend};
use crate::observed::Brake;
use crate::policy::{Cleared, Outcome};

/// How often a step is tried before its attempt stalls. With [`pause`] that is a little over a minute: a passing fault of a
/// network or a disk ends sooner, one that lasts longer is worth a person's attention.
pub const FAILURES_MAX: u32 = 5;

/// The first pause before a step is tried again; each further one is twice as long.
const PAUSE_FIRST: SignedDuration = SignedDuration::from_secs(5);

/// How long an attempt stays stalled before what its fault names is taken for mended, where the only sign of that is that
/// the source or the target can be seen again. It bounds how often a step that always fails is repeated.
const MEND_PAUSE: SignedDuration = SignedDuration::from_mins(5);

/// How long undoing or finishing rests once it stalled. It never gives up: a VM may be off.
const FINISH_PAUSE: SignedDuration = SignedDuration::from_mins(10);

/// How far the source's clock may be away from ours before nothing is powered off (safety rule 14).
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_secs(60);

/// Bounds that the settings give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many VMs may move at once.
    pub vms_in_flight: usize,
    /// How many guests may be converted at once.
    pub converting: usize,
    /// When VMs may be taken down.
    pub cutover: CutoverLimits,
}

/// What trouble asks for.
pub(super) enum Relief {
    /// Nothing stands against the next step.
    None,
    /// A pause.
    Pause(Timestamp),
    /// The attempt stalls now.
    Stall(Fault),
    /// The attempt is stalled and stays so.
    Stalled(Fault),
    /// What it stalled for was observed mended.
    Mended(String),
}

/// Tells what the trouble of an attempt asks for.
pub(super) fn relief(input: &Input<'_>, run: &Run) -> Relief {
    let Some(trouble) = &run.trouble else { return Relief::None };
    let since = input.now.duration_since(trouble.at);
    if trouble.stalled {
        if !run.phase.undoable() {
            return if since >= FINISH_PAUSE {
                Relief::Mended("what was begun must be ended: tried again".to_owned())
            } else {
                Relief::Stalled(trouble.fault.clone())
            };
        }
        return match mended(input, run, trouble) {
            Some(why) => Relief::Mended(why),
            None => Relief::Stalled(trouble.fault.clone()),
        };
    }
    let stalls = match &trouble.fault.disposition {
        Disposition::Stall(_) => true,
        Disposition::Retry => trouble.failures >= FAILURES_MAX,
    };
    if stalls {
        return Relief::Stall(trouble.fault.clone());
    }
    let again = trouble.at.saturating_add(pause(trouble.failures)).unwrap_or(Timestamp::MAX);
    if input.now < again { Relief::Pause(again) } else { Relief::None }
}

/// Returns the pause after so many failures in a row.
fn pause(failures: u32) -> SignedDuration {
    let doublings = failures.saturating_sub(1).min(FAILURES_MAX);
    PAUSE_FIRST.saturating_mul(1_i32 << doublings)
}

fn mended(input: &Input<'_>, run: &Run, trouble: &Trouble) -> Option<String> {
    let Disposition::Stall(mend) = &trouble.fault.disposition else {
        return (input.now.duration_since(trouble.at) >= MEND_PAUSE)
            .then(|| "it may have passed: tried again".to_owned());
    };
    let desired = &run.begun.instructions().desired;
    let paused = input.now.duration_since(trouble.at) >= MEND_PAUSE;
    let seen_since = |at: Timestamp| paused && at > trouble.at;
    match mend {
        Mend::Space(needed) => {
            let free = input.observed.targets.get(&desired.target)?.fresh(input.now)?.free;
            (paused && free >= *needed).then(|| format!("the target has {free} free now"))
        }
        Mend::Source => {
            let seen = input.observed.sources.get(&desired.source)?;
            seen.fresh(input.now)?.vm(&run.begun.run().vm)?;
            seen_since(seen.at).then(|| "the source can be read again".to_owned())
        }
        Mend::Target => {
            let seen = input.observed.targets.get(&desired.target)?;
            seen.fresh(input.now)?;
            seen_since(seen.at).then(|| "the target can be read again".to_owned())
        }
        Mend::Person => None,
    }
}

/// The one gate for every power-off (safety rules 11, 12, 14).
pub(super) fn power_off(input: &Input<'_>, run: &Run) -> Result<(), Wait> {
    if input.observed.brake != Brake::Released {
        return Err(Wait::Brake);
    }
    if input.wanted.is_none() {
        let text = "no commit of the watched branch could be read";
        return Err(Wait::PowerOffBarred(text.to_owned()));
    }
    if let Some(bar) = input.observed.power_off_bars.first() {
        return Err(Wait::PowerOffBarred(bar.clone()));
    }
    let source = &run.begun.instructions().desired.source;
    let clock = input
        .observed
        .sources
        .get(source)
        .and_then(|seen| Some((seen.at, seen.fresh(input.now)?.clock?)));
    match clock {
        Some((at, clock)) if at.duration_since(clock).abs() > CLOCK_SKEW_MAX => {
            let text = format!("the clock of {source} is more than 60 s away from this machine's");
            Err(Wait::PowerOffBarred(text))
        }
        Some(_) | None => cutover::power_off(input, run),
    }
}

/// Tells whether somebody else's mark stands on a VM, or our own mark that it was migrated and is not asked for again.
pub(super) fn foreign_mark(input: &Input<'_>, vm: &Vm, again: bool) -> Option<Wait> {
    let ours =
        |token: &str| input.progress.claim_tokens(&vm.id).any(|(own, _)| own.as_str() == token);
    match &vm.claim {
        Claim::Impossible | Claim::Free => None,
        Claim::Held(token) if ours(token) => None,
        Claim::Migrated(token) if again && ours(token) => None,
        Claim::Held(token) | Claim::Migrated(token) => Some(Wait::Claimed(token.clone())),
    }
}

/// Returns what a VM needs on the target at least: what its source stores, perhaps compressed, or its capacity where the
/// source does not tell. Where more is needed the copy stalls and says how much.
pub(super) fn room(vm: &Vm) -> Bytes {
    let of = |disk: &crate::domain::vm::Disk| match disk.format {
        DiskFormat::Empty => Bytes(0),
        DiskFormat::StreamOptimized | DiskFormat::Blocks | DiskFormat::Unsupported(_) => {
            disk.stored.unwrap_or(disk.capacity)
        }
    };
    vm.disks.iter().map(of).sum()
}

/// Tells whether an attempt may have a converter now. Those that run count first; of the others the one that came first to its
/// conversion goes first. An attempt that rests after a failure keeps no place from others.
pub(super) fn conversion(input: &Input<'_>, run: &Run) -> Result<(), Wait> {
    let converting = |run: &&Run| matches!(run.phase, Phase::Converting { .. });
    let runs = |run: &Run| input.observed.workers.contains_key(run.begun.run());
    let (working, waiting): (Vec<&Run>, Vec<&Run>) =
        input.progress.moving().filter(converting).partition(|run| runs(run));
    let before = |other: &&&Run| {
        matches!(relief(input, other), Relief::None)
            && goes_on(input, other)
            && (other.since, other.begun.run()) < (run.since, run.begun.run())
    };
    let ahead = waiting.iter().filter(before).count();
    if working.len() + ahead < input.limits.converting {
        Ok(())
    } else {
        Err(Wait::Converter { at: ahead + 1 })
    }
}

/// Tells whether policy lets an attempt go on, as `step` asks it: who waits for a person keeps nobody else waiting.
fn goes_on(input: &Input<'_>, run: &Run) -> bool {
    let verdict = input.begun.get(&run.begun.run().vm);
    run.phase.took_source_down()
        || verdict.is_some_and(|verdict| matches!(verdict.outcome, Outcome::Cleared(_)))
}

/// Tells whether an attempt stands still for a finding that only people can take away: then it keeps no place from others.
fn blocked(input: &Input<'_>, run: &Run) -> bool {
    let id = run.begun.run();
    let verdict = input.begun.get(&id.vm);
    verdict.is_some_and(|verdict| matches!(verdict.outcome, Outcome::Blocked))
        && !run.phase.took_source_down()
        && !input.observed.workers.contains_key(id)
}

/// Tells whether an attempt has its guest's conversion before it, the commit of its overlays included.
fn to_convert(run: &Run) -> bool {
    let done = run.phase.disks().iter().any(|disk| disk.converted)
        && !matches!(run.phase, Phase::Converting { .. });
    run.begun.converts() && run.phase.undoable() && !done
}

/// What is reserved on one target.
#[derive(Clone, Copy, Debug, Default)]
struct Reserved {
    /// For disks.
    disks: Bytes,
    /// How many guests are still to be converted.
    conversions: usize,
}

impl Reserved {
    /// Returns how much that is: at most so many conversions take room at once as the settings allow.
    fn room(self, input: &Input<'_>) -> Bytes {
        let at_once = self.conversions.min(input.limits.converting);
        self.disks + std::iter::repeat_n(CONVERSION_ROOM, at_once).sum()
    }

    fn add(&mut self, disks: Bytes, converts: bool) {
        self.disks += disks;
        self.conversions += usize::from(converts);
    }
}

/// What the VMs that begin in this decision have taken of places and room already.
#[derive(Debug)]
pub(super) struct Taken {
    moving: usize,
    targets: BTreeMap<ProviderName, Reserved>,
}

impl Taken {
    /// Counts what moves and what it has still to write.
    pub(super) fn count(input: &Input<'_>) -> Self {
        let mut taken = Self { moving: 0, targets: BTreeMap::new() };
        for run in input.progress.moving() {
            let stalled = run.trouble.as_ref().is_some_and(|trouble| trouble.stalled);
            if !stalled && !blocked(input, run) {
                taken.moving += 1;
            }
            let instructions = run.begun.instructions();
            let written = run.phase.disks().iter().map(|disk| match &disk.checkpoint {
                Some(checkpoint) => checkpoint.read,
                None => disk.written,
            });
            let left = room(&instructions.vm).saturating_sub(written.sum());
            let target = taken.targets.entry(instructions.desired.target.clone()).or_default();
            target.add(left, to_convert(run));
        }
        taken
    }

    /// Takes a place and the room, or tells what is missing.
    pub(super) fn admit(&mut self, input: &Input<'_>, cleared: &Cleared) -> Result<(), Wait> {
        if input.observed.brake != Brake::Released {
            return Err(Wait::Brake);
        }
        if self.moving >= input.limits.vms_in_flight {
            return Err(Wait::Slot { moving: self.moving });
        }
        let desired = cleared.desired();
        let reserved = self.targets.entry(desired.target.clone()).or_default();
        let mut with = *reserved;
        with.add(room(cleared.vm()), !desired.skip_guest_conversion);
        let seen = input.observed.targets.get(&desired.target);
        if let Some(seen) = seen.and_then(|seen| seen.fresh(input.now)) {
            let before = reserved.room(input);
            let needed = with.room(input).saturating_sub(before);
            let free = seen.free.saturating_sub(before);
            if free < needed {
                return Err(Wait::Space { needed, free });
            }
        }
        self.moving += 1;
        *reserved = with;
        Ok(())
    }
}
