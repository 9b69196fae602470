//! Chance: which call goes wrong and how. Everything comes from a plan of small integers, so that the same plan is the same
//! run and a shorter plan is a simpler one.

use std::collections::BTreeMap;

/// What goes wrong, as data: a number for each call that does, by how many calls came before it. All others succeed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// Calls with which the controller looks, reads and writes. The number chooses among the ways in which the call can go
    /// wrong.
    pub calls: BTreeMap<usize, u8>,
    /// Calls with which source and target are changed, guests converted, and workers started and stopped: there are few of them.
    pub effects: BTreeMap<usize, u8>,
    /// Calls of the data plane.
    pub data: BTreeMap<usize, u8>,
    /// What is left to chance otherwise: which unsynced writes survive, whether workers outlive their controller.
    pub seed: u64,
}

impl FaultPlan {
    /// Makes a plan from a seed: about one of `one_in` of so many calls goes wrong.
    pub fn from_seed(seed: u64, length: usize, one_in: u64) -> Self {
        let mut mix = Mix(seed);
        let mut draw = || -> BTreeMap<usize, u8> {
            let wrong = |mix: &mut Mix| mix.below(one_in.max(1)) == 0;
            let number = |mix: &mut Mix| u8::try_from(mix.below(256)).unwrap_or(u8::MAX);
            let calls = 0..length;
            calls
                .filter_map(|at| if wrong(&mut mix) { Some((at, number(&mut mix))) } else { None })
                .collect()
        };
        let (calls, effects, data) = (draw(), draw(), draw());
        Self { calls, effects, data, seed }
    }
}

/// A call into the simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is named after the method of `port` that it stands for")]
pub enum Call {
    RepoHead,
    RepoTree,
    RepoBlob,
    RepoAncestry,
    RepoReport,
    RepoPublish,
    SourceObserve,
    SourceLook,
    SourceClaim,
    SourceRelease,
    SourceMarkMigrated,
    SourceShutDown,
    SourcePowerOff,
    SourcePowerOn,
    SourcePoweredOnSince,
    TargetObserve,
    TargetLook,
    TargetCreateDisks,
    TargetCreateVm,
    TargetStart,
    TargetRemove,
    WorkerStart,
    WorkerTake,
    WorkerAcknowledge,
    WorkerStop,
    WorkerHeard,
    JournalRead,
    JournalAppend,
    ImageReader,
    ImageWriter,
    ImageNext,
    ImageFinish,
    ImageWrite,
    ImageZero,
    ImageRead,
    ImageReadMap,
    ImageWriteMap,
    ImageSync,
    Convert,
    Commit,
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mishap {
    /// It fails before its effect, and may succeed when tried again.
    Passing,
    /// It fails before its effect, for a reason that does not pass by itself.
    Lasting,
    /// Its effect happens, and its reply is lost.
    ReplyLost,
    /// The controller is killed before the effect.
    CrashBefore,
    /// The controller is killed after the effect, before it hears of it.
    CrashAfter,
    /// What it returns was seen well before it returns: its age is honest, and old.
    Slow,
    /// It returns what an earlier call saw, as an inventory does that lags behind.
    Stale,
    /// It cannot tell.
    Unknown,
    /// What was said before is said again.
    Repeat,
    /// An acknowledgement is lost.
    Lost,
    /// The worker is killed.
    Kill,
    /// The machine stops: unsynced writes are lost in part, workers and controller with it.
    PowerCut,
    /// The worker is not scheduled for a while.
    Pause,
    /// A call to make writes durable fails; those writes stay readable and never become durable by a later call.
    SyncFailed,
    /// A write or the journal finds no space.
    Full,
}

impl Call {
    /// All calls.
    pub const ALL: [Self; 40] = [
        Self::RepoHead,
        Self::RepoTree,
        Self::RepoBlob,
        Self::RepoAncestry,
        Self::RepoReport,
        Self::RepoPublish,
        Self::SourceObserve,
        Self::SourceLook,
        Self::SourceClaim,
        Self::SourceRelease,
        Self::SourceMarkMigrated,
        Self::SourceShutDown,
        Self::SourcePowerOff,
        Self::SourcePowerOn,
        Self::SourcePoweredOnSince,
        Self::TargetObserve,
        Self::TargetLook,
        Self::TargetCreateDisks,
        Self::TargetCreateVm,
        Self::TargetStart,
        Self::TargetRemove,
        Self::WorkerStart,
        Self::WorkerTake,
        Self::WorkerAcknowledge,
        Self::WorkerStop,
        Self::WorkerHeard,
        Self::JournalRead,
        Self::JournalAppend,
        Self::ImageReader,
        Self::ImageWriter,
        Self::ImageNext,
        Self::ImageFinish,
        Self::ImageWrite,
        Self::ImageZero,
        Self::ImageRead,
        Self::ImageReadMap,
        Self::ImageWriteMap,
        Self::ImageSync,
        Self::Convert,
        Self::Commit,
    ];

