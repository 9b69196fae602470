//! What the facts add up to. Recovery folds the whole journal; a running controller folds one more fact. Same function.
//!
//! ```text
//! Begun ─► Claiming ─► Claimed ─► On ─► ShuttingDown ─► Off ─► Preparing ─► Copying ─► Copied ─┬──────────────► Creating ─► Created
//!              (a source that keeps no marks skips Claiming; one that is off skips On and       │               ▲             │
//!               ShuttingDown)                                                                   └► Converting ─► Converted    │
//!                                                        Completed ◄─ Settling ◄─ Starting ◄─────────────── point of no return ┤
//!                                                                        ▲                                                     │
//!                                                                        └──── nothing to start, or the target starts nothing ──┘
//! any phase before the point of no return ─► Undoing ─► Undone
//! ```
//!
//! What exists only in a phase lives in its variant. The last arm of [`Phase::after`] refuses: a fact that does not follow
//! is a bug of ours or a damaged journal, and nothing is done on top of it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::desired::Site;
use crate::domain::id::{DiskKey, RunId, TargetName, Token};
use crate::domain::vm::{Claim, Disk, Power};
use crate::journal::record::{Abandon, DiskCopy, Fact, Instructions};
use crate::manifest::document::{OnFailure, Verify};
use crate::planted::{Bug, planted};

/// Proof that a run was begun by the journal that was folded. Undo and finish actions hold it, so that a deleted plan or an
/// expired waiver never leaves a VM off. Only the fold makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    pub(super) run: RunId,
    pub(super) instructions: Box<Instructions>,
}

impl Begun {
    /// Returns the attempt.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// Returns what it was begun with.
    pub fn instructions(&self) -> &Instructions {
        &self.instructions
    }

    /// Tells whether partial disks stay on the target for a later attempt: the plan says so, and the source cannot change
    /// meanwhile.
    pub fn keeps_area(&self) -> bool {
        let Instructions { desired, vm, .. } = &*self.instructions;
        desired.on_failure == OnFailure::Keep && vm.claim == Claim::Impossible
    }

    /// Tells whether the guest is converted before the VM is made.
    pub fn converts(&self) -> bool {
        !self.instructions.desired.skip_guest_conversion
    }

    /// Tells whether the VM is to be started on the target, given how the source was found.
    pub fn starts(&self, was: Power) -> bool {
        self.instructions.desired.power.starts(was)
    }
}

/// The source is off and ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Off {
    /// Since when it is known to be off.
    pub since: Timestamp,
    /// The mark on it, if it keeps one.
    pub claim: Option<Token>,
    /// How it was found.
    pub was: Power,
}

/// The target has an area of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// The source.
    pub off: Off,
    /// Names the area.
    pub token: Token,
    /// Its disks.
    pub disks: Vec<DiskCopy>,
    /// What the converter warned of.
    pub warnings: Vec<String>,
    /// Whether the VM was to be started and was left off, since the target starts nothing.
    pub left_off: bool,
}

/// What an attempt left on the target: a later one goes on from it, or removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Names the area.
    pub area: Token,
    /// Its disks, as far as they came.
    pub disks: Vec<DiskCopy>,
    /// The source's disks that they are copies of.
    pub of: Vec<Disk>,
    /// Where the target is.
    pub site: Site,
    /// What the VM is, or was to be, called there.
    pub name: TargetName,
}

/// What is left to undo. A field is cleared by the fact that it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// Why.
    pub why: Abandon,
    /// The mark to take away.
    pub claim: Option<Token>,
    /// Whether the source was on and was, or may have been, shut down.
    pub power_on: bool,
    /// What was made on the target.
    pub area: Option<Kept>,
    /// Until when the source may still go off because it was asked to: a guest shutdown cannot be recalled.
    pub watch_until: Option<Timestamp>,
    /// Whether the removal was intended.
    pub removing: bool,
    /// Whether the power-on was intended.
    pub powering_on: bool,
}

