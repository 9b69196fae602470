//! How much can go wrong with a VM although nothing stands against it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::desired::{Desired, Wanted};
use crate::domain::id::VmKey;
use crate::domain::vm::{Power, Vm};
use crate::manifest::diagnostic::{Finding, Severity};
use crate::manifest::document::Verify;
use crate::preview::schedule::Schedule;

/// What is left of a window when a VM is through, in seconds, so that nothing else may happen.
const SLACK_SHORT_S: i64 = 15 * 60;

/// What a person should look at before the merge, and how closely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Risk {
    /// That of the gravest factor.
    pub level: Level,
    /// What there is to look at, the gravest first.
    pub factors: Vec<Factor>,
}

/// How grave a risk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Data of the guest may be lost, or somebody answers for what would block it otherwise.
    High,
    /// Something may have to be done by hand afterwards, or again.
    Medium,
    /// Nothing is known.
    Low,
}

impl Level {
    /// Returns its word: the one to look at stands out.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::High => "HIGH",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Factor {
    /// How grave it is.
    pub level: Level,
    /// What it is.
    pub text: String,
}

impl Risk {
    /// Gathers what is known of a VM that moves.
    pub(super) fn of(
        (wanted, key): (&Wanted, &VmKey),
        desired: &Desired,
        vm: &Vm,
        schedule: Option<&Schedule>,
        findings: &[Finding],
    ) -> Self {
        let mut factors = Vec::new();
        let mut add = |level, text: String| factors.push(Factor { level, text });
        if vm.power != Power::Off && desired.shutdown_force {
            add(Level::High, "power is cut where its guest does not shut down in time".to_owned());
        }
        let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning);
        let (waived, others): (Vec<&Finding>, Vec<&Finding>) = warnings.partition(|finding| {
            let mut waivers = wanted.waivers.iter();
            waivers.any(|waiver| {
                waiver.concern == finding.code
                    && waiver.names(key)
                    && finding.text.ends_with(&waiver.words())
            })
        });
        for finding in waived {
            add(Level::High, format!("{} is waived", finding.code));
        }
        for finding in others {
            add(Level::Medium, finding.code.clone());
        }
        if desired.verify == Verify::None {
            add(Level::Medium, "the copy is not read again".to_owned());
        }
        let window = schedule.filter(|schedule| schedule.fits).and_then(|it| it.window.as_ref());
        if let Some(slack) = window.and_then(|window| window.slack_seconds)
            && slack < SLACK_SHORT_S
        {
            add(Level::Medium, "its window leaves little time".to_owned());
        }
        factors.sort();
        let level = factors.first().map_or(Level::Low, |factor| factor.level);
        Self { level, factors }
    }
}
