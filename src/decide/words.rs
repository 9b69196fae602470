//! What waits and rests are called in every output.
//!
//! [`Wait::words`] stays the same while the reason stays the same, so that reports and previews do not change with the clock;
//! [`Wait::detail`] adds what changes all the time, for people who watch.

use crate::decide::{Rest, Standing, Wait};

impl Wait {
    /// Says why nothing is done, in words that do not change while the reason stays.
    pub fn words(&self) -> String {
        match self {
            Self::Blocked => "findings stand against it".to_owned(),
            Self::Unknown(gap) => gap.reason.clone(),
            Self::Slot { moving: _ } => "all places for VMs that move are taken".to_owned(),
            Self::Space { needed, free: _ } => format!("the target has no room for {needed}"),
            Self::NameTaken => "its name on the target belongs to something else".to_owned(),
            Self::Older(migration) => format!("migration `{migration}` still moves VMs"),
            Self::ElsewhereMoving(key) => format!("the same VM moves as `{key}`"),
            Self::Pinned { pinned } => format!("its name meant another VM before, {pinned}"),
            Self::Copying => "its disks are being copied".to_owned(),
            Self::Converting => "its guest is being converted".to_owned(),
            Self::Converter { at: _ } => "other guests are being converted".to_owned(),
            Self::ShuttingDown { deadline } => {
                format!("the guest was asked to shut down and has time until {deadline:.0}")
            }
            Self::Retry { at: _, fault } => format!("a step is tried again: {}", fault.text),
            Self::Stalled(fault) => fault.text.clone(),
            Self::Brake => "Ferry is held or about to end".to_owned(),
            Self::Cutover { at } => format!("its cutover is at {at:.0}"),
            Self::Postponed => "its cutover is postponed".to_owned(),
            Self::CutoverMissed { at, why } => {
                format!("its cutover at {at:.0} was missed: {why}")
            }
            Self::Window { by, opens: None } => format!("closed: {by}"),
            Self::Window { by, opens: Some(opens) } => format!("closed until {opens:.0}: {by}"),
            Self::PowerOffBarred(reason) => format!("nothing may be powered off now: {reason}"),
            Self::Claimed(by) => format!("the source VM carries another mark, {by}"),
        }
    }

    /// Says what changes all the time, where there is anything.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Slot { moving } => Some(format!("{moving} VMs move now")),
            Self::Space { needed: _, free } => Some(format!("{free} are free")),
            Self::Retry { at, fault: _ } => Some(format!("next at {at:.0}")),
            Self::Converter { at } => Some(format!("it is number {at} of those that wait")),
            Self::Blocked
            | Self::Unknown(_)
            | Self::NameTaken
            | Self::Older(_)
            | Self::ElsewhereMoving(_)
            | Self::Pinned { .. }
            | Self::Copying
            | Self::Converting
            | Self::ShuttingDown { .. }
            | Self::Stalled(_)
            | Self::Brake
            | Self::Cutover { .. }
            | Self::Postponed
            | Self::CutoverMissed { .. }
            | Self::Window { .. }
            | Self::PowerOffBarred(_)
            | Self::Claimed(_) => None,
        }
    }

    /// Says what a person can do about it, where a person can.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Unknown(gap) => Some(gap.remedy.clone()),
            Self::Retry { fault, .. } | Self::Stalled(fault) => Some(fault.remedy.clone()),
            Self::NameTaken => {
                Some("Set another `targetName`, or remove what stands there".to_owned())
            }
            Self::Space { .. } => Some("Make room on the target".to_owned()),
            Self::Pinned { .. } => {
                Some("Change the entry if the other VM is meant, or correct it".to_owned())
            }
            Self::Claimed(_) => Some("Find out who claims it".to_owned()),
            Self::CutoverMissed { .. } | Self::Postponed => {
                Some("Write a new time: `ferry cutover PLAN --at TIME`".to_owned())
            }
            Self::Window { opens: None, .. } => {
                Some("`ferry window list` shows when windows are open".to_owned())
            }
            Self::Brake => Some("`ferry hold off` lets it go on".to_owned()),
            Self::Blocked
            | Self::Slot { .. }
            | Self::Older(_)
            | Self::ElsewhereMoving(_)
            | Self::Copying
            | Self::Converting
            | Self::Converter { .. }
            | Self::ShuttingDown { .. }
            | Self::Cutover { .. }
            | Self::Window { opens: Some(_), .. }
            | Self::PowerOffBarred(_) => None,
        }
    }
}

impl Rest {
    /// Says why nothing is left to do.
    pub fn words(&self) -> String {
        match self {
            Self::NoMigration => "no Migration runs its plan".to_owned(),
            Self::Archived => "its plan is archived".to_owned(),
            Self::Completed => "migrated".to_owned(),
            Self::Canceled => "canceled".to_owned(),
            Self::Failed(fault) => format!("failed: {}", fault.text),
            Self::Withdrawn => "its Migration was taken away; a new one is needed".to_owned(),
        }
    }
}

impl Standing {
    /// Says what happens, or why nothing does.
    pub fn words(&self) -> String {
        match self {
            Self::Acting(what) => (*what).to_owned(),
            Self::Waiting(wait) => wait.words(),
            Self::Resting(rest) => rest.words(),
        }
    }
}
