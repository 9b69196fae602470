//! Bugs that the tests plant to see their invariants fail. In the binary [`planted`] is `false` and the code behind it gone.

/// The bugs, one for each named invariant of the simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// `copy::engine` says a checkpoint before the data is durable.
    CheckpointBeforeSync,
    /// `execute` takes a copy for good without looking at the source again.
    ConfirmsBlindly,
    /// `execute` starts the target without looking at the source again.
    StartsBlindly,
    /// `domain::id` derives one token for all steps of an attempt.
    OneTokenForAllSteps,
    /// `decide` powers the source on without noting that it means to.
    PowersOnUnasked,
    /// `controller` journals a failure and does not fold it.
    ForgetsFailures,
    /// `policy` clears what a finding stands against.
    ClearsWhatIsBlocked,
    /// `controller` follows a branch that was rewound.
    FollowsRewoundBranch,
    /// `journal` forgets that an attempt took its source down.
    UndoLeavesSourceOff,
    /// `journal` forgets what an attempt made on the target.
    UndoLeavesArea,
    /// `decide` says nothing about an attempt whose entry is gone.
    ForgetsOrphans,
    /// `controller` writes the time into the report.
    ReportsTheTime,
    /// `decide` takes no notice of windows.
    IgnoresWindows,
    /// `decide` begins at a time that was missed.
    CatchesUpCutovers,
    /// `journal` takes a disk that a conversion was written into for the copy that it was.
    ForgetsConversion,
}

#[cfg(test)]
impl Bug {
    /// All of them.
    pub(crate) const ALL: [Self; 15] = [
        Self::CheckpointBeforeSync,
        Self::ConfirmsBlindly,
        Self::StartsBlindly,
        Self::OneTokenForAllSteps,
        Self::PowersOnUnasked,
        Self::ForgetsFailures,
        Self::ClearsWhatIsBlocked,
        Self::FollowsRewoundBranch,
        Self::UndoLeavesSourceOff,
        Self::UndoLeavesArea,
        Self::ForgetsOrphans,
        Self::ReportsTheTime,
        Self::IgnoresWindows,
        Self::CatchesUpCutovers,
        Self::ForgetsConversion,
    ];
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Tells whether a bug is planted on this thread.
#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Tells whether a bug is planted on this thread.
#[cfg(not(test))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

/// Plants a bug on this thread, or takes it away.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
