//! `kind: CutoverWindow`: when VMs may be taken down.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::document::{Lawful, duration_s, not_empty};

/// Bounds when the VMs of plans may be taken down. A plan is bounded by the window that it names and by each whose
/// `selector` matches its labels; all of them must be open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CutoverWindow {
    /// When it is open. Without an entry it is open unless denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<WindowRule>,
    /// When it is closed, whatever `allow` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<WindowRule>,
    /// The plans that it bounds besides those that name it; none where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// One rule: from each start of the schedule, for the duration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WindowRule {
    /// When it starts: a cron expression of five fields (minute hour day month weekday), as `0 22 * * 6`.
    #[schemars(length(min = 1, max = 100))]
    #[schemars(extend("examples" = ["0 22 * * 6"]))]
    pub schedule: String,
    /// How long it lasts, in elapsed time, as `4h` or `1h 30m`; at most seven days.
    #[schemars(length(min = 2, max = 20), pattern(r"^[0-9]{1,4}[hms]( ?[0-9]{1,4}[hms])*$"))]
    #[schemars(extend("examples" = ["4h"]))]
    pub duration: String,
    /// The time zone of the schedule, by its IANA name, as `Europe/Berlin`.
    #[schemars(length(min = 1, max = 64))]
    #[schemars(extend("examples" = ["Europe/Berlin"]))]
    pub time_zone: String,
    /// What it is for, in words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["Saturday night"]))]
    pub description: Option<String>,
}

/// Picks manifests by their labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LabelSelector {
    /// The labels that a manifest must have, each with this value. Empty matches every one.
    #[schemars(extend("examples" = [{ "tier": "gold" }]))]
    pub match_labels: BTreeMap<String, String>,
}

impl LabelSelector {
    /// Tells whether labels are those that it asks for.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

impl Lawful for CutoverWindow {
    fn check(&self) -> Result<(), String> {
        for WindowRule { schedule, duration, time_zone, description: _ } in
            self.allow.iter().chain(&self.deny)
        {
            at_most(schedule, 100, "schedule")?;
            at_most(time_zone, 64, "timeZone")?;
            if duration_s(duration).is_none() {
                return Err("`duration` is no time".to_owned());
            }
        }
        Ok(())
    }
}

fn at_most(text: &str, letters: usize, field: &str) -> Result<(), String> {
    not_empty(Some(&text.to_owned()), field)?;
    if text.chars().count() > letters {
        return Err(format!("`{field}` is longer than {letters} characters"));
    }
    Ok(())
}
