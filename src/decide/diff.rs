//! The difference between what people want and what was done: which attempts begin, go on, are given up, and why the rest
//! waits.

use std::collections::{BTreeMap, BTreeSet};

use crate::decide::admit::{Relief, Taken, foreign_mark, relief};
use crate::decide::{Action, Decision, Input, Rest, Stand, Standing, Wait, cutover, step};
use crate::desired::{PlanWanted, Request, VmWanted, Wanted};
use crate::domain::id::{MigrationName, PlanName, RunId, SourceVm, VmKey};
use crate::journal::phase::Phase;
use crate::journal::progress::Run;
use crate::journal::record::{Abandon, Entry, Fact, Instructions, RepoFact};
use crate::planted::{Bug, planted};
use crate::policy::{Cleared, Outcome, Verdict};

/// Decides for every attempt that is not over, and returns where each stands by its entry.
pub(super) fn continue_moving(
    input: &Input<'_>,
    decision: &mut Decision,
) -> BTreeMap<VmKey, Stand> {
    let mut stands = BTreeMap::new();
    let named: BTreeSet<&VmKey> = input
        .wanted
        .iter()
        .flat_map(|wanted| wanted.plans.values())
        .flat_map(|plan| plan.vms.iter().map(|vm| &vm.key))
        .collect();
    for run in input.progress.moving() {
        let id = run.begun.run().clone();
        let key = run.begun.instructions().desired.key.clone();
        let state = one_moving(input, run, decision);
        let migration = Some(id.migration);
        let stand = Stand { key: key.clone(), vm: Some(id.vm), migration, state };
        if !named.contains(&key) && !planted(Bug::ForgetsOrphans) {
            decision.stands.push(stand.clone());
        }
        stands.insert(key, stand);
    }
    stands
}

fn one_moving(input: &Input<'_>, run: &Run, decision: &mut Decision) -> Standing {
    let id = run.begun.run();
    let mut note = |fact: Fact, doing: &'static str| {
        decision.notes.push(Entry::Run { run: id.clone(), fact });
        Standing::Acting(doing)
    };
    if input.busy.contains(id) {
        return Standing::Acting(run.phase.name());
    }
    if run.phase.undoable()
        && let Some(why) = given_up(input, run)
    {
        return note(Fact::UndoBegan { why }, "undo");
    }
    if run.phase.undoable()
        && run.phase.took_source_down()
        && let Some(why) = cutover::window_closed(input, run)
    {
        return note(Fact::UndoBegan { why }, "undo");
    }
    match relief(input, run) {
        Relief::Pause(at) => {
            let fault = run.trouble.as_ref().map(|trouble| trouble.fault.clone());
            match fault {
                Some(fault) => return Standing::Waiting(Wait::Retry { at, fault }),
                None => return Standing::Waiting(Wait::Copying),
            }
        }
        Relief::Stall(fault) if run.phase.took_source_down() && run.phase.undoable() => {
            return note(Fact::UndoBegan { why: Abandon::Failed(fault) }, "undo");
        }
        Relief::Stall(fault) => return note(Fact::Stalled(fault), "stall"),
        Relief::Stalled(fault) => return Standing::Waiting(Wait::Stalled(fault)),
        Relief::Mended(why) => return note(Fact::Resumed { why }, "resume"),
        Relief::None => {}
    }
    match step::next(input, run) {
        step::Next::Note(fact, doing) => note(fact, doing),
        step::Next::Do { warrant, effect, doing } => {
            decision.actions.push(Action { run: id.clone(), warrant, effect });
            Standing::Acting(doing)
        }
        step::Next::Wait(wait) => Standing::Waiting(wait),
    }
}

/// Tells why an attempt that can still be undone is to be given up. Absence counts only in a commit that was read
/// (safety rules 8, 15).
fn given_up(input: &Input<'_>, run: &Run) -> Option<Abandon> {
    let wanted = input.wanted?;
    let key = &run.begun.instructions().desired.key;
    let migration = &run.begun.run().migration;
    let request = wanted.requests.iter().find(|request| request.name == *migration);
    let Some(request) = request.filter(|request| request.plan == key.plan) else {
        return Some(Abandon::MigrationGone);
    };
    if request.cancel.contains(&key.vm) {
        return Some(Abandon::Canceled);
    }
    let entry = wanted.plans.get(&key.plan)?.vms.iter().find(|vm| vm.key == *key);
    let Some(entry) = entry else { return Some(Abandon::MigrationGone) };
    let stalled = run.trouble.as_ref().is_some_and(|trouble| trouble.stalled);
    if stalled && !run.phase.took_source_down() {
        let edited = entry
            .desired
            .as_ref()
            .is_some_and(|desired| !desired.wishes(&run.begun.instructions().desired));
        let order = order(input, wanted);
        let newer =
            active(wanted, &order).get(&key.plan).is_some_and(|request| request.name != *migration);
        if edited || newer {
            return Some(Abandon::Superseded);
        }
    }
    None
}

