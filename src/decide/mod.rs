//! Decides: what is wanted, what was seen and what was done so far become the next steps and the reasons for every wait.
//! Pure: the time is an argument.

mod admit;
mod cutover;
mod diff;
mod step;
#[cfg(test)]
mod tests;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::desired::Wanted;
use crate::domain::id::{CommitId, MigrationName, RunId, SourceVm, Token, VmKey};
use crate::domain::unit::Bytes;
use crate::journal::phase::Begun;
use crate::journal::progress::Progress;
use crate::journal::record::{Entry, Fault};
use crate::observed::{Gap, Observed};
use crate::policy::{Cleared, Verdict};

pub use admit::{FAILURES_MAX, Limits};
pub use cutover::CutoverLimits;

/// Everything that a decision is made of.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What people want; `None` while no commit could be read, which says nothing about what they want.
    pub wanted: Option<&'a Wanted>,
    /// One verdict for each entry, in the order of the plans and their entries.
    pub verdicts: &'a [Verdict],
    /// The verdicts on what the moving attempts were begun with, by VM.
    pub begun: &'a BTreeMap<SourceVm, Verdict>,
    /// What was seen.
    pub observed: &'a Observed,
    /// What was done.
    pub progress: &'a Progress,
    /// The attempts that an action is under way for.
    pub busy: &'a BTreeSet<RunId>,
    /// The commit that counts.
    pub commit: &'a CommitId,
    /// The settings' bounds.
    pub limits: Limits,
    /// The time.
    pub now: Timestamp,
}

/// Decides what is to be done now, and why everything else waits.
pub fn decide(input: &Input<'_>) -> Decision {
    let mut decision = Decision::default();
    let moved = diff::continue_moving(input, &mut decision);
    diff::entries(input, &moved, &mut decision);
    decision
}

/// What to do now, and why everything else waits.
#[must_use = "a decision that is neither carried out nor printed hides a stuck VM"]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Facts that hold already, intents among them. They are journaled, and then it is decided again.
    pub notes: Vec<Entry>,
    /// What is to be done.
    pub actions: Vec<Action>,
    /// One for each entry of each plan, in the order of the plans and their entries, then one for each attempt that moves
    /// although no plan names it any more.
    pub stands: Vec<Stand>,
}

/// One idempotent thing to do for one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// The attempt.
    pub run: RunId,
    /// Why it may be done.
    pub warrant: Warrant,
    /// What.
    pub effect: Effect,
}

/// Why an action may be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Warrant {
    /// Forward: policy let the VM through, just now.
    Cleared(Box<Cleared>),
    /// Undoing, or finishing what must not be left half done: the journal shows that it was begun.
    Begun(Box<Begun>),
}

/// The effects. Each looks at its object again first.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Writes the mark on the source VM.
    Claim {
        /// The mark.
        token: Token,
        /// The marks of earlier attempts of this journal, which it takes the place of.
        ours: Vec<Token>,
    },
    /// Reads the power state.
    RememberPower,
    /// Asks the guest to shut down.
    ShutDown,
    /// Looks whether the source is off by now.
    AwaitOff,
    /// Cuts power; the deadline has passed and the plan says so.
    PowerOff,
    /// Makes the partial area and its disks on the target.
    CreateDisks {
        /// The area.
        token: Token,
    },
    /// Starts the worker.
    StartWorker,
    /// Stops the worker at a boundary.
    StopWorker,
    /// Ends a worker that hangs, which counts as a failure.
    EndWorker,
    /// Looks whether the source is still off and unchanged; only then the guest is converted.
    ConfirmForConversion,
    /// Starts the worker that converts, or that commits what is converted.
    StartConversion,
    /// Looks whether the source is still off and unchanged; only then the VM may be made.
    ConfirmCopy,
    /// Makes the VM on the target.
    CreateVm,
    /// Looks whether the source is still off and unchanged; only then the start is intended.
    ConfirmStart {
        /// Names the start.
        token: Token,
    },
    /// Starts the VM on the target.
    Start,
    /// Marks the source as migrated.
    Mark,
    /// Deletes what the attempt made on the target.
    Remove,
    /// Powers the source on again.
    PowerOn,
    /// Takes the mark off the source.
    Release,
}

