//! What must hold at every moment of a simulated run, whatever went wrong before. Each answers with a sentence where it does
//! not, and holds the controller against what was really done, not against what it was told.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::convert::converted;
use super::history::{Actor, Deed, What};
use super::image::leaf_of;
use super::source::SimVm;
use super::{CutoverIntent, MigrationIntent, SimWorld, State};
use crate::domain::id::{CommitId, RunId, SourceVm, Token, VmName};
use crate::domain::vm::{Claim, Power};
use crate::journal::phase::{Area, Phase, name_of};
use crate::journal::progress::{Progress, Run};
use crate::journal::record::{Abandon, CutoverVerdict, Entry, Fact, RepoFact};

/// A named invariant over a world and what its controller believes.
pub type Invariant = fn(&SimWorld, &Progress) -> Result<(), String>;

/// All of them, by name.
pub const ALL: [(&str, Invariant); 12] = [
    ("target equals source", invariant_target_equals_source),
    ("never on at both ends", invariant_never_on_at_both_ends),
    ("nothing twice", invariant_nothing_twice),
    ("intent before effect", invariant_intent_before_effect),
    ("no checkpoint before durability", invariant_no_checkpoint_before_durability),
    ("fold is stepwise", invariant_fold_is_stepwise),
    ("nothing unvalidated moves", invariant_nothing_unvalidated_moves),
    ("absence never acts", invariant_absence_never_acts),
    ("source restored", invariant_source_restored),
    ("no leftovers", invariant_no_leftovers),
    ("only in its window", invariant_only_in_its_window),
    ("missed is missed", invariant_missed_is_missed),
];