/// Where an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It was begun; nothing was touched.
    Begun,
    /// The mark may stand on the source or not.
    Claiming {
        /// The mark.
        token: Token,
    },
    /// The mark stands, or the source keeps none.
    Claimed {
        /// The mark.
        claim: Option<Token>,
    },
    /// The source was seen running.
    On {
        /// The mark.
        claim: Option<Token>,
    },
    /// A shutdown may have been asked for.
    ShuttingDown {
        /// The mark.
        claim: Option<Token>,
        /// Names the shutdown.
        token: Token,
        /// When patience ends; `None` until the request is known to have gone out.
        deadline: Option<Timestamp>,
        /// Whether power may be cut.
        forced: bool,
    },
    /// The source is off.
    Off(Off),
    /// The area may have been made.
    Preparing {
        /// The source.
        off: Off,
        /// Names the area.
        token: Token,
    },
    /// Disks are copied, and compared as the plan says.
    Copying(Area),
    /// All disks are on the target.
    Copied(Area),
    /// The guest is converted.
    Converting {
        /// What is converted.
        area: Area,
        /// The disks whose overlays are still to be committed; `None` until the overlays hold the whole conversion.
        uncommitted: Option<BTreeSet<DiskKey>>,
    },
    /// The guest is converted and every overlay committed.
    Converted(Area),
    /// The VM may have been made.
    Creating(Area),
    /// The VM stands on the target, off, and is to be started, or left off where the target starts nothing.
    Created(Area),
    /// It may have been started. Nothing is undone by itself any more.
    Starting {
        /// What was made.
        area: Area,
        /// Names the start.
        token: Token,
    },
    /// Migrated but for the marks.
    Settling {
        /// What was made.
        area: Area,
        /// Whether the source was marked.
        marked: bool,
    },
    /// Migrated.
    Completed {
        /// What was made.
        area: Area,
    },
    /// Being undone.
    Undoing(Undo),
    /// Undone.
    Undone {
        /// Why.
        why: Abandon,
        /// What was kept on the target for a later attempt.
        kept: Option<Kept>,
    },
}

/// A fact that does not follow.
#[derive(Debug, thiserror::Error)]
#[error("the journal says `{fact}` of {run} in phase {phase}, where that cannot happen")]
pub struct IllegalStep {
    pub(super) run: RunId,
    pub(super) phase: &'static str,
    pub(super) fact: String,
}