impl Effect {
    /// Names it, without what it carries.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claim { .. } => "Claim",
            Self::RememberPower => "RememberPower",
            Self::ShutDown => "ShutDown",
            Self::AwaitOff => "AwaitOff",
            Self::PowerOff => "PowerOff",
            Self::CreateDisks { .. } => "CreateDisks",
            Self::StartWorker => "StartWorker",
            Self::StopWorker => "StopWorker",
            Self::EndWorker => "EndWorker",
            Self::ConfirmForConversion => "ConfirmForConversion",
            Self::StartConversion => "StartConversion",
            Self::ConfirmCopy => "ConfirmCopy",
            Self::CreateVm => "CreateVm",
            Self::ConfirmStart { .. } => "ConfirmStart",
            Self::Start => "Start",
            Self::Mark => "Mark",
            Self::Remove => "Remove",
            Self::PowerOn => "PowerOn",
            Self::Release => "Release",
        }
    }
}

/// Where one VM stands and what it waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Stand {
    /// The entry.
    pub key: VmKey,
    /// The VM, where it is known.
    pub vm: Option<SourceVm>,
    /// The migration that runs it, where there is one.
    pub migration: Option<MigrationName>,
    /// What happens.
    pub state: Standing,
}

/// What happens with a VM at this moment, seen from the plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// An action is under way or about to be.
    Acting(&'static str),
    /// It waits.
    Waiting(Wait),
    /// Nothing is left to do, for this reason.
    Resting(Rest),
}

/// Why nothing is done, though something is left to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Wait {
    /// Findings stand against it; they are listed with its verdict.
    Blocked,
    /// Source or target could not be seen, or not lately.
    Unknown(Gap),
    /// All places are taken.
    Slot {
        /// How many VMs move.
        moving: usize,
    },
    /// The target has too little room.
    Space {
        /// What is needed.
        needed: Bytes,
        /// What is free.
        free: Bytes,
    },
    /// The name on the target belongs to something else.
    NameTaken,
    /// Another migration of the plan still moves VMs.
    Older(MigrationName),
    /// The same VM moves under another entry.
    ElsewhereMoving(VmKey),
    /// The entry was pinned to another VM.
    Pinned {
        /// The VM that it was pinned to.
        pinned: SourceVm,
    },
    /// The disks are being copied.
    Copying,
    /// The guest is being converted.
    Converting,
    /// As many guests are being converted as may be at once.
    Converter {
        /// Its place among those that wait, from 1.
        at: usize,
    },
    /// The guest was asked to shut down.
    ShuttingDown {
        /// When patience ends.
        deadline: Timestamp,
    },
    /// A step failed and is tried again.
    Retry {
        /// When.
        at: Timestamp,
        /// What failed.
        fault: Fault,
    },
    /// Nothing is tried any more until something changes.
    Stalled(Fault),
    /// `ferry hold`, or the end of the process.
    Brake,
    /// The time of its cutover has not come.
    Cutover {
        /// The time.
        at: Timestamp,
    },
    /// It has no time although it had one, or was told to wait for one.
    Postponed,
    /// The time of its cutover passed, and is never caught up with.
    CutoverMissed {
        /// The time.
        at: Timestamp,
        /// Why it was missed.
        why: String,
    },
    /// A window is closed, or closes too soon.
    Window {
        /// The window, or why.
        by: String,
        /// When all windows are open long enough; `None` where that is not in sight.
        opens: Option<Timestamp>,
    },
    /// Nothing may be powered off now.
    PowerOffBarred(String),
    /// The source VM carries somebody else's mark.
    Claimed(String),
}

impl Wait {
    /// Tells whether it ends without anybody's doing, soon.
    pub fn passes_by_itself(&self) -> bool {
        match self {
            Self::Copying | Self::Converting | Self::ShuttingDown { .. } | Self::Retry { .. } => {
                true
            }
            Self::Blocked
            | Self::Unknown(_)
            | Self::Slot { .. }
            | Self::Converter { .. }
            | Self::Space { .. }
            | Self::NameTaken
            | Self::Older(_)
            | Self::ElsewhereMoving(_)
            | Self::Pinned { .. }
            | Self::Stalled(_)
            | Self::Brake
            | Self::Cutover { .. }
            | Self::Postponed
            | Self::CutoverMissed { .. }
            | Self::Window { .. }
            | Self::PowerOffBarred(_)
            | Self::Claimed(_) => false,
        }
    }
}

/// Why nothing is left to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Rest {
    /// No `Migration` runs the plan.
    NoMigration,
    /// The plan is archived.
    Archived,
    /// It is migrated.
    Completed,
    /// It was canceled.
    Canceled,
    /// It failed, and only a commit starts it again.
    Failed(Fault),
    /// Its migration was taken away; a new one is needed.
    Withdrawn,
}