/// Lists the migrations in the order in which they were first seen, new ones last.
fn order(input: &Input<'_>, wanted: &Wanted) -> Vec<MigrationName> {
    let mut order = input.progress.migrations().to_vec();
    let seen: BTreeSet<MigrationName> = order.iter().cloned().collect();
    let new = wanted.requests.iter().map(|request| &request.name);
    order.extend(new.filter(|name| !seen.contains(name)).cloned());
    order
}

/// Returns the newest migration of each plan: the one that counts.
fn active<'a>(wanted: &'a Wanted, order: &[MigrationName]) -> BTreeMap<&'a PlanName, &'a Request> {
    let place: BTreeMap<&MigrationName, usize> =
        order.iter().enumerate().map(|(place, name)| (name, place)).collect();
    let mut active: BTreeMap<&PlanName, &Request> = BTreeMap::new();
    for request in &wanted.requests {
        let newer = active
            .get(&request.plan)
            .is_none_or(|other| place.get(&other.name) < place.get(&request.name));
        if newer {
            active.insert(&request.plan, request);
        }
    }
    active
}

/// What all entries of a decision share.
struct Common<'a> {
    input: &'a Input<'a>,
    moving_vms: BTreeMap<&'a SourceVm, &'a VmKey>,
    moving_migrations: BTreeMap<&'a PlanName, BTreeSet<&'a MigrationName>>,
    last_by_key: BTreeMap<&'a VmKey, &'a Run>,
}

/// Decides for every entry of every plan.
pub(super) fn entries(
    input: &Input<'_>,
    moving_keys: &BTreeMap<VmKey, Stand>,
    decision: &mut Decision,
) {
    let Some(wanted) = input.wanted else { return };
    let order = order(input, wanted);
    for name in &order[input.progress.migrations().len()..] {
        let seen = RepoFact::MigrationSeen { migration: name.clone() };
        decision.notes.push(Entry::Repo(seen));
    }
    cutover::timed(input, &wanted.requests, &mut decision.notes);
    let active = active(wanted, &order);
    let mut common = Common {
        input,
        moving_vms: BTreeMap::new(),
        moving_migrations: BTreeMap::new(),
        last_by_key: BTreeMap::new(),
    };
    for run in input.progress.newest() {
        let key = &run.begun.instructions().desired.key;
        let newer = common.last_by_key.get(key).is_none_or(|other| other.began_at <= run.began_at);
        if newer {
            common.last_by_key.insert(key, run);
        }
        if !run.phase.ended() {
            let id = run.begun.run();
            common.moving_vms.insert(&id.vm, key);
            common.moving_migrations.entry(&key.plan).or_default().insert(&id.migration);
        }
    }
    let mut taken = Taken::count(input);
    let mut begun: BTreeMap<SourceVm, VmKey> = BTreeMap::new();
    let entries = wanted.plans.values().flat_map(|plan| plan.vms.iter().map(move |vm| (plan, vm)));
    for ((plan, entry), verdict) in entries.zip(input.verdicts) {
        assert!(entry.key == verdict.key, "verdicts come in the order of the entries");
        if let Some(stand) = moving_keys.get(&entry.key) {
            decision.stands.push(stand.clone());
            continue;
        }
        let request = active.get(&entry.key.plan).copied();
        let state = common.entry(plan, entry, verdict, request, &mut taken, &mut begun, decision);
        decision.stands.push(Stand {
            key: entry.key.clone(),
            vm: verdict.vm.clone(),
            migration: request.map(|request| request.name.clone()),
            state,
        });
    }
}

