//! Counts of what happened in simulated runs, over many of them. What was never tried was never tested: a campaign prints
//! them, and none may be zero.

use std::collections::BTreeMap;
use std::fmt;

use super::chance::{Call, Mishap};
use super::history::What;

/// What happened how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    mishaps: BTreeMap<(Call, Mishap), u64>,
    deeds: BTreeMap<&'static str, u64>,
    crashes: BTreeMap<&'static str, u64>,
    events: BTreeMap<String, u64>,
}

/// How a crash goes, as it is counted.
pub(super) const CRASHES: [&str; 4] = [
    "controller alone",
    "controller, its workers with it",
    "machine, unsynced writes with it",
    "worker alone",
];

impl Counts {
    pub(super) fn mishap(&mut self, call: Call, mishap: Mishap) {
        *self.mishaps.entry((call, mishap)).or_default() += 1;
    }

    pub(super) fn deed(&mut self, what: &What) {
        *self.deeds.entry(what.name()).or_default() += 1;
    }

    pub(super) fn crash(&mut self, kind: usize) {
        *self.crashes.entry(CRASHES[kind % CRASHES.len()]).or_default() += 1;
    }

    /// Counts one more of something that only the campaign knows: a fact, an event of nature.
    pub fn event(&mut self, name: impl Into<String>) {
        *self.events.entry(name.into()).or_default() += 1;
    }

    /// Returns how often the campaign counted something.
    pub fn events(&self, name: &str) -> u64 {
        self.events.get(name).copied().unwrap_or(0)
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        let Self { mishaps, deeds, crashes, events } = other;
        for (key, count) in mishaps {
            *self.mishaps.entry(*key).or_default() += count;
        }
        for (key, count) in deeds {
            *self.deeds.entry(key).or_default() += count;
        }
        for (key, count) in crashes {
            *self.crashes.entry(key).or_default() += count;
        }
        for (key, count) in events {
            *self.events.entry(key.clone()).or_default() += count;
        }
    }

    /// Lists what may happen and never did, one line each.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for call in Call::ALL {
            for mishap in call.mishaps() {
                if !self.mishaps.contains_key(&(call, *mishap)) {
                    missing.push(format!("fault {call:?} {mishap:?}"));
                }
            }
        }
        let never = |counts: &BTreeMap<&str, u64>, name: &&&str| !counts.contains_key(**name);
        let deeds = What::NAMES.iter().filter(|name| never(&self.deeds, name));
        missing.extend(deeds.map(|name| format!("effect {name}")));
        let crashes = CRASHES.iter().filter(|name| never(&self.crashes, name));
        missing.extend(crashes.map(|name| format!("crash {name}")));
        missing
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mishaps, deeds, crashes, events } = self;
        for ((call, mishap), count) in mishaps {
            writeln!(f, "{count:>8} fault {call:?} {mishap:?}")?;
        }
        for (name, count) in deeds {
            writeln!(f, "{count:>8} effect {name}")?;
        }
        for (name, count) in crashes {
            writeln!(f, "{count:>8} crash {name}")?;
        }
        for (name, count) in events {
            writeln!(f, "{count:>8} {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_listed() {
        let mut counts = Counts::default();
        let all = counts.missing().len();
        counts.mishap(Call::ImageSync, Mishap::SyncFailed);
        counts.crash(0);
        let mut sum = Counts::default();
        sum.add(&counts);
        sum.add(&counts);
        assert_eq!(sum.missing().len(), all - 2);
        assert_eq!(
            sum.to_string(),
            "       2 fault ImageSync SyncFailed\n       2 crash controller alone\n"
        );
    }
}
