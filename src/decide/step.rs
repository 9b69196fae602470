//! The next step of one attempt, from its phase. Each phase has one arm; what it needs of the world comes from what was
//! observed, and an effect looks at its object again.

use jiff::SignedDuration;

use crate::decide::admit::{conversion, power_off};
use crate::decide::{Effect, Input, Wait, Warrant};
use crate::domain::id::Token;
use crate::domain::vm::{Claim, Power};
use crate::journal::phase::{Area, Off, Phase, Undo};
use crate::journal::progress::{Inherited, Run};
use crate::journal::record::Fact;
use crate::manifest::document::Verify;
use crate::observed::{Brake, Gap, TargetState, WorkerState};
use crate::planted::{Bug, planted};
use crate::policy::Outcome;

/// How long a worker may take to end once all is copied: it has nothing left to do.
const WORKER_END_MAX: SignedDuration = SignedDuration::from_secs(60);

/// What comes next.
pub(super) enum Next {
    /// A fact that holds already, or an intent.
    Note(Fact, &'static str),
    /// Something to do.
    Do {
        /// Why it may be done.
        warrant: Warrant,
        /// What.
        effect: Effect,
        /// What a person reads.
        doing: &'static str,
    },
    /// Nothing, for this reason.
    Wait(Wait),
}

/// Returns the next step of an attempt that nothing stands against.
pub(super) fn next(input: &Input<'_>, run: &Run) -> Next {
    match &run.phase {
        Phase::Begun => begun(input, run),
        Phase::Claiming { token } => {
            let ours = input.progress.claim_tokens(&run.begun.run().vm);
            let ours = ours.map(|(token, _)| token).filter(|other| other != token).collect();
            forward(input, run, Effect::Claim { token: token.clone(), ours }, "claim the source")
        }
        Phase::Claimed { .. } => {
            forward(input, run, Effect::RememberPower, "look at the power state")
        }
        Phase::On { .. } => intend_power_off(input, run),
        Phase::ShuttingDown { deadline, forced, .. } => {
            shutting_down(input, run, *deadline, *forced)
        }
        Phase::Off(off) => prepare(input, run, off),
        Phase::Preparing { token, .. } => {
            forward(input, run, Effect::CreateDisks { token: token.clone() }, "create disks")
        }
        Phase::Copying(_) => copy(input, run),
        Phase::Copied(_) if run.begun.converts() => {
            let effect = Effect::ConfirmForConversion;
            once_ended(input, run, Wait::Copying, effect, "look at the source again")
        }
        Phase::Copied(_) => {
            once_ended(input, run, Wait::Copying, Effect::ConfirmCopy, "look at the source again")
        }
        Phase::Converting { .. } => convert(input, run),
        Phase::Converted(_) => {
            let effect = Effect::ConfirmCopy;
            once_ended(input, run, Wait::Converting, effect, "look at the source again")
        }
        Phase::Creating(_) => forward(input, run, Effect::CreateVm, "create the VM"),
        Phase::Created(_) => start(input, run),
        Phase::Starting { .. } => finish(run, Effect::Start, "start the VM"),
        Phase::Settling { marked: true, .. } => Next::Note(Fact::Completed, "complete"),
        Phase::Settling { area: Area { off: Off { claim: None, .. }, .. }, .. } => {
            Next::Note(Fact::MarkedMigrated, "complete")
        }
        Phase::Settling { .. } => finish(run, Effect::Mark, "mark the source as migrated"),
        Phase::Undoing(undo) => self::undo(input, run, undo),
        // `Progress::moving` never hands these out.
        Phase::Completed { .. } | Phase::Undone { .. } => Next::Wait(Wait::Copying),
    }
}

fn token(input: &Input<'_>, run: &Run, step: &str) -> Token {
    Token::derive(input.progress.journal(), run.begun.run(), step)
}

/// Something forward: policy lets the VM through now, and no brake is on. A VM that was shut down for this attempt is
/// finished instead: an expired waiver must not leave it off.
fn warrant(input: &Input<'_>, run: &Run) -> Result<Warrant, Wait> {
    if run.phase.took_source_down() {
        return Ok(Warrant::Begun(Box::new(run.begun.clone())));
    }
    if input.observed.brake != Brake::Released {
        return Err(Wait::Brake);
    }
    match input.begun.get(&run.begun.run().vm).map(|verdict| &verdict.outcome) {
        Some(Outcome::Cleared(cleared)) => Ok(Warrant::Cleared(cleared.clone())),
        Some(Outcome::Blocked) => Err(Wait::Blocked),
        Some(Outcome::Unknown(gap)) => Err(Wait::Unknown(gap.clone())),
        None => Err(Wait::Unknown(unseen(&run.begun.instructions().desired.source.to_string()))),
    }
}

fn forward(input: &Input<'_>, run: &Run, effect: Effect, doing: &'static str) -> Next {
    match warrant(input, run) {
        Ok(warrant) => Next::Do { warrant, effect, doing },
        Err(wait) => Next::Wait(wait),
    }
}

fn forward_note(input: &Input<'_>, run: &Run, fact: Fact, doing: &'static str) -> Next {
    match warrant(input, run) {
        Ok(_) => Next::Note(fact, doing),
        Err(wait) => Next::Wait(wait),
    }
}

fn finish(run: &Run, effect: Effect, doing: &'static str) -> Next {
    Next::Do { warrant: Warrant::Begun(Box::new(run.begun.clone())), effect, doing }
}

fn unseen(what: &str) -> Gap {
    Gap {
        reason: format!("{what} was not seen yet"),
        remedy: "`ferry doctor` tells what keeps it from being read".to_owned(),
    }
}

fn begun(input: &Input<'_>, run: &Run) -> Next {
    let vm = &run.begun.instructions().vm;
    if vm.claim == Claim::Impossible {
        return forward_note(input, run, Fact::Unclaimable, "begin");
    }
    if vm.power == Power::On
        && let Err(wait) = power_off(input, run)
    {
        return Next::Wait(wait);
    }
    let token = token(input, run, "claim");
    forward_note(input, run, Fact::ClaimIntended { token }, "claim the source")
}

fn intend_power_off(input: &Input<'_>, run: &Run) -> Next {
    if let Err(wait) = power_off(input, run) {
        return Next::Wait(wait);
    }
    // It may have waited here for days: a VM that somebody turned off meanwhile was not taken down by Ferry.
    if source_power(input, run) == Some(Power::Off) {
        return forward(input, run, Effect::RememberPower, "look at the power state");
    }
    let token = token(input, run, "shutdown");
    forward_note(input, run, Fact::PowerOffIntended { token }, "shut down the source")
}

fn shutting_down(
    input: &Input<'_>,
    run: &Run,
    deadline: Option<jiff::Timestamp>,
    forced: bool,
) -> Next {
    let Some(deadline) = deadline else {
        // Whether the request went out before a crash is not known; under the brake it is not sent (again), only watched.
        return if power_off(input, run).is_ok() {
            finish(run, Effect::ShutDown, "shut down the source")
        } else {
            finish(run, Effect::AwaitOff, "watch the source")
        };
    };
    let desired = &run.begun.instructions().desired;
    if input.now >= deadline && desired.shutdown_force && power_off(input, run).is_ok() {
        // The intent may be older than what has been barred since: the gate is asked every time, and where it is closed the
        // guest is only watched.
        return if forced {
            finish(run, Effect::PowerOff, "cut the source's power")
        } else {
            Next::Note(Fact::ForceIntended, "cut the source's power")
        };
    }
    match source_power(input, run) {
        Some(Power::Off) => finish(run, Effect::AwaitOff, "watch the source"),
        Some(Power::On) | None => Next::Wait(Wait::ShuttingDown { deadline }),
    }
}

/// Goes on from what an earlier attempt kept, where that was made of the same unchanged source for the same place. Else what
/// was kept goes first, and an area is made.
fn prepare(input: &Input<'_>, run: &Run, off: &Off) -> Next {
    let instructions = run.begun.instructions();
    if let Some(Inherited { kept, removing }) = &run.inherited {
        let target = input.observed.targets.get(&instructions.desired.target);
        let Some(seen) = target.and_then(|seen| seen.fresh(input.now)) else {
            let unseen = unseen(&instructions.desired.target.to_string());
            return if *removing {
                finish(run, Effect::Remove, "remove partial disks")
            } else {
                Next::Wait(Wait::Unknown(unseen))
            };
        };
        // A disk that was copied and never found equal may be a bad one, which comparing again does not mend.
        let compared = instructions.desired.verify == Verify::None
            || kept.disks.iter().all(|disk| disk.root.is_none() || disk.verified);
        // Nothing is converted in a VM: somebody may have started that.
        let made = || seen.vms.values().any(|vm| vm.made_by.as_ref() == Some(&kept.area));
        let stands = seen.areas.contains(&kept.area) || (!run.begun.converts() && made());
        // What a conversion was written into is no copy.
        let pristine = kept.disks.iter().all(|disk| !disk.converted);
        // An area that was given up while it was made has no disks that anybody knows of.
        let whole = kept.disks.len() == instructions.vm.disks.len();
        let serves = off.was == Power::Off
            && stands
            && whole
            && compared
            && pristine
            && kept.of == instructions.vm.disks
            && kept.site == instructions.desired.target_site
            && kept.name == instructions.target_name;
        return if *removing {
            finish(run, Effect::Remove, "remove partial disks")
        } else if serves {
            let (area, disks) = (kept.area.clone(), kept.disks.clone());
            let fact = Fact::AreaAdopted { area, disks };
            forward_note(input, run, fact, "go on from an earlier copy")
        } else {
            forward_note(input, run, Fact::RemovalIntended, "remove partial disks")
        };
    }
    let token = token(input, run, "area");
    forward_note(input, run, Fact::AreaIntended { token }, "create disks")
}

/// Goes on once the worker of the phase before has ended.
fn once_ended(
    input: &Input<'_>,
    run: &Run,
    wait: Wait,
    effect: Effect,
    doing: &'static str,
) -> Next {
    match input.observed.workers.get(run.begun.run()) {
        Some(_) if input.now.duration_since(run.since) > WORKER_END_MAX => {
            finish(run, Effect::StopWorker, "end the worker")
        }
        Some(_) => Next::Wait(wait),
        None => forward(input, run, effect, doing),
    }
}

fn copy(input: &Input<'_>, run: &Run) -> Next {
    match working(input, run, "stop the copy", Wait::Copying) {
        Some(next) => next,
        None => forward(input, run, Effect::StartWorker, "copy"),
    }
}

fn convert(input: &Input<'_>, run: &Run) -> Next {
    let next = working(input, run, "stop the conversion", Wait::Converting);
    next.unwrap_or_else(|| match conversion(input, run) {
        Ok(()) => forward(input, run, Effect::StartConversion, "convert the guest"),
        Err(wait) => Next::Wait(wait),
    })
}

/// Starts the VM where its target starts VMs, and leaves it off where that certainly starts nothing.
fn start(input: &Input<'_>, run: &Run) -> Next {
    let target = &run.begun.instructions().desired.target;
    let seen = input.observed.targets.get(target);
    match seen.map(|seen| (seen.fresh(input.now), &seen.state)) {
        Some((Some(TargetState { starts: true, .. }), _)) => {
            let token = token(input, run, "start");
            forward(input, run, Effect::ConfirmStart { token }, "look at the source again")
        }
        Some((Some(TargetState { starts: false, .. }), _)) => {
            forward_note(input, run, Fact::NotStarted, "leave the VM off")
        }
        Some((None, Err(gap))) => Next::Wait(Wait::Unknown(gap.clone())),
        Some((None, Ok(_))) | None => Next::Wait(Wait::Unknown(unseen(&target.to_string()))),
    }
}

/// What becomes of an attempt whose worker runs, or must not run now.
fn working(input: &Input<'_>, run: &Run, stop: &'static str, wait: Wait) -> Option<Next> {
    let stops = match input.observed.brake {
        Brake::Released => false,
        Brake::Held => !run.phase.took_source_down(),
        Brake::Stopping => true,
    };
    Some(match input.observed.workers.get(run.begun.run()) {
        Some(WorkerState::Running) if stops => finish(run, Effect::StopWorker, stop),
        Some(WorkerState::Silent) => finish(run, Effect::EndWorker, "end a worker that hangs"),
        Some(WorkerState::Running | WorkerState::Stopping) => Next::Wait(wait),
        None if stops => Next::Wait(Wait::Brake),
        None => return None,
    })
}

/// The source comes back first, then its mark goes; what was made on the target goes as the plan says.
fn undo(input: &Input<'_>, run: &Run, undo: &Undo) -> Next {
    if input.observed.workers.contains_key(run.begun.run()) {
        return finish(run, Effect::StopWorker, "stop the copy");
    }
    if undo.power_on {
        if undo.powering_on || planted(Bug::PowersOnUnasked) {
            if let Some(deadline) = undo.watch_until.filter(|until| input.now < *until)
                && source_power(input, run) == Some(Power::On)
            {
                return Next::Wait(Wait::ShuttingDown { deadline });
            }
            return finish(run, Effect::PowerOn, "power the source on again");
        }
        if target_is_off(input, run) {
            let token = token(input, run, "power-on");
            return Next::Note(Fact::PowerOnIntended { token }, "power the source on again");
        }
    }
    if undo.area.is_some() && (undo.removing || !run.begun.keeps_area()) {
        return if undo.removing {
            finish(run, Effect::Remove, "remove partial disks")
        } else {
            Next::Note(Fact::RemovalIntended, "remove partial disks")
        };
    }
    if undo.power_on {
        let target = &run.begun.instructions().desired.target;
        return Next::Wait(Wait::Unknown(unseen(&format!("that nothing of it runs on {target}"))));
    }
    if undo.claim.is_some() {
        return finish(run, Effect::Release, "take the mark off the source");
    }
    Next::Note(Fact::Undone, "end the undoing")
}

fn source_power(input: &Input<'_>, run: &Run) -> Option<Power> {
    let seen = input.observed.sources.get(&run.begun.instructions().desired.source)?;
    seen.fresh(input.now)?.vm(&run.begun.run().vm).map(|vm| vm.power)
}

/// Tells whether nothing of ours runs on the target, as just seen (safety rule 9).
fn target_is_off(input: &Input<'_>, run: &Run) -> bool {
    let instructions = run.begun.instructions();
    let seen = input.observed.targets.get(&instructions.desired.target);
    let Some(seen) = seen.and_then(|seen| seen.fresh(input.now)) else { return false };
    match seen.vms.get(&instructions.target_name) {
        None => true,
        // What an attempt of ours did not make is no copy of this VM.
        Some(vm) if vm.made_by.as_ref() != run.area() => true,
        Some(vm) => vm.power == Some(Power::Off),
    }
}
