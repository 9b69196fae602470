//! The fold of a whole journal: every attempt with its phase, and what is remembered about the repository.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::domain::id::{
    CommitId, Digest, JournalId, MigrationName, ProviderName, RunId, SourceVm, Token, VmKey, VmName,
};
use crate::journal::pace::{Pace, Recent};
use crate::journal::phase::{Begun, IllegalStep, Kept, Phase, name_of};
use crate::journal::record::{
    CutoverVerdict, Entry, Fact, Fault, Instructions, RECORD_VERSION, Record, RepoFact,
};

/// What went wrong lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// How often in a row.
    pub failures: u32,
    /// When last.
    pub at: Timestamp,
    /// What.
    pub fault: Fault,
    /// Whether nothing is tried any more.
    pub stalled: bool,
}

/// One attempt at one VM.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The proof and the instructions.
    pub begun: Begun,
    /// Where it is.
    pub phase: Phase,
    /// Since when it is there.
    pub since: Timestamp,
    /// When it began.
    pub began_at: Timestamp,
    /// What went wrong in this phase.
    pub trouble: Option<Trouble>,
    /// Each phase that it went through, with the time it was reached, for the report.
    pub trail: Vec<(Timestamp, &'static str)>,
    /// What an earlier attempt left on the target, as long as this one neither goes on from it nor removed it.
    pub inherited: Option<Inherited>,
    /// How fast its source was copied when it began.
    pub pace: Pace,
}

/// What an attempt inherited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// What.
    pub kept: Kept,
    /// Whether the removal was intended.
    pub removing: bool,
}

/// Everything that the journal adds up to.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    journal: JournalId,
    runs: BTreeMap<SourceVm, Vec<Run>>,
    pins: BTreeMap<(VmKey, MigrationName), (Digest, SourceVm)>,
    migrations: Vec<MigrationName>,
    nows: BTreeMap<MigrationName, (Digest, Timestamp)>,
    timed: BTreeMap<MigrationName, BTreeSet<Option<VmName>>>,
    cutovers: BTreeMap<(MigrationName, VmKey), (Timestamp, CutoverVerdict)>,
    accepted: Option<CommitId>,
    adopted: Option<CommitId>,
    files: BTreeMap<String, String>,
    copies: BTreeMap<ProviderName, Recent>,
    revision: u64,
}

/// A journal that cannot be folded.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// A fact does not follow.
    #[error("the journal contradicts itself")]
    Illegal(#[source] IllegalStep),
    /// A newer binary wrote it.
    #[error(
        "the journal holds a record of version {found}, this binary reads up to {RECORD_VERSION}: run the newer ferry"
    )]
    Newer {
        /// The record's version.
        found: u32,
    },
}

impl Progress {
    /// Starts from nothing.
    pub fn new(journal: JournalId) -> Self {
        Self {
            journal,
            runs: BTreeMap::new(),
            pins: BTreeMap::new(),
            migrations: Vec::new(),
            nows: BTreeMap::new(),
            timed: BTreeMap::new(),
            cutovers: BTreeMap::new(),
            accepted: None,
            adopted: None,
            files: BTreeMap::new(),
            copies: BTreeMap::new(),
            revision: 0,
        }
    }

    /// Folds a whole journal.
    pub fn fold<'a>(
        journal: JournalId,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<Self, FoldError> {
        let mut progress = Self::new(journal);
        for record in records {
            if record.version > RECORD_VERSION {
                return Err(FoldError::Newer { found: record.version });
            }
            progress.apply(record.at, &record.entry).map_err(FoldError::Illegal)?;
        }
        Ok(progress)
    }

    /// Folds one more entry.
    pub fn apply(&mut self, at: Timestamp, entry: &Entry) -> Result<(), IllegalStep> {
        self.revision += 1;
        match entry {
            Entry::Run { run, fact } => self.apply_fact(at, run, fact),
            Entry::Repo(fact) => {
                self.apply_repo(at, fact);
                Ok(())
            }
        }
    }

    /// Tells whether a fact may follow, without folding it: what is about to be journaled is judged before it is durable.
    pub fn admits(&self, at: Timestamp, run: &RunId, fact: &Fact) -> Result<(), IllegalStep> {
        let attempts = self.runs.get(&run.vm).cloned().into_iter();
        let mut alone = Self {
            runs: attempts.map(|runs| (run.vm.clone(), runs)).collect(),
            ..Self::new(self.journal.clone())
        };
        alone.apply_fact(at, run, fact)
    }