impl Common<'_> {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one thing that the entry is held against"
    )]
    fn entry(
        &self,
        plan: &PlanWanted,
        entry: &VmWanted,
        verdict: &Verdict,
        request: Option<&Request>,
        taken: &mut Taken,
        begun: &mut BTreeMap<SourceVm, VmKey>,
        decision: &mut Decision,
    ) -> Standing {
        let runs = match &verdict.vm {
            Some(vm) => self.input.progress.runs(vm),
            None => &[],
        };
        let last = runs.last().or_else(|| self.last_by_key.get(&entry.key).copied());
        if let Some(rest) = resting(plan, entry, request, runs, last) {
            return Standing::Resting(rest);
        }
        let Some(request) = request else { return Standing::Resting(Rest::NoMigration) };
        if let Some(pin) = self.pin(entry, verdict, request, decision) {
            return Standing::Waiting(pin);
        }
        let cleared = match &verdict.outcome {
            Outcome::Cleared(cleared) => cleared,
            Outcome::Blocked => return Standing::Waiting(Wait::Blocked),
            Outcome::Unknown(gap) => return Standing::Waiting(Wait::Unknown(gap.clone())),
        };
        let vm = &cleared.vm().id;
        if let Some(wait) = self.before_begin(entry, request, cleared, begun) {
            return Standing::Waiting(wait);
        }
        let of = (&**cleared.desired(), &**cleared.vm());
        let notes = &mut decision.notes;
        if let Err(wait) = cutover::begin(self.input, plan, request, of, last, notes) {
            return Standing::Waiting(wait);
        }
        if let Err(wait) = taken.admit(self.input, cleared) {
            return Standing::Waiting(wait);
        }
        let attempt = u32::try_from(runs.len()).unwrap_or(u32::MAX).saturating_add(1);
        let run = RunId { vm: vm.clone(), migration: request.name.clone(), attempt };
        begun.insert(vm.clone(), entry.key.clone());
        let fact = Fact::Began(Box::new(self.instructions(cleared)));
        decision.notes.push(Entry::Run { run, fact });
        Standing::Acting("begin")
    }

    fn instructions(&self, cleared: &Cleared) -> Instructions {
        Instructions {
            desired: cleared.desired().clone(),
            vm: cleared.vm().clone(),
            target_name: cleared.target_name().clone(),
            digest: cleared.digest().clone(),
            commit: self.input.commit.clone(),
        }
    }

    /// Holds an entry to the VM that it meant when it was first resolved (safety rule 2).
    fn pin(
        &self,
        entry: &VmWanted,
        verdict: &Verdict,
        request: &Request,
        decision: &mut Decision,
    ) -> Option<Wait> {
        let vm = verdict.vm.as_ref()?;
        match self.input.progress.pin(&entry.key, &request.name) {
            Some((digest, pinned)) if *digest == entry.entry => {
                (pinned != vm).then(|| Wait::Pinned { pinned: pinned.clone() })
            }
            Some(_) | None => {
                decision.notes.push(Entry::Repo(RepoFact::Pinned {
                    key: entry.key.clone(),
                    entry: entry.entry.clone(),
                    migration: request.name.clone(),
                    vm: vm.clone(),
                }));
                None
            }
        }
    }

    /// Tells what a cleared VM has to wait for before it may take a place.
    fn before_begin(
        &self,
        entry: &VmWanted,
        request: &Request,
        cleared: &Cleared,
        begun: &BTreeMap<SourceVm, VmKey>,
    ) -> Option<Wait> {
        let vm = &cleared.vm().id;
        let elsewhere = self.moving_vms.get(vm).copied().or_else(|| begun.get(vm));
        if let Some(key) = elsewhere {
            return Some(Wait::ElsewhereMoving(key.clone()));
        }
        let older = self.moving_migrations.get(&entry.key.plan).and_then(|moving| {
            moving.iter().find(|migration| ***migration != request.name).copied()
        });
        if let Some(older) = older {
            return Some(Wait::Older(older.clone()));
        }
        let seen = self.input.observed.targets.get(&cleared.desired().target);
        let stands = seen
            .and_then(|seen| seen.fresh(self.input.now))
            .and_then(|seen| seen.vms.get(cleared.target_name()));
        if let Some(stands) = stands {
            let ours = stands.made_by.as_ref().is_some_and(|token| {
                self.input.progress.kept_area(vm).is_some_and(|kept| kept == token)
            });
            if !ours {
                return Some(Wait::NameTaken);
            }
        }
        foreign_mark(self.input, cleared.vm(), request.again.contains(&entry.key.vm))
    }
}

/// Tells why nothing is left to do for an entry that does not move, if so.
fn resting(
    plan: &PlanWanted,
    entry: &VmWanted,
    request: Option<&Request>,
    runs: &[Run],
    last: Option<&Run>,
) -> Option<Rest> {
    // Every attempt counts: one that was begun again and undone does not make it unmoved (safety rules 1 and 16).
    let completed: Vec<&Run> = runs
        .iter()
        .chain(last)
        .filter(|run| matches!(run.phase, Phase::Completed { .. }))
        .collect();
    let again = request.is_some_and(|request| {
        request.again.contains(&entry.key.vm)
            && completed.iter().all(|run| run.begun.run().migration != request.name)
    });
    if !completed.is_empty() && !again {
        return Some(Rest::Completed);
    }
    if plan.archived {
        return Some(Rest::Archived);
    }
    let request = request?;
    if request.cancel.contains(&entry.key.vm) {
        return Some(Rest::Canceled);
    }
    // The last attempt that this very migration made decides whether it may try again.
    let own = runs.iter().rev().find(|run| run.begun.run().migration == request.name)?;
    match &own.phase {
        Phase::Undone { why: Abandon::Canceled, .. } => Some(Rest::Canceled),
        Phase::Undone { why: Abandon::MigrationGone, .. } => Some(Rest::Withdrawn),
        Phase::Undone { why: Abandon::Failed(fault), .. } => {
            let before = &own.begun.instructions().desired;
            let edited = entry.desired.as_ref().is_some_and(|desired| !desired.wishes(before));
            (!edited).then(|| Rest::Failed(fault.clone()))
        }
        Phase::Undone { why: Abandon::Superseded, .. } => None,
        Phase::Begun
        | Phase::Claiming { .. }
        | Phase::Claimed { .. }
        | Phase::On { .. }
        | Phase::ShuttingDown { .. }
        | Phase::Off(_)
        | Phase::Preparing { .. }
        | Phase::Copying(_)
        | Phase::Copied(_)
        | Phase::Converting { .. }
        | Phase::Converted(_)
        | Phase::Creating(_)
        | Phase::Created(_)
        | Phase::Starting { .. }
        | Phase::Settling { .. }
        | Phase::Completed { .. }
        | Phase::Undoing(_) => None,
    }
}
