//! The simulated world: every port again, from a seed, with virtual time and faults. The real controller runs in it.
//!
//! # Flow
//!
//! A runner lets the controller make a pass over [`SimWorld::ports`], lets workers work ([`SimWorld::tick_workers`]), lets
//! people and nature act ([`script::Nature`]), moves the clock ([`SimWorld::advance`]) and asks the invariants. When
//! [`SimWorld::crashed`] says so, it drops the controller, calls [`SimWorld::restart`] and makes a new one from the journal.
//!
//! # Guarantees
//!
//! The same virtual machines, the same [`FaultPlan`] and the same calls are the same run: there is no thread, no real time
//! and no file. What was really done is recorded beside the ports, so that the invariants hold the controller against the
//! truth and not against what it was told.
//!
//! # Assumptions
//!
//! People act between the controller's calls, never within one; guests may also obey while a slow call takes its time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::domain::id::{JournalId, RunId, SourceVm, TargetName};
use crate::journal::progress::Progress;
use crate::journal::record::{Mend, Record};
use crate::port::{Clock, Hold, PortError, World};

pub mod chance;
mod convert;
pub mod count;
mod disk;
pub mod history;
mod image;
pub mod invariant;
mod journal;
mod repo;
#[cfg(test)]
pub(crate) mod script;
mod source;
mod target;
pub mod vsphere;
mod worker;

pub use chance::FaultPlan;
pub use journal::SimJournal;
pub use repo::{CutoverIntent, Intent, MigrationIntent};
pub use source::{Guest, SimVmSpec, VmKind};

use chance::{Call, Chance, Mishap};
use count::Counts;
use history::{Actor, Deed, What};

/// The folder of the simulated source, as a `Provider` names it.
pub const SOURCE_PATH: &str = "/sim/source";

/// The folder of the simulated target, as a `Provider` names it.
pub const TARGET_PATH: &str = "/sim/target";

/// When every simulated world begins: 2026-01-05, midnight, UTC.
const BEGINNING_SECOND: i64 = 1_767_571_200;

/// How long a slow call takes: longer than an observation may be old.
const SLOW: SignedDuration = SignedDuration::from_secs(95);

/// A simulated world. Clones are the same world.
#[derive(Clone)]
pub struct SimWorld {
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for SimWorld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimWorld at {}", self.lock().now)
    }
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that is wrong with the world or not"
)]
struct State {
    now: Timestamp,
    clock_ahead: SignedDuration,
    chance: Chance,
    counts: Counts,
    crashed: bool,
    hold: bool,
    repo: repo::SimRepo,
    vms: Vec<source::SimVm>,
    source_gap: bool,
    stale_source: Option<crate::observed::SourceState>,
    target: target::SimTarget,
    stale_target: Option<crate::observed::TargetState>,
    workers: BTreeMap<RunId, worker::SimWorker>,
    journal_id: JournalId,
    records: Vec<Record>,
    journal_full: bool,
    deeds: Vec<Deed>,
    slips: Vec<String>,
}

impl SimWorld {
    /// Makes a world with these VMs at its source, an empty repository and an empty target.
    pub fn new(vms: &[SimVmSpec], faults: FaultPlan) -> Self {
        let now = Timestamp::from_second(BEGINNING_SECOND).expect("a second of this century");
        let state = State {
            now,
            clock_ahead: SignedDuration::ZERO,
            chance: Chance::new(faults),
            counts: Counts::default(),
            crashed: false,
            hold: false,
            repo: repo::SimRepo::default(),
            vms: vms.iter().map(|spec| source::SimVm::new(spec, now)).collect(),
            source_gap: false,
            stale_source: None,
            target: target::SimTarget::default(),
            stale_target: None,
            workers: BTreeMap::new(),
            journal_id: JournalId::new("simulated"),
            records: Vec::new(),
            journal_full: false,
            deeds: Vec::new(),
            slips: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Returns the ports, as the controller wants them. The journal is another handle: [`SimWorld::journal`].
    pub fn ports(&self) -> World<'_> {
        World { clock: self, repo: self, source: self, target: self, workers: self, hold: self }
    }

    /// Moves the clock. What is due on the way happens.
    pub fn advance(&self, by: SignedDuration) {
        self.lock().advance(by);
    }

    /// Lets somebody set the clock forward by so much: no time passes.
    pub fn set_clock_forward(&self, by: SignedDuration) {
        let mut state = self.lock();
        state.advance(by);
        state.clock_ahead = state.clock_ahead.saturating_add(by);
    }

    /// Puts the brake on or off.
    pub fn hold(&self, engaged: bool) {
        self.lock().hold = engaged;
    }

    /// Kills the controller between two calls.
    pub fn crash(&self) {
        self.lock().crash_controller();
    }

    /// Stops the machine: controller and workers end, unsynced writes are lost in part.
    pub fn power_cut(&self) {
        self.lock().crash_machine();
    }

    /// Tells whether the controller was killed. Every call of it fails until [`SimWorld::restart`].
    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Lets a new controller make calls.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.crashed = false;
        for worker in state.workers.values_mut() {
            worker.say_again();
        }
    }

