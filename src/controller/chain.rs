//! The pure chain: what was read, seen and done becomes verdicts and a decision. It is what `run` executes and what `diff`
//! and `status` print.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;

use crate::controller::read::Reading;
use crate::decide::{Decision, Input, Limits, decide};
use crate::domain::id::{CommitId, RunId, SourceVm};
use crate::journal::progress::Progress;
use crate::observed::{Observed, Seen};
use crate::policy::{self, Judge, Said, Verdict};

/// Everything that the chain is made of.
#[derive(Clone, Copy, Debug)]
pub struct Assessment<'a> {
    /// What was read, if anything was.
    pub reading: Option<&'a Reading>,
    /// What was seen.
    pub observed: &'a Observed,
    /// What was done.
    pub progress: &'a Progress,
    /// The attempts that an action is under way for.
    pub busy: &'a BTreeSet<RunId>,
    /// The settings' bounds.
    pub limits: Limits,
    /// The time.
    pub now: Timestamp,
}

/// Judges and decides. What it remembers may be dropped at any time.
#[derive(Debug, Default)]
pub struct Chain {
    judge: Judge,
    last: Option<Judged>,
}

/// The verdicts of a pass with all that they were made of.
#[derive(Debug)]
struct Judged {
    commit: CommitId,
    /// Waivers end with a day.
    day: Date,
    revision: u64,
    /// `None` until the pass ends: within a pass the facts change, not what was seen.
    observed: Option<Observed>,
    verdicts: Arc<Vec<Verdict>>,
}

impl Chain {
    /// Begins with what was said of VMs elsewhere.
    pub fn recalling(said: &Said) -> Self {
        let mut chain = Self::default();
        chain.judge.recall(said);
        chain
    }

    /// Returns what was said of VMs until now.
    pub fn said(&self) -> Said {
        self.judge.said()
    }

    /// Judges every entry and every attempt that is not over, and decides.
    pub fn assess(&mut self, assessment: &Assessment<'_>) -> (Decision, Arc<Vec<Verdict>>) {
        let Assessment { reading, observed, progress, busy, limits, now } = *assessment;
        let verdicts = self.verdicts(assessment);
        let begun: BTreeMap<SourceVm, Verdict> = progress
            .moving()
            .map(|run| {
                let wanted = reading.map(|reading| &*reading.wanted);
                let verdict = self.judge.judge_begun(&run.begun, wanted, observed, now);
                (run.begun.run().vm.clone(), verdict)
            })
            .collect();
        let nowhere = CommitId::new("");
        let decision = decide(&Input {
            wanted: reading.map(|reading| &*reading.wanted),
            verdicts: &verdicts,
            begun: &begun,
            observed,
            progress,
            busy,
            commit: reading.map_or(&nowhere, |reading| &reading.commit),
            limits,
            now,
        });
        (decision, verdicts)
    }

    /// Remembers what a pass saw, for the next one.
    pub fn remember(&mut self, observed: Observed) {
        if let Some(last) = &mut self.last {
            last.observed = Some(observed);
        }
    }

    fn verdicts(&mut self, assessment: &Assessment<'_>) -> Arc<Vec<Verdict>> {
        let Assessment { reading, observed, progress, busy: _, limits: _, now } = *assessment;
        let Some(reading) = reading else { return Arc::default() };
        let revision = progress.revision();
        if let Some(last) = &self.last
            && last.commit == reading.commit
            && last.day == policy::day(now)
            && last.revision == revision
            && last.observed.as_ref().is_some_and(|before| same(before, observed, now))
        {
            return last.verdicts.clone();
        }
        let ours = progress.areas().cloned().collect();
        let verdicts = Arc::new(self.judge.clear(&reading.wanted, observed, &ours, now));
        let (commit, made) = (reading.commit.clone(), verdicts.clone());
        self.last = Some(Judged {
            commit,
            day: policy::day(now),
            revision,
            observed: None,
            verdicts: made,
        });
        verdicts
    }
}

/// Tells whether two looks show the same, and the younger one is young enough to prove it.
fn same(before: &Observed, observed: &Observed, now: Timestamp) -> bool {
    parts(&before.sources, &observed.sources, now) && parts(&before.targets, &observed.targets, now)
}

fn parts<K: PartialEq, T: PartialEq>(
    before: &BTreeMap<K, Seen<T>>,
    observed: &BTreeMap<K, Seen<T>>,
    now: Timestamp,
) -> bool {
    let proves = |seen: &Seen<T>| seen.state.is_err() || seen.fresh(now).is_some();
    before.len() == observed.len()
        && before.iter().zip(observed).all(|((name, before), (other, seen))| {
            name == other && before.state == seen.state && proves(seen)
        })
}
