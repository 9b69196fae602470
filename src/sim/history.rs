//! What was really done, whoever believes what: the truth that the invariants are held against.

use jiff::Timestamp;

use crate::domain::id::{SourceVm, TargetName, Token};

/// Something that changed the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// When.
    pub at: Timestamp,
    /// How many records the journal held.
    pub records: usize,
    /// Who did it.
    pub actor: Actor,
    /// What it was.
    pub what: What,
}

/// Who does things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The controller, through a port.
    Ferry,
    /// A guest that obeys a request of the controller.
    Guest,
    /// Somebody else.
    Person,
}

/// What can be done. Only what changed something is a deed: a repeated request that finds its work done is none, but for a
/// request to a guest, which is one each time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say which VM, area, name and token are meant")]
pub enum What {
    /// The guest was asked to shut down.
    ShutdownAsked { vm: SourceVm },
    /// The source went off.
    WentOff { vm: SourceVm },
    /// The source went on; whether a VM that was made from it ran on the target then.
    WentOn { vm: SourceVm, target_ran: bool },
    /// The mark was written.
    Claimed { vm: SourceVm, token: Token },
    /// The mark was taken away.
    Released { vm: SourceVm, token: Token },
    /// The mark became "migrated".
    Migrated { vm: SourceVm, token: Token },
    /// The area was made.
    DisksCreated { vm: SourceVm, area: Token, name: TargetName },
    /// The area became a VM.
    VmCreated { vm: SourceVm, area: Token, name: TargetName },
    /// The VM was started; whether the source was on then.
    Started { vm: SourceVm, area: Token, name: TargetName, source_ran: bool },
    /// The area, or the VM, was deleted.
    Removed { vm: SourceVm, area: Token, name: TargetName },
}

impl What {
    /// The names of all of them.
    pub const NAMES: [&'static str; 10] = [
        "shutdown asked",
        "went off",
        "went on",
        "claimed",
        "released",
        "migrated",
        "disks created",
        "vm created",
        "started",
        "removed",
    ];

    /// Names it.
    pub fn name(&self) -> &'static str {
        let index = match self {
            Self::ShutdownAsked { .. } => 0,
            Self::WentOff { .. } => 1,
            Self::WentOn { .. } => 2,
            Self::Claimed { .. } => 3,
            Self::Released { .. } => 4,
            Self::Migrated { .. } => 5,
            Self::DisksCreated { .. } => 6,
            Self::VmCreated { .. } => 7,
            Self::Started { .. } => 8,
            Self::Removed { .. } => 9,
        };
        Self::NAMES[index]
    }

    /// Returns the source VM that it concerns.
    pub fn vm(&self) -> &SourceVm {
        match self {
            Self::ShutdownAsked { vm }
            | Self::WentOff { vm }
            | Self::WentOn { vm, .. }
            | Self::Claimed { vm, .. }
            | Self::Released { vm, .. }
            | Self::Migrated { vm, .. }
            | Self::DisksCreated { vm, .. }
            | Self::VmCreated { vm, .. }
            | Self::Started { vm, .. }
            | Self::Removed { vm, .. } => vm,
        }
    }
}
