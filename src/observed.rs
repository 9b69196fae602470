//! Source, target and surroundings as last seen, each part with its age or its error. Absence proves nothing by itself:
//! what decides asks [`Seen::fresh`], which a gap or an old look never satisfies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::domain::id::{ProviderName, RunId, SourceVm, TargetName, Token};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Power, Vm};

/// How old an observation may be before it proves nothing (safety rule 8).
pub const OBSERVATION_AGE_MAX: SignedDuration = SignedDuration::from_secs(60);

/// One look at the world.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What each source holds.
    pub sources: BTreeMap<ProviderName, Seen<SourceState>>,
    /// What each target holds.
    pub targets: BTreeMap<ProviderName, Seen<TargetState>>,
    /// The workers that run now.
    pub workers: BTreeMap<RunId, WorkerState>,
    /// Whether `ferry hold` is on, or the process was asked to stop.
    pub brake: Brake,
    /// Why no power-off may be started whatever a plan says: an unreachable repository, a clock that jumped, windows
    /// that cannot be read. Empty when nothing stands against it.
    pub power_off_bars: Vec<String>,
}

/// What keeps Ferry from starting anything forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Brake {
    /// Nothing.
    #[default]
    Released,
    /// `ferry hold on`.
    Held,
    /// The process ends soon.
    Stopping,
}

/// One part of the world: when it was looked at, and what was seen or why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen<T> {
    /// When the look was taken.
    pub at: Timestamp,
    /// What was seen.
    pub state: Result<T, Gap>,
}

impl<T> Seen<T> {
    /// Returns what was seen, if the look succeeded and is young enough to prove anything.
    pub fn fresh(&self, now: Timestamp) -> Option<&T> {
        let age = now.duration_since(self.at);
        if age > OBSERVATION_AGE_MAX { None } else { self.state.as_ref().ok() }
    }
}

/// Why a part of the world could not be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// What went wrong.
    pub reason: String,
    /// What a person can do about it.
    pub remedy: String,
}

/// What a source holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SourceState {
    /// Its VMs.
    pub vms: Vec<Arc<Vm>>,
    /// Parts of it that could not be read, one sentence each (a broken archive beside good ones).
    pub gaps: Vec<Gap>,
    /// The source's own clock, where it has one.
    pub clock: Option<Timestamp>,
}

impl SourceState {
    /// Finds a VM by what it is.
    pub fn vm(&self, id: &SourceVm) -> Option<&Arc<Vm>> {
        self.vms.iter().find(|vm| vm.id == *id)
    }
}

/// What a target holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetState {
    /// How much more it can store.
    pub free: Bytes,
    /// What stands there under which name, made by Ferry or not.
    pub vms: BTreeMap<TargetName, TargetVm>,
    /// The partial areas that stand there, of whichever instance.
    pub areas: BTreeSet<Token>,
    /// Whether it can start VMs; a folder of files cannot.
    #[serde(default)]
    pub starts: bool,
    /// What keeps guests from being converted there.
    #[serde(default)]
    pub converter: ConverterState,
}

/// What keeps guests from being converted. Nothing where both are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConverterState {
    /// What keeps every guest from it.
    pub missing: Option<Gap>,
    /// What keeps Windows from it.
    pub missing_for_windows: Option<Gap>,
}

/// Something that stands on the target under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetVm {
    /// The token of the run that made it; `None` for what is not ours.
    pub made_by: Option<Token>,
    /// Whether it runs; `None` where the target cannot tell (a folder of files).
    pub power: Option<Power>,
}

/// What a worker does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// It lives and copies.
    Running,
    /// It was told to stop and has not ended yet.
    Stopping,
    /// It lives and has said nothing for so long that it hangs.
    Silent,
}