impl Phase {
    /// Names the phase, as reports and errors call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Begun => "Begun",
            Self::Claiming { .. } => "Claiming",
            Self::Claimed { .. } => "Claimed",
            Self::On { .. } => "On",
            Self::ShuttingDown { .. } => "ShuttingDown",
            Self::Off(_) => "Off",
            Self::Preparing { .. } => "Preparing",
            Self::Copying(_) => "Copying",
            Self::Copied(_) => "Copied",
            Self::Converting { .. } => "Converting",
            Self::Converted(_) => "Converted",
            Self::Creating(_) => "Creating",
            Self::Created(_) => "Created",
            Self::Starting { .. } => "Starting",
            Self::Settling { .. } => "Settling",
            Self::Completed { .. } => "Completed",
            Self::Undoing(_) => "Undoing",
            Self::Undone { .. } => "Undone",
        }
    }

    /// Tells whether the attempt is over.
    pub fn ended(&self) -> bool {
        matches!(self, Self::Completed { .. } | Self::Undone { .. })
    }

    /// Tells whether the attempt may still be undone: no start was intended, and where nothing is started the VM does not
    /// stand on the target yet, or was not left there by a fact.
    pub fn undoable(&self) -> bool {
        !matches!(
            self,
            Self::Starting { .. }
                | Self::Settling { .. }
                | Self::Completed { .. }
                | Self::Undoing(_)
                | Self::Undone { .. }
        )
    }

    /// Returns what was made on the target, from the moment its disks are known until the attempt is completed or given up.
    pub fn made(&self) -> Option<&Area> {
        match self {
            Self::Copying(area)
            | Self::Copied(area)
            | Self::Converting { area, .. }
            | Self::Converted(area)
            | Self::Creating(area)
            | Self::Created(area)
            | Self::Starting { area, .. }
            | Self::Settling { area, .. }
            | Self::Completed { area } => Some(area),
            Self::Begun
            | Self::Claiming { .. }
            | Self::Claimed { .. }
            | Self::On { .. }
            | Self::ShuttingDown { .. }
            | Self::Off(_)
            | Self::Preparing { .. }
            | Self::Undoing(_)
            | Self::Undone { .. } => None,
        }
    }

    /// Returns what a given-up attempt left on the target so far.
    fn kept(&self) -> Option<&Kept> {
        match self {
            Self::Undoing(Undo { area: kept, .. }) | Self::Undone { kept, .. } => kept.as_ref(),
            _ => None,
        }
    }

    /// Returns why the attempt is, or was, given up.
    pub fn abandoned(&self) -> Option<&Abandon> {
        match self {
            Self::Undoing(Undo { why, .. }) | Self::Undone { why, .. } => Some(why),
            _ => None,
        }
    }

    /// Tells whether the source was running and was, or may have been, shut down for this attempt.
    pub fn took_source_down(&self) -> bool {
        match self {
            Self::ShuttingDown { .. } => true,
            Self::Off(off) | Self::Preparing { off, .. } => off.was == Power::On,
            Self::Undoing(undo) => undo.power_on,
            other => other.made().is_some_and(|area| area.off.was == Power::On),
        }
    }

    /// Returns the area on the target, where there is or may be one.
    pub fn area(&self) -> Option<&Token> {
        match self {
            Self::Preparing { token, .. } => Some(token),
            other => {
                let made = other.made().map(|area| &area.token);
                made.or_else(|| other.kept().map(|kept| &kept.area))
            }
        }
    }

    /// Returns the disks on the target, where there are any.
    pub fn disks(&self) -> &[DiskCopy] {
        let made = self.made().map(|area| &area.disks);
        made.or_else(|| self.kept().map(|kept| &kept.disks)).map_or(&[], Vec::as_slice)
    }

    /// Returns the phase that a fact leads to, or `None` where the fact does not follow.
    pub(super) fn after(self, begun: &Begun, at: Timestamp, fact: &Fact) -> Option<Self> {
        Some(match (self, fact) {
            (Self::Begun, Fact::ClaimIntended { token }) => Self::Claiming { token: token.clone() },
            (Self::Begun, Fact::Unclaimable) => Self::Claimed { claim: None },
            (Self::Claiming { token }, Fact::Claimed) => Self::Claimed { claim: Some(token) },
            (Self::Claimed { claim } | Self::On { claim }, Fact::PowerRemembered { power }) => {
                match power {
                    Power::On => Self::On { claim },
                    Power::Off => Self::Off(Off { since: at, claim, was: Power::Off }),
                }
            }
            (Self::On { claim }, Fact::PowerOffIntended { token }) => {
                Self::ShuttingDown { claim, token: token.clone(), deadline: None, forced: false }
            }
            (
                Self::ShuttingDown { claim, token, deadline: None, forced },
                Fact::ShutdownRequested { deadline },
            ) => Self::ShuttingDown { claim, token, deadline: Some(*deadline), forced },
            (Self::ShuttingDown { claim, token, deadline, forced: false }, Fact::ForceIntended) => {
                Self::ShuttingDown { claim, token, deadline, forced: true }
            }
            (Self::ShuttingDown { claim, .. }, Fact::SourceOff) => {
                Self::Off(Off { since: at, claim, was: Power::On })
            }
            (Self::Off(off), Fact::AreaIntended { token }) => {
                Self::Preparing { off, token: token.clone() }
            }
            (Self::Off(off), Fact::AreaAdopted { area, disks }) => {
                Area::new(off, area.clone(), disks.clone()).when_copied(begun)
            }
            (Self::Preparing { off, token }, Fact::DisksCreated { disks }) => {
                let disks = disks.iter().map(DiskCopy::empty).collect();
                Area::new(off, token, disks).when_copied(begun)
            }
            (
                Self::Copying(area),
                Fact::Checkpointed(_) | Fact::DiskCopied { .. } | Fact::DiskVerified { .. },
            ) => area.with(fact)?.when_copied(begun),
            (Self::Copied(area), Fact::ConversionIntended) if begun.converts() => {
                Self::Converting { area, uncommitted: None }
            }
            (Self::Converting { area, uncommitted: None }, Fact::Converted { warnings }) => {
                area.converted(warnings)
            }
            (Self::Converting { area, uncommitted: Some(left) }, Fact::DiskCommitted { disk }) => {
                area.committed(left, disk)?
            }
            (Self::Copied(area), Fact::CreateIntended) if !begun.converts() => Self::Creating(area),
            (Self::Converted(area), Fact::CreateIntended) => Self::Creating(area),
            (Self::Creating(area), Fact::VmCreated) if begun.starts(area.off.was) => {
                Self::Created(area)
            }
            (Self::Creating(area), Fact::VmCreated) => Self::Settling { area, marked: false },
            (Self::Created(area), Fact::StartIntended { token }) => {
                Self::Starting { area, token: token.clone() }
            }
            (Self::Created(area), Fact::NotStarted) => {
                Self::Settling { area: Area { left_off: true, ..area }, marked: false }
            }
            (Self::Starting { area, .. }, Fact::Started) => Self::Settling { area, marked: false },
            (Self::Settling { area, marked: false }, Fact::MarkedMigrated) => {
                Self::Settling { area, marked: true }
            }
            (Self::Settling { area, marked: true }, Fact::Completed) => Self::Completed { area },
            (phase, Fact::UndoBegan { why }) if phase.undoable() => {
                Self::Undoing(phase.undo(begun, at, why.clone()))
            }
            (Self::Undoing(undo), fact) => undo.after(begun, fact)?,
            (_, _) => return None,
        })
    }

    /// Lists what an attempt in this phase has to undo.
    fn undo(self, begun: &Begun, at: Timestamp, why: Abandon) -> Undo {
        let power_on = self.took_source_down() && !planted(Bug::UndoLeavesSourceOff);
        let patience = jiff::SignedDuration::from_secs(i64::from(
            begun.instructions.desired.shutdown_timeout_s,
        ));
        let watch_until = match &self {
            Self::ShuttingDown { deadline, .. } => {
                let from = deadline.map_or(at, |deadline| deadline.max(at));
                Some(from.saturating_add(patience).unwrap_or(Timestamp::MAX))
            }
            _ => None,
        };
        let disks = self.disks().to_vec();
        let (claim, area) = match self {
            Self::Claiming { token } => (Some(token), None),
            Self::Claimed { claim } | Self::On { claim } | Self::ShuttingDown { claim, .. } => {
                (claim, None)
            }
            Self::Off(off) => (off.claim, None),
            Self::Preparing { off, token } => (off.claim, Some(token)),
            Self::Copying(area)
            | Self::Copied(area)
            | Self::Converting { area, .. }
            | Self::Converted(area)
            | Self::Creating(area)
            | Self::Created(area) => (area.off.claim, Some(area.token)),
            Self::Begun
            | Self::Starting { .. }
            | Self::Settling { .. }
            | Self::Completed { .. }
            | Self::Undoing(_)
            | Self::Undone { .. } => (None, None),
        };
        let instructions = &begun.instructions;
        let area = area.filter(|_| !planted(Bug::UndoLeavesArea)).map(|area| Kept {
            area,
            disks,
            of: instructions.vm.disks.clone(),
            site: instructions.desired.target_site.clone(),
            name: instructions.target_name.clone(),
        });
        Undo { why, claim, power_on, area, watch_until, removing: false, powering_on: false }
    }
}