    /// Returns what may happen to it.
    pub const fn mishaps(self) -> &'static [Mishap] {
        use Mishap::{
            CrashAfter, CrashBefore, Full, Kill, Lasting, Lost, Passing, Pause, PowerCut, Repeat,
            ReplyLost, Slow, Stale, SyncFailed, Unknown,
        };
        match self {
            Self::RepoHead
            | Self::RepoTree
            | Self::RepoBlob
            | Self::RepoAncestry
            | Self::RepoReport => &[Passing, Lasting, CrashBefore],
            Self::SourceObserve | Self::TargetObserve => {
                &[Passing, Lasting, Slow, Stale, CrashBefore]
            }
            Self::SourceLook | Self::TargetLook => &[Passing, Lasting, Slow, CrashBefore],
            Self::SourcePoweredOnSince => &[Passing, Lasting, Unknown, CrashBefore],
            Self::RepoPublish
            | Self::SourceClaim
            | Self::SourceRelease
            | Self::SourceMarkMigrated
            | Self::SourceShutDown
            | Self::SourcePowerOff
            | Self::SourcePowerOn
            | Self::TargetCreateDisks
            | Self::TargetCreateVm
            | Self::TargetStart
            | Self::TargetRemove
            | Self::WorkerStart
            | Self::WorkerStop => &[Passing, ReplyLost, CrashBefore, CrashAfter, Lasting],
            Self::WorkerTake => &[Repeat],
            Self::WorkerAcknowledge => &[Lost],
            Self::WorkerHeard => &[Pause, Kill, PowerCut],
            Self::JournalRead => &[Passing, CrashBefore],
            Self::JournalAppend => &[CrashBefore, CrashAfter, Full],
            Self::ImageReader
            | Self::ImageWriter
            | Self::ImageZero
            | Self::ImageRead
            | Self::ImageReadMap
            | Self::ImageWriteMap => &[Passing],
            Self::ImageNext | Self::ImageFinish | Self::Convert | Self::Commit => {
                &[Passing, Lasting]
            }
            Self::ImageWrite => &[Passing, Full],
            Self::ImageSync => &[SyncFailed],
        }
    }

    /// Tells whether the call changes source, target, guests or workers.
    const fn is_effect(self) -> bool {
        matches!(
            self,
            Self::SourceClaim
                | Self::SourceRelease
                | Self::SourceMarkMigrated
                | Self::SourceShutDown
                | Self::SourcePowerOff
                | Self::SourcePowerOn
                | Self::TargetCreateDisks
                | Self::TargetCreateVm
                | Self::TargetStart
                | Self::TargetRemove
                | Self::WorkerStart
                | Self::WorkerStop
                | Self::Convert
                | Self::Commit
        )
    }

    const fn of_data(self) -> bool {
        matches!(
            self,
            Self::WorkerHeard
                | Self::ImageReader
                | Self::ImageWriter
                | Self::ImageNext
                | Self::ImageFinish
                | Self::ImageWrite
                | Self::ImageZero
                | Self::ImageRead
                | Self::ImageReadMap
                | Self::ImageWriteMap
                | Self::ImageSync
        )
    }
}

/// The plan as far as it is used.
#[derive(Clone, Debug)]
pub(super) struct Chance {
    plan: FaultPlan,
    next_call: usize,
    next_effect: usize,
    next_data: usize,
    mix: Mix,
    /// Whether nothing goes wrong any more.
    pub(super) calm: bool,
}

impl Chance {
    pub(super) fn new(plan: FaultPlan) -> Self {
        let mix = Mix(plan.seed);
        Self { plan, next_call: 0, next_effect: 0, next_data: 0, mix, calm: false }
    }

    /// Uses up one number of the plan.
    pub(super) fn draw(&mut self, call: Call) -> Option<Mishap> {
        if self.calm {
            return None;
        }
        let (numbers, next) = if call.of_data() {
            (&self.plan.data, &mut self.next_data)
        } else if call.is_effect() {
            (&self.plan.effects, &mut self.next_effect)
        } else {
            (&self.plan.calls, &mut self.next_call)
        };
        let number = numbers.get(next).copied();
        *next += 1;
        let mishaps = call.mishaps();
        mishaps.get(usize::from(number?) % mishaps.len()).copied()
    }

    /// Returns a number below `sides`.
    pub(super) fn below(&mut self, sides: u64) -> u64 {
        self.mix.below(sides)
    }
}

/// A small generator (`SplitMix64`): the same seed gives the same numbers on every machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix(pub(super) u64);

impl Mix {
    pub(super) fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % sides.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_plan_succeeds() {
        let plan = FaultPlan { calls: [(1, 1)].into(), ..FaultPlan::default() };
        let mut chance = Chance::new(plan);
        let drawn: Vec<_> = (0..5).map(|_| chance.draw(Call::SourceLook)).collect();
        assert_eq!(drawn, [None, Some(Mishap::Lasting), None, None, None]);
        assert_eq!(chance.draw(Call::ImageSync), None);
    }

    #[test]
    fn the_same_seed_is_the_same_plan() {
        let plan = FaultPlan::from_seed(7, 400, 10);
        assert_eq!(plan, FaultPlan::from_seed(7, 400, 10));
        assert_ne!(plan, FaultPlan::from_seed(8, 400, 10));
        assert!((20..=70).contains(&plan.calls.len()), "{}", plan.calls.len());
    }

    #[test]
    fn every_call_is_listed_once() {
        let mut all = Call::ALL.to_vec();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), Call::ALL.len());
    }
}