    fn apply_fact(&mut self, at: Timestamp, id: &RunId, fact: &Fact) -> Result<(), IllegalStep> {
        let runs = self.runs.entry(id.vm.clone()).or_default();
        let illegal =
            |phase: &'static str| IllegalStep { run: id.clone(), phase, fact: name_of(fact) };
        if let Fact::Began(instructions) = fact {
            if runs.last().is_some_and(|run| !run.phase.ended())
                || usize_of(id.attempt) != runs.len() + 1
            {
                return Err(illegal("an attempt that is not over"));
            }
            let kept = match runs.last_mut().map(|run| &mut run.phase) {
                Some(Phase::Undone { kept, .. }) => kept.take(),
                _ => None,
            };
            let inherited = kept.map(|kept| Inherited { kept, removing: false });
            let begun = Begun { run: id.clone(), instructions: instructions.clone() };
            let trail = vec![(at, Phase::Begun.name())];
            let pace = self.copies.get(&begun.instructions.desired.source);
            let pace = pace.map_or(Pace::ASSUMED, Recent::pace);
            runs.push(Run {
                begun,
                phase: Phase::Begun,
                since: at,
                began_at: at,
                trouble: None,
                trail,
                inherited,
                pace,
            });
            return Ok(());
        }
        let Some(run) = runs.last_mut().filter(|run| run.begun.run == *id) else {
            return Err(illegal("none"));
        };
        let copying_since = matches!(run.phase, Phase::Copying(_)).then_some(run.since);
        run.apply(at, fact).ok_or_else(|| illegal(run.phase.name()))?;
        // A later attempt goes on from what an earlier one copied: its time tells nothing.
        if let (Some(since), Phase::Copied(_), 1) = (copying_since, &run.phase, id.attempt) {
            let Instructions { desired, vm, .. } = &*run.begun.instructions;
            let copies = self.copies.entry(desired.source.clone()).or_default();
            copies.add(vm.to_copy(), at.duration_since(since));
        }
        Ok(())
    }

    fn apply_repo(&mut self, at: Timestamp, fact: &RepoFact) {
        match fact {
            RepoFact::Accepted { commit } => self.accepted = Some(commit.clone()),
            RepoFact::Adopted { commit } => {
                self.adopted = Some(commit.clone());
                self.accepted = Some(commit.clone());
            }
            RepoFact::Pinned { key, entry, migration, vm } => {
                self.pins.insert((key.clone(), migration.clone()), (entry.clone(), vm.clone()));
            }
            RepoFact::MigrationSeen { migration } => {
                if !self.migrations.contains(migration) {
                    self.migrations.push(migration.clone());
                }
            }
            RepoFact::NowSeen { migration, digest } => {
                self.nows.insert(migration.clone(), (digest.clone(), at));
            }
            RepoFact::Timed { migration, vm } => {
                self.timed.entry(migration.clone()).or_default().insert(vm.clone());
            }
            RepoFact::Cutover { migration, key, time, verdict } => {
                self.cutovers.insert((migration.clone(), key.clone()), (*time, verdict.clone()));
            }
            RepoFact::LastGood { file, blob } => {
                self.files.insert(file.clone(), blob.clone());
            }
            RepoFact::FileGone { file } => {
                self.files.remove(file);
            }
        }
    }

    /// Returns the journal's own id.
    pub fn journal(&self) -> &JournalId {
        &self.journal
    }

    /// Counts the entries that were folded.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Tells whether nothing was ever recorded.
    pub fn is_empty(&self) -> bool {
        self.revision == 0
    }

    /// Returns how fast a source is copied.
    pub fn pace(&self, source: &ProviderName) -> Pace {
        self.copies.get(source).map_or(Pace::ASSUMED, Recent::pace)
    }

    /// Returns all attempts at a VM, the oldest first.
    pub fn runs(&self, vm: &SourceVm) -> &[Run] {
        self.runs.get(vm).map_or(&[], Vec::as_slice)
    }

    /// Returns all attempts at all VMs.
    pub fn attempts(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().flatten()
    }

    /// Returns the newest attempt at each VM.
    pub fn newest(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().filter_map(|runs| runs.last())
    }

    /// Returns the attempts that are not over.
    pub fn moving(&self) -> impl Iterator<Item = &Run> {
        self.newest().filter(|run| !run.phase.ended())
    }

    /// Returns the VM that an entry was pinned to for a migration, with the digest of the entry's text.
    pub fn pin(&self, key: &VmKey, migration: &MigrationName) -> Option<&(Digest, SourceVm)> {
        self.pins.get(&(key.clone(), migration.clone()))
    }

    /// Returns the migrations in the order in which they were first seen.
    pub fn migrations(&self) -> &[MigrationName] {
        &self.migrations
    }

    /// Returns when this version of a migration that says `now` was first seen.
    pub fn now_seen(&self, migration: &MigrationName, digest: &Digest) -> Option<Timestamp> {
        let (seen, at) = self.nows.get(migration)?;
        (seen == digest).then_some(*at)
    }

    /// Returns for which VMs a migration ever named a time; `None` stands for all of them.
    pub fn timed(&self, migration: &MigrationName) -> &BTreeSet<Option<VmName>> {
        static NONE: BTreeSet<Option<VmName>> = BTreeSet::new();
        self.timed.get(migration).unwrap_or(&NONE)
    }

