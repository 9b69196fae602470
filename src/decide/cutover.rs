//! When a VM may be taken down: the time that its `Migration` names, and the windows that bound its plan (safety rules 11 to
//! 13).
//!
//! A time that came while nothing stood against it makes the VM due: it stays due while its windows allow, however long it
//! waits for a place. A time that passed otherwise is missed for good; only another time in git counts then.

use jiff::SignedDuration;

use crate::decide::{Input, Wait};
use crate::desired::{Cutover, Desired, PlanWanted, Request};
use crate::domain::unit::lasting;
use crate::domain::vm::{Claim, Vm};
use crate::domain::window::Gate;
use crate::journal::pace::down_for;
use crate::journal::phase::Phase;
use crate::journal::progress::Run;
use crate::journal::record::{
    Abandon, CutoverVerdict, Disposition, Entry, Fault, Instructions, Mend, RepoFact,
};
use crate::planted::{Bug, planted};

/// Bounds that the settings give (`cutover`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutoverLimits {
    /// How late a time may be when it is first seen, or after an outage.
    pub lateness: SignedDuration,
    /// How much of a window is kept for undoing.
    pub rollback_reserve: SignedDuration,
    /// Whether VMs of sources that keep power are taken down only in a window.
    pub require_window: bool,
}

impl Default for CutoverLimits {
    fn default() -> Self {
        let quarter = SignedDuration::from_mins(15);
        Self { lateness: quarter, rollback_reserve: quarter, require_window: true }
    }
}

/// Notes which migrations name a time, since taking it away again postpones and does not mean "at once", and when a `now` was
/// first seen, whatever stands against its VMs then.
pub(super) fn timed(input: &Input<'_>, requests: &[Request], notes: &mut Vec<Entry>) {
    for request in requests {
        let Request { name, digest, cutover, vm_cutover, .. } = request;
        let now = cutover.iter().chain(vm_cutover.values()).any(|time| *time == Cutover::Now);
        if now && input.progress.now_seen(name, digest).is_none() {
            let (migration, digest) = (name.clone(), digest.clone());
            notes.push(Entry::Repo(RepoFact::NowSeen { migration, digest }));
        }
        let migration = &request.name;
        let known = input.progress.timed(migration);
        let all = request.cutover.is_some().then_some(None);
        let each = request.vm_cutover.keys().map(|vm| Some(vm.clone()));
        let new = all.into_iter().chain(each).filter(|vm| !known.contains(vm));
        notes.extend(
            new.map(|vm| Entry::Repo(RepoFact::Timed { migration: migration.clone(), vm })),
        );
    }
}

/// Tells what a cleared VM has to wait for before its cold migration begins, and notes what became of its time.
pub(super) fn begin(
    input: &Input<'_>,
    plan: &PlanWanted,
    request: &Request,
    (desired, vm): (&Desired, &Vm),
    last: Option<&Run>,
    notes: &mut Vec<Entry>,
) -> Result<(), Wait> {
    let key = &desired.key;
    let Some(cutover) = request.cutover_of(&key.vm) else {
        if input.progress.was_timed(&request.name, &key.vm) {
            return Err(Wait::Postponed);
        }
        return windows(input, plan, (desired, vm));
    };
    let time = match cutover {
        Cutover::Never => return Err(Wait::Postponed),
        Cutover::At(time) => time,
        Cutover::Now => match input.progress.now_seen(&request.name, &request.digest) {
            Some(seen) => seen,
            // It is noted with this very decision.
            None => return windows(input, plan, (desired, vm)),
        },
    };
    let mut note = |verdict: CutoverVerdict| {
        let (migration, key) = (request.name.clone(), key.clone());
        notes.push(Entry::Repo(RepoFact::Cutover { migration, key, time, verdict }));
    };
    let used = last.is_some_and(|run| {
        run.begun.run().migration == request.name
            && run.began_at >= time
            && matches!(run.phase, Phase::Undone { why: Abandon::Failed(_), .. })
    });
    if used {
        let why = "the attempt that it began failed and was undone".to_owned();
        return Err(Wait::CutoverMissed { at: time, why });
    }
    match input.progress.cutover(&request.name, key, time) {
        Some(CutoverVerdict::Missed { why }) if !planted(Bug::CatchesUpCutovers) => {
            Err(Wait::CutoverMissed { at: time, why: why.clone() })
        }
        Some(CutoverVerdict::Missed { .. }) => Ok(()),
        Some(CutoverVerdict::Due) => {
            let open = windows(input, plan, (desired, vm));
            if let (Err(_), Gate::Closed { by, .. }) = (&open, plan.calendar.at(input.now))
                && plan.calendar.closed().is_none()
            {
                let why = format!("the window `{by}` closed before it could begin");
                note(CutoverVerdict::Missed { why: why.clone() });
                return Err(Wait::CutoverMissed { at: time, why });
            }
            open
        }
        None if input.now < time => Err(Wait::Cutover { at: time }),
        None if input.now.duration_since(time) > input.limits.cutover.lateness => {
            let late = input.limits.cutover.lateness;
            let why = format!("it was more than {} past when it could have begun", lasting(late));
            note(CutoverVerdict::Missed { why: why.clone() });
            Err(Wait::CutoverMissed { at: time, why })
        }
        None => {
            windows(input, plan, (desired, vm))?;
            note(CutoverVerdict::Due);
            Ok(())
        }
    }
}

