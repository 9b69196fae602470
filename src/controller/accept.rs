//! Which commit counts. A newer commit is followed unless what it takes away looks like an accident (safety rules 5 and 15).

use std::collections::HashSet;

use crate::controller::read::Reading;
use crate::desired::{Request, Wanted};
use crate::domain::id::CommitId;
use crate::journal::phase::Phase;
use crate::journal::progress::Progress;
use crate::journal::record::RepoFact;
use crate::planted::{Bug, planted};
use crate::port::Ancestry;

/// How many active Migrations may vanish in one commit before it is held: taking back three plans at once is a review's
/// work, more looks like a wrong merge.
pub const VANISHED_MAX: usize = 3;

/// A commit that counts.
#[derive(Debug)]
pub struct Followed {
    /// What it says.
    pub reading: Reading,
    /// What is remembered of it. Of a commit that a person accepted beside a controller nothing is remembered yet.
    pub facts: Vec<RepoFact>,
}

/// What becomes of the branch's head.
#[derive(Debug)]
pub enum Acceptance {
    /// It is what counts already, read already.
    Same,
    /// It counts from now on.
    Follow(Followed),
    /// It does not count until a person says so.
    Hold {
        /// The last accepted commit, where that could still be read and was not at hand.
        instead: Option<Followed>,
        /// Why.
        reason: String,
    },
}

/// Tells why a newer commit must not be followed by itself; `None` where it may.
pub fn objection(
    before: &Reading,
    after: &Reading,
    ancestry: Ancestry,
    progress: &Progress,
) -> Option<String> {
    let accept = |what: String| {
        Some(format!("{what}; undo it, or accept it with `ferry adopt {}`", after.commit))
    };
    if ancestry == Ancestry::Rewound && !planted(Bug::FollowsRewoundBranch) {
        return accept(format!(
            "the branch was rewound: {} does not descend from {}",
            after.commit, before.commit
        ));
    }
    if after.files == 0 && before.files > 0 {
        return accept(format!("{} holds no manifest any more", after.commit));
    }
    let there: HashSet<_> = after.wanted.requests.iter().map(|request| &request.name).collect();
    let gone = before
        .wanted
        .requests
        .iter()
        .filter(|request| !there.contains(&request.name))
        .filter(|request| active(&before.wanted, request, progress))
        .count();
    if gone > VANISHED_MAX {
        return accept(format!("{gone} active Migrations vanished in {}", after.commit));
    }
    None
}

/// Tells whether a migration still has something to do: one whose VMs all completed may be tidied up.
fn active(wanted: &Wanted, request: &Request, progress: &Progress) -> bool {
    let Some(plan) = wanted.plans.get(&request.plan).filter(|plan| !plan.archived) else {
        return false;
    };
    plan.vms.iter().any(|vm| {
        let pinned = progress.pin(&vm.key, &request.name);
        let last = pinned.and_then(|(_, vm)| progress.runs(vm).last());
        !last.is_some_and(|run| matches!(run.phase, Phase::Completed { .. }))
    })
}

/// Returns the sentence for an empty journal beside a report that this instance wrote.
pub fn unadopted(instance: &str, head: &CommitId) -> String {
    format!(
        "the journal is empty, but the status branch holds a report of {instance}: the state folder was lost or is another \
         one; bring it back, or take over with `ferry adopt {head}`"
    )
}

/// Returns the sentence for a commit that nobody stands behind who may decide.
pub fn untrusted(why: &str, head: &CommitId) -> String {
    format!(
        "{why}; let a known signer commit on top of it, or accept it as it is with `ferry adopt {head}`"
    )
}
