//! The simulated journal: what `append` returned for is there after every crash.

use jiff::Timestamp;

use super::SimWorld;
use super::chance::{Call, Mishap};
use crate::domain::id::JournalId;
use crate::journal::record::{Entry, Mend, RECORD_VERSION, Record};
use crate::port::{JournalStore, PortError};

/// The journal of a simulated world.
#[derive(Debug)]
pub struct SimJournal {
    world: SimWorld,
}

impl SimWorld {
    /// Opens the journal.
    pub fn journal(&self) -> SimJournal {
        SimJournal { world: self.clone() }
    }

    /// Lets the state folder be full, or not any more.
    pub fn journal_full(&self, full: bool) {
        self.lock().journal_full = full;
    }
}

impl JournalStore for SimJournal {
    fn id(&self) -> JournalId {
        self.world.lock().journal_id.clone()
    }

    fn read(&self) -> Result<Vec<Record>, PortError> {
        self.world.call(Call::JournalRead, |state| Ok(state.records.clone()))
    }

    fn append(&mut self, at: Timestamp, entries: &[Entry]) -> Result<(), PortError> {
        let mut state = self.world.lock();
        if state.crashed {
            return Err(super::crash());
        }
        let mishap = state.draw(Call::JournalAppend);
        if state.journal_full || mishap == Some(Mishap::Full) {
            return Err(PortError::lasting(
                "the simulated state folder is full",
                "free some space",
                Mend::Person,
            ));
        }
        state.suffer(Call::JournalAppend, mishap, |state| {
            let record =
                |entry: &Entry| Record { version: RECORD_VERSION, at, entry: entry.clone() };
            state.records.extend(entries.iter().map(record));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::FaultPlan;
    use super::*;
    use crate::domain::id::CommitId;
    use crate::journal::record::RepoFact;
    use crate::port::Clock;

    #[test]
    fn an_append_is_there_after_a_crash_or_was_never_made() {
        let entry = Entry::Repo(RepoFact::Accepted { commit: CommitId::new("c") });
        for (number, kept) in [(0, 0), (1, 1), (2, 0)] {
            let plan = FaultPlan { calls: [(0, number)].into(), ..FaultPlan::default() };
            let world = SimWorld::new(&[], plan);
            let mut journal = world.journal();
            assert!(journal.append(world.now(), std::slice::from_ref(&entry)).is_err());
            assert_eq!(world.crashed(), number < 2);
            world.restart();
            assert_eq!(journal.read().unwrap().len(), kept);
        }
    }
}