    /// Lets nothing go wrong any more: what is still not done after a while never will be.
    pub fn calm(&self) {
        let mut state = self.lock();
        state.chance.calm = true;
        state.repo.reachable = true;
        state.source_gap = false;
        state.target.gap = false;
        state.target.starts_nothing = false;
        state.target.taken_by_others = 0;
        state.journal_full = false;
        state.hold = false;
    }

    /// Returns what happened how often so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Returns what was really done, in order.
    pub fn deeds(&self) -> Vec<Deed> {
        self.lock().deeds.clone()
    }

    /// Returns what is durable in the journal.
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    /// Folds the journal from nothing.
    pub fn progress(&self) -> Result<Progress, String> {
        let state = self.lock();
        let folded = Progress::fold(state.journal_id.clone(), &state.records);
        folded.map_err(|error| format!("the journal does not fold: {error:?}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call of the controller, which may go wrong.
    fn call<T>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let mut state = self.lock();
        if state.crashed {
            return Err(crash());
        }
        let mishap = state.draw(call);
        state.suffer(call, mishap, effect)
    }
}

impl State {
    fn draw(&mut self, call: Call) -> Option<Mishap> {
        let mishap = self.chance.draw(call)?;
        self.counts.mishap(call, mishap);
        Some(mishap)
    }

    fn suffer<T>(
        &mut self,
        call: Call,
        mishap: Option<Mishap>,
        effect: impl FnOnce(&mut Self) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        match mishap {
            Some(Mishap::Passing) => Err(passing(call)),
            Some(Mishap::Lasting) => Err(lasting(call)),
            Some(Mishap::ReplyLost) => {
                effect(self)?;
                Err(PortError::passing(
                    format!("the reply to {call:?} was lost"),
                    "wait: it is tried again",
                ))
            }
            Some(Mishap::CrashBefore) => {
                self.crash_controller();
                Err(crash())
            }
            Some(Mishap::CrashAfter) => {
                let _ = effect(self);
                self.crash_controller();
                Err(crash())
            }
            Some(Mishap::Slow) => {
                let result = effect(self);
                self.advance(SLOW);
                result
            }
            // The others are no matter of every call: whoever may suffer them draws by itself.
            Some(_) | None => effect(self),
        }
    }

    fn crash_controller(&mut self) {
        match self.chance.below(3) {
            0 => self.crash_machine(),
            1 => {
                self.counts.crash(1);
                self.crashed = true;
                // The pipes close, and the workers end without a word more. The system keeps what they wrote.
                self.workers.clear();
            }
            _ => {
                self.counts.crash(0);
                self.crashed = true;
            }
        }
    }

    fn crash_machine(&mut self) {
        self.counts.crash(2);
        self.crashed = true;
        self.workers.clear();
        let Self { target, chance, .. } = self;
        for disk in target.disks.values_mut() {
            disk.lose_power(chance);
        }
    }

    fn advance(&mut self, by: SignedDuration) {
        let end = self.now.checked_add(by).expect("simulated runs end before the calendar does");
        while let Some((index, due)) = self.next_due(end) {
            self.now = self.now.max(due);
            self.guest_goes_off(index);
        }
        self.now = self.now.max(end);
        let second = self.now.as_second().unsigned_abs();
        for vm in &mut self.vms {
            vm.write_if_on(second);
        }
    }

    fn did(&mut self, actor: Actor, what: What) {
        self.counts.deed(&what);
        let (at, records) = (self.now, self.records.len());
        self.deeds.push(Deed { at, records, actor, what });
    }

    /// Notes something that no order of deeds may excuse.
    fn slip(&mut self, text: String) {
        self.slips.push(format!("{}: {text}", self.now));
    }

    /// Tells whether a VM that was made from a source VM runs on the target.
    fn runs_on_target(&self, vm: &SourceVm) -> bool {
        self.target.areas.values().any(|area| area.vm == *vm && area.runs())
    }

    fn source_runs(&self, vm: &SourceVm) -> bool {
        self.vms.iter().any(|other| other.id == *vm && other.runs())
    }

    fn stands_foreign(&self, name: &TargetName) -> bool {
        self.target.foreign.contains(name)
    }
}

impl Clock for SimWorld {
    fn now(&self) -> Timestamp {
        self.lock().now
    }

    fn elapsed(&self) -> SignedDuration {
        let state = self.lock();
        state.now.duration_since(Timestamp::UNIX_EPOCH).saturating_sub(state.clock_ahead)
    }
}

impl Hold for SimWorld {
    fn engaged(&self) -> bool {
        self.lock().hold
    }
}

fn crash() -> PortError {
    PortError::passing("the simulated controller was killed", "start it again")
}

fn passing(call: Call) -> PortError {
    PortError::passing(format!("{call:?} failed for a moment"), "wait: it is tried again")
}

fn lasting(call: Call) -> PortError {
    let mend = match call {
        Call::SourceObserve | Call::SourceLook | Call::ImageNext | Call::ImageFinish => {
            Mend::Source
        }
        Call::TargetObserve | Call::TargetLook | Call::TargetCreateDisks => Mend::Target,
        _ => Mend::Person,
    };
    PortError::lasting(format!("{call:?} is refused"), "mend the simulated world", mend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Site;
    use crate::port::Source;

    fn world(calls: &[(usize, u8)]) -> SimWorld {
        let calls = calls.iter().copied().collect();
        let specs = [SimVmSpec::powered("web", &[&[1, 2, 3]])];
        SimWorld::new(&specs, FaultPlan { calls, ..FaultPlan::default() })
    }

    fn site() -> Site {
        Site::Ova { path: SOURCE_PATH.into() }
    }

    /// Returns the number in a plan that stands for a mishap of a call.
    fn number(call: Call, mishap: Mishap) -> u8 {
        let index = call.mishaps().iter().position(|other| *other == mishap).unwrap();
        u8::try_from(index).unwrap()
    }

    #[test]
    fn after_a_crash_every_call_fails_until_the_restart() {
        let world = world(&[(0, number(Call::SourceObserve, Mishap::CrashBefore))]);
        let text = world.observe(&site()).unwrap_err().fault.text;
        assert_eq!(text, "the simulated controller was killed");
        assert!(world.crashed());
        assert!(world.observe(&site()).is_err());
        world.restart();
        assert_eq!(world.observe(&site()).unwrap().vms.len(), 1);
    }

    #[test]
    fn a_lost_reply_hides_an_effect_that_happened() {
        let specs = [SimVmSpec::powered("web", &[&[1, 2, 3]])];
        let effects = [(0, number(Call::SourcePowerOff, Mishap::ReplyLost))].into();
        let world = SimWorld::new(&specs, FaultPlan { effects, ..FaultPlan::default() });
        let vm = SimVmSpec::powered("web", &[]).id();
        assert!(world.power_off(&site(), &vm).is_err());
        let deeds: Vec<_> = world.deeds().iter().map(|deed| deed.what.name()).collect();
        assert_eq!(deeds, ["went off"]);
        assert!(world.power_off(&site(), &vm).is_ok());
        assert_eq!(world.deeds().len(), 1);
    }

    #[test]
    fn a_slow_look_is_honest_about_its_age_and_a_stale_one_is_not() {
        let slow = number(Call::SourceObserve, Mishap::Slow);
        let stale = number(Call::SourceObserve, Mishap::Stale);
        let world = world(&[(0, slow), (2, stale)]);
        let before = world.now();
        let seen = world.observe(&site()).unwrap();
        assert_eq!(world.now().duration_since(before), SLOW);
        world.person_powers_off("web");
        assert_eq!(world.observe(&site()).unwrap().vms[0].power, crate::domain::vm::Power::Off);
        world.person_powers_on("web");
        let old = world.observe(&site()).unwrap();
        assert_eq!(old.vms[0].power, crate::domain::vm::Power::Off);
        assert_eq!(world.observe(&site()).unwrap(), seen);
    }
}