    /// Tells whether a migration ever named a time for a VM.
    pub fn was_timed(&self, migration: &MigrationName, vm: &VmName) -> bool {
        let timed = self.timed(migration);
        timed.contains(&None) || timed.contains(&Some(vm.clone()))
    }

    /// Returns what became of the time at which a migration cuts an entry over.
    pub fn cutover(
        &self,
        migration: &MigrationName,
        key: &VmKey,
        time: Timestamp,
    ) -> Option<&CutoverVerdict> {
        let (of, verdict) = self.cutovers.get(&(migration.clone(), key.clone()))?;
        (*of == time).then_some(verdict)
    }

    /// Returns the marks that the attempts at a VM write on its source, with the attempts.
    pub fn claim_tokens(&self, vm: &SourceVm) -> impl Iterator<Item = (Token, &Run)> {
        let token = |run: &Run| Token::derive(&self.journal, run.begun.run(), "claim");
        self.runs(vm).iter().map(move |run| (token(run), run))
    }

    /// Returns the area that the last attempt at a VM kept on the target.
    pub fn kept_area(&self, vm: &SourceVm) -> Option<&Token> {
        match &self.runs(vm).last()?.phase {
            Phase::Undone { kept: Some(kept), .. } => Some(&kept.area),
            _ => None,
        }
    }

    /// Returns the areas of everything that this journal made and may still stand on a target.
    pub fn areas(&self) -> impl Iterator<Item = &Token> {
        self.attempts().filter_map(Run::area)
    }

    /// Returns the commit that counts.
    pub fn accepted(&self) -> Option<&CommitId> {
        self.accepted.as_ref()
    }

    /// Returns the last commit that a person accepted by hand.
    pub fn adopted(&self) -> Option<&CommitId> {
        self.adopted.as_ref()
    }

    /// Returns the last good blob of each file.
    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }
}

impl Run {
    /// Returns the area on the target that the attempt has to care for.
    pub fn area(&self) -> Option<&Token> {
        self.phase.area().or(self.inherited.as_ref().map(|inherited| &inherited.kept.area))
    }

    /// Returns what is to be removed from the target now.
    pub fn to_remove(&self) -> Option<&Kept> {
        match &self.phase {
            Phase::Undoing(undo) => undo.area.as_ref().filter(|_| undo.removing),
            _ => self.inherited.as_ref().filter(|left| left.removing).map(|left| &left.kept),
        }
    }

    /// Notes what becomes of what was inherited; `None` where the fact does not follow. `Some(true)` where nothing else
    /// follows from it.
    fn inherit(&mut self, fact: &Fact) -> Option<bool> {
        let off = matches!(self.phase, Phase::Off(_));
        match (fact, &mut self.inherited) {
            (Fact::RemovalIntended, Some(left)) if off => {
                left.removing = true;
                Some(true)
            }
            (Fact::AreaRemoved, Some(left)) if off && left.removing => {
                self.inherited = None;
                Some(true)
            }
            // What is being removed is not gone on with, nor what has no disks, and no second area is made beside it.
            (Fact::AreaAdopted { area, disks }, Some(left)) => {
                let whole = disks.len() == self.begun.instructions.vm.disks.len();
                (left.kept.area == *area && !left.removing && whole).then_some(false)
            }
            (Fact::AreaAdopted { .. }, None) | (Fact::AreaIntended { .. }, Some(_)) => None,
            _ => Some(false),
        }
    }

    fn apply(&mut self, at: Timestamp, fact: &Fact) -> Option<()> {
        match fact {
            Fact::Tried(fault) => {
                let failures = self.trouble.as_ref().map_or(0, |trouble| trouble.failures) + 1;
                let stalled = self.trouble.as_ref().is_some_and(|trouble| trouble.stalled);
                (!stalled && !self.phase.ended()).then_some(())?;
                self.trouble = Some(Trouble { failures, at, fault: fault.clone(), stalled });
            }
            Fact::Stalled(fault) => {
                (!self.phase.ended()).then_some(())?;
                let failures = self.trouble.as_ref().map_or(0, |trouble| trouble.failures);
                self.trouble = Some(Trouble { failures, at, fault: fault.clone(), stalled: true });
            }
            Fact::Resumed { .. } => {
                self.trouble.take_if(|trouble| trouble.stalled)?;
            }
            _ => {
                let before = self.phase.name();
                if self.inherit(fact)? {
                    self.trouble = None;
                    return Some(());
                }
                self.phase = self.phase.clone().after(&self.begun, at, fact)?;
                self.trouble = None;
                if matches!(fact, Fact::AreaAdopted { .. }) {
                    self.inherited = None;
                }
                if let Phase::Undoing(undo) = &mut self.phase
                    && let Some(left) = self.inherited.take()
                {
                    (undo.area, undo.removing) = (Some(left.kept), left.removing);
                }
                if self.phase.name() != before {
                    self.since = at;
                    self.trail.push((at, self.phase.name()));
                }
            }
        }
        Some(())
    }
}

fn usize_of(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