/// Asks all of them.
pub fn check(world: &SimWorld, progress: &Progress) -> Result<(), String> {
    for (name, invariant) in ALL {
        invariant(world, progress).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

/// A VM that was made on the target holds what its source held when it was last seen off, and all of it is durable.
pub fn invariant_target_equals_source(world: &SimWorld, progress: &Progress) -> Result<(), String> {
    let state = world.lock();
    for vm in &state.vms {
        for run in progress.runs(&vm.id) {
            let (Phase::Starting { area, .. }
            | Phase::Settling { area, .. }
            | Phase::Completed { area }) = &run.phase
            else {
                continue;
            };
            let last =
                |fact: &Fact| matches!(fact, Fact::CreateIntended | Fact::StartIntended { .. });
            let facts = state.facts_of(run.begun.run());
            let confirmed = facts.into_iter().rfind(|(_, fact)| last(fact));
            let Some((record, _)) = confirmed else {
                return Err(format!("{} was made without an intent", vm.name));
            };
            let change = vm.change_before(record).ok_or("a VM has no beginning")?;
            if change.power == Power::On {
                return Err(format!("{} ran at its source when its copy was confirmed", vm.name));
            }
            let converts = run.begun.converts();
            state
                .equal(area, &change.content, converts)
                .map_err(|why| format!("{}: {why}", vm.name))?;
        }
    }
    Ok(())
}

/// Ferry starts nothing whose source runs, and powers no source on whose target runs.
pub fn invariant_never_on_at_both_ends(world: &SimWorld, _: &Progress) -> Result<(), String> {
    for deed in world.lock().ferry_deeds() {
        match &deed.what {
            What::Started { vm, source_ran: true, .. } => {
                return Err(format!("{vm} was started on the target while its source ran"));
            }
            What::WentOn { vm, target_ran: true } => {
                return Err(format!("{vm} was powered on while it ran on the target"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// An attempt intends each thing once, does each thing once, and no two attempts share a token. Two areas are two things: an
/// attempt may take away what an earlier one left, and be undone itself.
pub fn invariant_nothing_twice(world: &SimWorld, progress: &Progress) -> Result<(), String> {
    let state = world.lock();
    let mut intended = BTreeSet::new();
    let mut tokens = BTreeSet::new();
    let mut areas: BTreeMap<&RunId, usize> = BTreeMap::new();
    for (_, run, fact) in state.facts() {
        let area = areas.entry(run).or_default();
        if matches!(fact, Fact::AreaRemoved) {
            *area += 1;
        }
        let Some(token) = intent_of(fact) else { continue };
        let of = if matches!(fact, Fact::RemovalIntended) { *area } else { 0 };
        if !intended.insert((run, name_of(fact), of)) {
            return Err(format!("{run} intended {} twice", name_of(fact)));
        }
        if token.is_some_and(|token| !tokens.insert(token)) {
            return Err(format!("{run} took a token that was taken for {}", name_of(fact)));
        }
    }
    let mut done = BTreeSet::new();
    for deed in state.ferry_deeds() {
        let (What::DisksCreated { area, .. }
        | What::VmCreated { area, .. }
        | What::Started { area, .. }
        | What::Removed { area, .. }) = &deed.what
        else {
            continue;
        };
        if !done.insert((deed.what.name(), area)) {
            return Err(format!("{area} was {} twice", deed.what.name()));
        }
    }
    for vm in &state.vms {
        for run in progress.runs(&vm.id) {
            state.shut_down_once(vm, run)?;
        }
    }
    Ok(())
}

/// What Ferry does that must not repeat, or that cannot be taken back, was journaled as an intent of the attempt that moves.
pub fn invariant_intent_before_effect(world: &SimWorld, _: &Progress) -> Result<(), String> {
    let state = world.lock();
    for deed in state.ferry_deeds() {
        let vm = deed.what.vm();
        let facts = state.facts().filter(|(index, run, _)| *index < deed.records && run.vm == *vm);
        let facts: Vec<&Fact> = facts.map(|(_, _, fact)| fact).collect();
        let began = facts.iter().rposition(|fact| matches!(fact, Fact::Began(_)));
        let attempt = &facts[began.unwrap_or(facts.len())..];
        if !attempt.iter().any(|fact| announces(fact, &deed.what)) {
            return Err(format!("{vm} was {} without an intent", deed.what.name()));
        }
    }
    Ok(())
}

/// A checkpoint was said after everything before it was durable, and as long as the source stays off that is what it holds.
pub fn invariant_no_checkpoint_before_durability(
    world: &SimWorld,
    progress: &Progress,
) -> Result<(), String> {
    let state = world.lock();
    if let Some(slip) = state.slips.first() {
        return Err(slip.clone());
    }
    for vm in &state.vms {
        let Some(run) = progress.runs(&vm.id).last() else { continue };
        // As long as nothing is committed a conversion leaves the disks as they were copied.
        let (Phase::Copying(area)
        | Phase::Copied(area)
        | Phase::Converting { area, uncommitted: None }
        | Phase::Creating(area)) = &run.phase
        else {
            continue;
        };
        let pristine = !(matches!(run.phase, Phase::Creating(_)) && run.begun.converts());
        let off = |fact: &Fact| matches!(fact, Fact::SourceOff | Fact::PowerRemembered { .. });
        let facts = state.facts_of(run.begun.run());
        let Some((record, _)) = facts.into_iter().rfind(|(_, fact)| off(fact)) else { continue };
        if vm.went_on_after(record) {
            continue;
        }
        for (copy, content) in area.disks.iter().zip(&vm.disks).filter(|_| pristine) {
            let leaves = match (&copy.root, &copy.checkpoint) {
                (Some(_), _) => content.len(),
                (None, Some(checkpoint)) => leaf_of(&checkpoint.resume).unwrap_or(content.len()),
                (None, None) => 0,
            };
            let disk = state.target.disks.get(&copy.target.0);
            let why = match disk {
                Some(disk) => disk.difference(content, leaves),
                None => Some("it is not there".to_owned()),
            };
            if let Some(why) = why {
                return Err(format!("{} has a checkpoint and {why}", copy.target.0));
            }
        }
    }
    Ok(())
}

/// What the controller believes is what its journal adds up to from nothing.
pub fn invariant_fold_is_stepwise(world: &SimWorld, progress: &Progress) -> Result<(), String> {
    let state = world.lock();
    let folded = Progress::fold(state.journal_id.clone(), &state.records);
    let folded = folded.map_err(|error| format!("the journal does not fold: {error:?}"))?;
    if folded == *progress {
        return Ok(());
    }
    for vm in state.vms.iter().map(|vm| &vm.id) {
        let phases = |progress: &Progress| -> Vec<&'static str> {
            progress.runs(vm).iter().map(|run| run.phase.name()).collect()
        };
        if phases(&folded) != phases(progress) {
            let (journal, believed) = (phases(&folded), phases(progress));
            return Err(format!("{vm} is {journal:?} by the journal, {believed:?} is believed"));
        }
    }
    Err("the journal adds up to something else than what is believed".to_owned())
}

/// An attempt begins only at a VM that a commit, taken for what people want, lets a migration move.
pub fn invariant_nothing_unvalidated_moves(world: &SimWorld, _: &Progress) -> Result<(), String> {
    let state = world.lock();
    for (index, run, fact) in state.facts() {
        if !matches!(fact, Fact::Began(_)) {
            continue;
        }
        let name = state.name_of(&run.vm)?;
        let wanted = state.accepted_before(index).into_iter().any(|(_, commit)| {
            let intent = state.repo.commits.get(commit).map(|commit| &commit.intent);
            let asked = intent.and_then(|intent| intent.migrations.get(&run.migration));
            asked.is_some_and(|asked| asked.movable.contains(&name))
        });
        if !wanted {
            return Err(format!("{run} began, and no commit lets {} move {name}", run.migration));
        }
    }
    Ok(())
}

/// An attempt is given up because of git only where a commit that counts says so, and a commit counts only where it follows
/// the one before, or a person accepted it.
pub fn invariant_absence_never_acts(world: &SimWorld, _: &Progress) -> Result<(), String> {
    let state = world.lock();
    state.each_commit_follows()?;
    for (index, run, fact) in state.facts() {
        let Fact::UndoBegan { why } = fact else { continue };
        let name = state.name_of(&run.vm)?;
        let began = state.facts_of(run).into_iter().map(|(index, _)| index).next().unwrap_or(index);
        // The commit that counted when the attempt began counts on.
        let before = state.accepted_before(began).into_iter().next_back();
        let since = state.accepted_before(index).into_iter().filter(|(at, _)| *at > began);
        let said = before.into_iter().chain(since).any(|(_, commit)| {
            let Some(commit) = state.repo.commits.get(commit) else { return false };
            match why {
                Abandon::Canceled => {
                    commit.intent.canceled.contains(&(run.migration.clone(), name.clone()))
                }
                Abandon::MigrationGone => {
                    let asked = commit.intent.migrations.get(&run.migration);
                    asked.is_none_or(|asked| {
                        asked.listed.as_ref().is_some_and(|listed| !listed.contains(&name))
                    })
                }
                Abandon::Superseded | Abandon::Failed(_) => true,
            }
        });
        if !said {
            return Err(format!("{run} was given up ({why:?}), and no commit says so"));
        }
    }
    Ok(())
}

/// An attempt that was undone left its source as it was found: on, if it was on, and without its mark.
pub fn invariant_source_restored(world: &SimWorld, progress: &Progress) -> Result<(), String> {
    let state = world.lock();
    for vm in &state.vms {
        for run in progress.runs(&vm.id) {
            let Phase::Undone { .. } = run.phase else { continue };
            let facts = state.facts_of(run.begun.run());
            if still_marked(vm, &facts) {
                return Err(format!("{} is undone and its mark stands", run.begun.run()));
            }
            let taken_down =
                |(_, fact): &&(usize, &Fact)| matches!(fact, Fact::PowerOffIntended { .. });
            if facts.iter().find(taken_down).is_none() {
                continue;
            }
            let next = state.next_shutdown(&vm.id, run.begun.run());
            let change = vm.change_before(next).ok_or("a VM has no beginning")?;
            if change.power == Power::Off && change.actor != Actor::Person {
                return Err(format!("{} is undone and left its source off", run.begun.run()));
            }
        }
    }
    Ok(())
}

/// Tells whether a VM carries the mark of an attempt that is over, and was there to be rid of it. The mark of a VM that was
/// gone goes with it; should it come back, `ferry doctor --leftovers` lists the mark and the next attempt takes it over.
fn still_marked(vm: &SimVm, facts: &[(usize, &Fact)]) -> bool {
    let Claim::Held(held) = &vm.claim else { return false };
    let ours =
        |fact: &Fact| matches!(fact, Fact::ClaimIntended { token } if token.as_str() == held);
    let released = |(at, fact): &(usize, &Fact)| matches!(fact, Fact::ClaimReleased).then_some(*at);
    facts.iter().any(|(_, fact)| ours(fact))
        && facts.iter().find_map(released).is_none_or(|record| vm.was_there(record))
}

/// An attempt that is over left nothing that nobody will take care of: no worker, no area but one that is kept for the next
/// attempt, no mark that is not a done mark.
pub fn invariant_no_leftovers(world: &SimWorld, progress: &Progress) -> Result<(), String> {
    let state = world.lock();
    for run in state.workers.iter().filter(|(_, worker)| worker.copies()).map(|(run, _)| run) {
        let run_now = progress.runs(&run.vm).iter().find(|other| other.begun.run() == run);
        if run_now.is_none_or(|run| run.phase.ended()) {
            return Err(format!("a worker still copies for {run}, which is over"));
        }
    }
    for (token, area) in &state.target.areas {
        let runs = progress.runs(&area.vm);
        let Some(newest) = runs.last() else {
            return Err(format!("{token} stands on the target, and nothing of {} began", area.vm));
        };
        let cared_for = if newest.phase.ended() {
            newest.area() == Some(token) || runs.iter().any(|run| completed_with(run, token))
        } else {
            runs.iter().any(|run| run.area() == Some(token))
        };
        if !cared_for {
            return Err(format!("{token} of {} stands on the target, and nobody cares", area.vm));
        }
    }
    for vm in &state.vms {
        for run in progress.runs(&vm.id).iter().filter(|run| run.phase.ended()) {
            if still_marked(vm, &state.facts_of(run.begun.run())) {
                return Err(format!("{} is over and its mark stands", run.begun.run()));
            }
        }
    }
    Ok(())
}

/// An attempt begins, and a source is taken down, only while the window of the plan is open by the commit that counts.
pub fn invariant_only_in_its_window(world: &SimWorld, _: &Progress) -> Result<(), String> {
    let state = world.lock();
    for (index, run, fact) in state.facts() {
        if !matches!(fact, Fact::Began(_) | Fact::PowerOffIntended { .. }) {
            continue;
        }
        let Some(asked) = state.asked(index, run) else { continue };
        let (at, second) = state.when(index);
        if asked.open_min.is_some_and(|minutes| second >= i64::from(minutes) * 60) {
            return Err(format!("{run} {} at {at}, outside of its window", name_of(fact)));
        }
    }
    Ok(())
}

/// An attempt begins at the time that the commit which counts names, or shortly after, or later where it was due then; never
/// at a time that was missed.
pub fn invariant_missed_is_missed(world: &SimWorld, _: &Progress) -> Result<(), String> {
    let state = world.lock();
    for (index, run, fact) in state.facts() {
        if !matches!(fact, Fact::Began(_)) {
            continue;
        }
        let Some(asked) = state.asked(index, run) else { continue };
        let name = state.name_of(&run.vm)?;
        let (at, _) = state.when(index);
        let verdicts = state.records[..index].iter().filter_map(|record| match &record.entry {
            Entry::Repo(RepoFact::Cutover { migration, key, time, verdict })
                if *migration == run.migration && key.vm == name =>
            {
                Some((record.at, *time, verdict))
            }
            _ => None,
        });
        let verdicts: Vec<_> = verdicts.collect();
        match asked.cutover {
            CutoverIntent::AtOnce | CutoverIntent::Now => {}
            CutoverIntent::Never => return Err(format!("{run} began, and is postponed")),
            CutoverIntent::At(time) if at < time => {
                return Err(format!("{run} began at {at}, before {time}"));
            }
            CutoverIntent::At(time) => {
                let last = time + LATENESS;
                let due = |verdict: &CutoverVerdict| *verdict == CutoverVerdict::Due;
                let was_due = verdicts
                    .iter()
                    .any(|(at, of, verdict)| *of == time && due(verdict) && *at <= last);
                let missed = verdicts.iter().any(|(_, of, verdict)| *of == time && !due(verdict));
                if missed || (at > last && !was_due) {
                    return Err(format!("{run} began at {at}, and {time} was missed"));
                }
            }
        }
    }
    Ok(())
}

/// How late a time may be: the default of the setting.
const LATENESS: SignedDuration = SignedDuration::from_mins(15);

impl State {
    /// Returns what the commit that counted at a record asks of an attempt's migration.
    fn asked(&self, index: usize, run: &RunId) -> Option<&MigrationIntent> {
        let (_, commit) = self.accepted_before(index).into_iter().next_back()?;
        self.repo.commits.get(commit)?.intent.migrations.get(&run.migration)
    }

    /// Returns when a record was written, and in which second of its hour.
    fn when(&self, index: usize) -> (Timestamp, i64) {
        let at = self.records[index].at;
        (at, at.as_second().rem_euclid(3600))
    }

    /// Lists what the journal says of attempts: the record's number, the attempt, the fact.
    fn facts(&self) -> impl Iterator<Item = (usize, &RunId, &Fact)> {
        self.records.iter().enumerate().filter_map(|(index, record)| match &record.entry {
            Entry::Run { run, fact } => Some((index, run, fact)),
            Entry::Repo(_) => None,
        })
    }

    fn facts_of(&self, run: &RunId) -> Vec<(usize, &Fact)> {
        let facts = self.facts().filter(|(_, other, _)| *other == run);
        facts.map(|(index, _, fact)| (index, fact)).collect()
    }

    fn ferry_deeds(&self) -> impl Iterator<Item = &Deed> {
        self.deeds.iter().filter(|deed| deed.actor == Actor::Ferry)
    }

    fn name_of(&self, vm: &SourceVm) -> Result<VmName, String> {
        let found = self.vms.iter().find(|other| other.id == *vm);
        let found = found.ok_or_else(|| format!("the source never had a VM {vm}"))?;
        Ok(VmName::new(found.name.clone()))
    }

    /// Lists the commits that counted up to a record, with the record's number.
    fn accepted_before(&self, index: usize) -> Vec<(usize, &CommitId)> {
        let records = self.records.iter().take(index).enumerate();
        let commits = records.filter_map(|(index, record)| match &record.entry {
            Entry::Repo(RepoFact::Accepted { commit } | RepoFact::Adopted { commit }) => {
                Some((index, commit))
            }
            Entry::Repo(_) | Entry::Run { .. } => None,
        });
        commits.collect()
    }

    fn each_commit_follows(&self) -> Result<(), String> {
        let mut before: Option<&CommitId> = None;
        for record in &self.records {
            match &record.entry {
                Entry::Repo(RepoFact::Accepted { commit }) => {
                    let follows = before.is_none_or(|before| self.repo.descends(before, commit));
                    if !follows {
                        return Err(format!("{commit} was followed, and the branch was rewound"));
                    }
                    let files = |id: &CommitId| {
                        self.repo.commits.get(id).map_or(0, |commit| commit.files.len())
                    };
                    if before.is_some_and(|before| files(before) > 0) && files(commit) == 0 {
                        return Err(format!("{commit} was followed, and the path was emptied"));
                    }
                    before = Some(commit);
                }
                Entry::Repo(RepoFact::Adopted { commit }) => before = Some(commit),
                Entry::Repo(_) | Entry::Run { .. } => {}
            }
        }
        Ok(())
    }

    fn equal(&self, area: &Area, content: &[Vec<u8>], converts: bool) -> Result<(), String> {
        if area.disks.len() != content.len() {
            return Err(format!("{} disks instead of {}", area.disks.len(), content.len()));
        }
        for (copy, content) in area.disks.iter().zip(content) {
            let disk = self.target.disks.get(&copy.target.0);
            let disk = disk.ok_or_else(|| format!("{} is gone", copy.target.0))?;
            let expected = if converts { converted(content) } else { content.clone() };
            if let Some(why) = disk.difference(&expected, expected.len()) {
                return Err(format!("{}: {why}", copy.target.0));
            }
        }
        Ok(())
    }

    /// Finds the record with which the next attempt at a VM intends to shut it down, else the end of the journal.
    fn next_shutdown(&self, vm: &SourceVm, run: &RunId) -> usize {
        let later = |other: &RunId| other.vm == *vm && other.attempt > run.attempt;
        let mut facts = self.facts();
        let next = facts
            .find(|(_, other, fact)| later(other) && matches!(fact, Fact::PowerOffIntended { .. }));
        next.map_or(self.records.len(), |(index, _, _)| index)
    }

    /// Ferry takes a VM down at most once in an attempt, but for one that somebody powered on meanwhile.
    fn shut_down_once(&self, vm: &SimVm, run: &Run) -> Result<(), String> {
        let intended = self.facts_of(run.begun.run()).into_iter().find_map(|(index, fact)| {
            matches!(fact, Fact::PowerOffIntended { .. }).then_some(index)
        });
        let Some(first) = intended else { return Ok(()) };
        let next = self.next_shutdown(&vm.id, run.begun.run());
        let within =
            |change: &&super::source::PowerChange| change.records > first && change.records <= next;
        let mut down = 0;
        for change in vm.changes.iter().filter(within) {
            match (change.power, change.actor) {
                (Power::Off, Actor::Ferry | Actor::Guest) => down += 1,
                (Power::On, Actor::Person) => down = 0,
                (Power::Off, Actor::Person) | (Power::On, Actor::Ferry | Actor::Guest) => {}
            }
            if down > 1 {
                return Err(format!("{} took its source down twice", run.begun.run()));
            }
        }
        Ok(())
    }
}

fn completed_with(run: &Run, token: &Token) -> bool {
    matches!(&run.phase, Phase::Completed { area } if area.token == *token)
}

/// Returns the token of an intent, where it has one; `None` if the fact is no intent.
#[expect(clippy::option_option, reason = "an intent without a token is not the same as no intent")]
fn intent_of(fact: &Fact) -> Option<Option<&Token>> {
    match fact {
        Fact::ClaimIntended { token }
        | Fact::PowerOffIntended { token }
        | Fact::AreaIntended { token }
        | Fact::StartIntended { token }
        | Fact::PowerOnIntended { token } => Some(Some(token)),
        Fact::ForceIntended | Fact::CreateIntended | Fact::RemovalIntended => Some(None),
        _ => None,
    }
}

/// Tells whether a fact lets a deed of Ferry be done.
fn announces(fact: &Fact, what: &What) -> bool {
    match what {
        What::ShutdownAsked { .. } => matches!(fact, Fact::PowerOffIntended { .. }),
        What::WentOff { .. } => matches!(fact, Fact::ForceIntended),
        What::WentOn { .. } => matches!(fact, Fact::PowerOnIntended { .. }),
        What::Claimed { token, .. } => {
            matches!(fact, Fact::ClaimIntended { token: intended } if intended == token)
        }
        What::Released { .. } => {
            matches!(fact, Fact::UndoBegan { .. } | Fact::ClaimIntended { .. })
        }
        What::Migrated { .. } => matches!(fact, Fact::VmCreated),
        What::DisksCreated { area, .. } => {
            matches!(fact, Fact::AreaIntended { token } if token == area)
        }
        What::VmCreated { .. } => matches!(fact, Fact::CreateIntended),
        What::Started { .. } => matches!(fact, Fact::StartIntended { .. }),
        What::Removed { .. } => matches!(fact, Fact::RemovalIntended),
    }
}

#[cfg(test)]
#[path = "invariant_tests.rs"]
mod tests;