impl DiskCopy {
    fn empty((disk, target): &(DiskKey, crate::domain::vm::TargetDisk)) -> Self {
        let (disk, target) = (disk.clone(), target.clone());
        let written = crate::domain::unit::Bytes(0);
        Self {
            disk,
            target,
            checkpoint: None,
            root: None,
            written,
            verified: false,
            converted: false,
        }
    }
}

impl Area {
    fn new(off: Off, token: Token, disks: Vec<DiskCopy>) -> Self {
        Self { off, token, disks, warnings: Vec::new(), left_off: false }
    }

    /// Moves on once every disk is copied and, where the plan wants it, compared.
    fn when_copied(self, begun: &Begun) -> Phase {
        let verify = begun.instructions.desired.verify;
        let through = |disk: &DiskCopy| {
            disk.root.is_some()
                && match verify {
                    Verify::None => true,
                    Verify::Full | Verify::Changed => disk.verified,
                }
        };
        if self.disks.iter().all(through) { Phase::Copied(self) } else { Phase::Copying(self) }
    }

    /// Begins to commit: what was known of the disks' blocks is void (safety rule 19).
    fn converted(mut self, warnings: &[String]) -> Phase {
        warnings.clone_into(&mut self.warnings);
        for disk in &mut self.disks {
            (disk.checkpoint, disk.converted) = (None, !planted(Bug::ForgetsConversion));
        }
        let left = self.disks.iter().map(|disk| disk.disk.clone()).collect();
        self.until_committed(left)
    }

