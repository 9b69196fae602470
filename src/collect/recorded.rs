//! What was seen, as a file: a preview of another machine, or of another day, reads it instead of looking.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::desired::Site;
use crate::domain::id::ProviderName;
use crate::observed::{Gap, Observed, Seen, SourceState, TargetState};
use crate::policy::Said;
use crate::port::Sites;

/// The version of the file. It counts up when a field changes its meaning or goes.
pub const FORMAT_VERSION: u32 = 1;

/// The largest file that is read: an inventory of 10,000 VMs has some ten megabytes.
pub const BYTES_MAX: u64 = 256 << 20;

/// What was seen of every provider, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Recorded {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// When the look ended. A preview made of it takes this for the present time.
    pub taken: Timestamp,
    /// The sources.
    pub sources: BTreeMap<ProviderName, Part<SourceState>>,
    /// The targets.
    pub targets: BTreeMap<ProviderName, Part<TargetState>>,
    /// What the rules said of these VMs, so that a preview need not ask them again.
    #[serde(default)]
    pub said: Said,
}

/// The one field that is read of every version.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    format_version: u64,
}

/// One provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Part<T> {
    /// Where it was. A provider that says something else by now was not looked at.
    pub site: Site,
    /// What was seen, or why not.
    pub seen: Seen<T>,
}

/// Why a recorded inventory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// It is no inventory.
    #[error("this is no recorded inventory")]
    Unreadable(#[source] serde_json::Error),
    /// A newer ferry wrote it.
    #[error(
        "it has the format {0}, this ferry reads {FORMAT_VERSION}: record it again, or run the newer ferry"
    )]
    Version(u64),
}

impl Recorded {
    /// Records what was seen of these sites.
    pub fn new(observed: Observed, sites: &Sites, taken: Timestamp) -> Self {
        let Observed { sources, targets, workers: _, brake: _, power_off_bars: _ } = observed;
        let (sources, targets) = (parts(sources, sites), parts(targets, sites));
        Self { format_version: FORMAT_VERSION, taken, sources, targets, said: Said::default() }
    }

    /// Reads a file.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordedError> {
        let known: Version = serde_json::from_slice(bytes).map_err(RecordedError::Unreadable)?;
        if known.format_version != u64::from(FORMAT_VERSION) {
            return Err(RecordedError::Version(known.format_version));
        }
        serde_json::from_slice(bytes).map_err(RecordedError::Unreadable)
    }

    /// Writes a file.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists become JSON") + "\n"
    }

    /// Returns what it shows of sites, as seen at the moment when it was taken. A site that is not in it, or was another one
    /// then, is a gap.
    pub fn observed(&self, sites: &Sites) -> Observed {
        let mut observed = Observed::default();
        for (name, site) in sites {
            if site.holds_sources() {
                observed.sources.insert(name.clone(), self.part(self.sources.get(name), site));
            } else {
                observed.targets.insert(name.clone(), self.part(self.targets.get(name), site));
            }
        }
        observed
    }

    fn part<T: Clone>(&self, part: Option<&Part<T>>, site: &Site) -> Seen<T> {
        let gap = |reason: &str| Gap {
            reason: reason.to_owned(),
            remedy: "record the inventory again after the merge: `ferry inventory refresh`"
                .to_owned(),
        };
        let state = match part {
            Some(part) if part.site == *site => part.seen.state.clone(),
            Some(_) => Err(gap("it was somewhere else when the inventory was recorded")),
            None => Err(gap("it is not in the recorded inventory")),
        };
        Seen { at: self.taken, state }
    }
}

/// Puts each part beside its site.
fn parts<T>(
    seen: BTreeMap<ProviderName, Seen<T>>,
    sites: &Sites,
) -> BTreeMap<ProviderName, Part<T>> {
    let part = |(name, seen): (ProviderName, Seen<T>)| {
        let site = sites.get(&name)?.clone();
        Some((name, Part { site, seen }))
    };
    seen.into_iter().filter_map(part).collect()
}