/// Tells what keeps a running VM from being shut down: its windows, or a time that was moved.
pub(super) fn power_off(input: &Input<'_>, run: &Run) -> Result<(), Wait> {
    let Some(wanted) = input.wanted else { return Ok(()) };
    let key = &run.begun.instructions().desired.key;
    let Some(plan) = wanted.plans.get(&key.plan) else {
        let text = format!("the plan `{}` is gone", key.plan);
        return Err(Wait::PowerOffBarred(text));
    };
    let request = wanted.requests.iter().find(|request| request.name == run.begun.run().migration);
    let cutover = request.and_then(|request| request.cutover_of(&key.vm));
    match cutover {
        Some(Cutover::At(at)) if at > input.now => return Err(Wait::Cutover { at }),
        // A time that was moved into the past is no order to hurry.
        Some(Cutover::At(at))
            if input.now.duration_since(at) > input.limits.cutover.lateness
                && input.progress.cutover(&run.begun.run().migration, key, at)
                    != Some(&CutoverVerdict::Due) =>
        {
            let why = "it was moved there after it had passed".to_owned();
            return Err(Wait::CutoverMissed { at, why });
        }
        Some(Cutover::Never) => return Err(Wait::Postponed),
        None if input.progress.was_timed(&run.begun.run().migration, &key.vm) => {
            return Err(Wait::Postponed);
        }
        Some(Cutover::At(_) | Cutover::Now) | None => {}
    }
    let Instructions { desired, vm, .. } = run.begun.instructions();
    windows(input, plan, (desired, vm))
}

/// Tells why a VM that was taken down is to be rolled back: its window closed, and the rest takes longer than is kept for
/// that.
pub(super) fn window_closed(input: &Input<'_>, run: &Run) -> Option<Abandon> {
    let Instructions { desired, vm, .. } = run.begun.instructions();
    let plan = input.wanted?.plans.get(&desired.key.plan)?;
    if plan.calendar.closed().is_some() {
        return None;
    }
    let Gate::Closed { by, .. } = plan.calendar.at(input.now) else { return None };
    let read = run.phase.disks().iter().map(|disk| match &disk.checkpoint {
        Some(checkpoint) if disk.root.is_none() => checkpoint.read,
        Some(_) | None => disk.written,
    });
    let rest = vm.to_copy().saturating_sub(read.sum());
    let converted = run.phase.disks().iter().any(|disk| disk.converted);
    let rest = down_for(rest, desired, converted);
    (rest > input.limits.cutover.rollback_reserve).then(|| {
        Abandon::Failed(Fault {
            text: format!("the window `{by}` closed, and the rest takes {}", lasting(rest)),
            remedy: "make the window longer, or move the VM with a smaller plan".to_owned(),
            disposition: Disposition::Stall(Mend::Person),
        })
    })
}

/// Asks all windows of a plan whether a VM may be taken down now.
fn windows(
    input: &Input<'_>,
    plan: &PlanWanted,
    (desired, vm): (&Desired, &Vm),
) -> Result<(), Wait> {
    if planted(Bug::IgnoresWindows) {
        return Ok(());
    }
    let shut = |by: String| Err(Wait::Window { by, opens: None });
    if let Some(why) = input.wanted.and_then(|wanted| wanted.closed.first()) {
        return shut(why.clone());
    }
    let CutoverLimits { lateness: _, rollback_reserve, require_window } = input.limits.cutover;
    if plan.calendar.is_empty() {
        let needed = require_window && vm.claim != Claim::Impossible;
        return if needed { shut(NO_WINDOW.to_owned()) } else { Ok(()) };
    }
    let takes = down_for(vm.to_copy(), desired, false).saturating_add(rollback_reserve);
    let opens = plan.calendar.fits(input.now, takes);
    if opens == Some(input.now) {
        return Ok(());
    }
    let by = match plan.calendar.at(input.now) {
        Gate::Closed { by, .. } => by,
        Gate::Open { .. } => format!("{} do not fit before the window closes", lasting(takes)),
    };
    Err(Wait::Window { by, opens })
}

/// Why a VM of a source that keeps power waits without a window.
const NO_WINDOW: &str =
    "no CutoverWindow bounds its plan, and `cutover.requireWindow` asks for one";