    fn committed(self, mut left: BTreeSet<DiskKey>, disk: &DiskKey) -> Option<Phase> {
        left.remove(disk).then(|| self.until_committed(left))
    }

    fn until_committed(self, left: BTreeSet<DiskKey>) -> Phase {
        if left.is_empty() {
            Phase::Converted(self)
        } else {
            Phase::Converting { area: self, uncommitted: Some(left) }
        }
    }

    fn disk(&mut self, key: &DiskKey) -> Option<&mut DiskCopy> {
        self.disks.iter_mut().find(|disk| disk.disk == *key)
    }

    /// Notes how far a disk came; `None` where the fact speaks of no disk of this area, or of one that is past it.
    fn with(mut self, fact: &Fact) -> Option<Self> {
        match fact {
            Fact::Checkpointed(checkpoint) => {
                let disk = self.disk(&checkpoint.disk)?;
                let read = disk.checkpoint.as_ref().map(|earlier| earlier.read);
                if disk.root.is_some() || read > Some(checkpoint.read) {
                    return None;
                }
                disk.checkpoint = Some(checkpoint.clone());
            }
            Fact::DiskCopied { disk: key, written, root } => {
                let disk = self.disk(key)?;
                disk.root = Some(root.clone());
                disk.written = *written;
            }
            Fact::DiskVerified { disk: key } => {
                let disk = self.disk(key)?;
                disk.root.as_ref()?;
                disk.verified = true;
            }
            _ => return None,
        }
        Some(self)
    }
}

impl Undo {
    fn after(mut self, begun: &Begun, fact: &Fact) -> Option<Phase> {
        match fact {
            Fact::RemovalIntended if self.area.is_some() => self.removing = true,
            Fact::AreaRemoved if self.removing => self.area = None,
            Fact::PowerOnIntended { .. } if self.power_on => self.powering_on = true,
            Fact::SourceOn if self.power_on => self.power_on = false,
            Fact::ClaimReleased => self.claim = None,
            Fact::Undone if self.settled(begun) => {
                return Some(Phase::Undone { why: self.why, kept: self.area });
            }
            _ => return None,
        }
        Some(Phase::Undoing(self))
    }

    /// Tells whether nothing is left but what the plan keeps.
    pub fn settled(&self, begun: &Begun) -> bool {
        self.claim.is_none()
            && !self.power_on
            && (self.area.is_none() || (begun.keeps_area() && !self.removing))
    }
}

/// Names a fact without what it carries, which may be long.
pub fn name_of(fact: &Fact) -> String {
    let text = format!("{fact:?}");
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(text.len());
    text[..end].to_owned()
}
