//! `kind: Migration`: runs a plan.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::document::{Lawful, not_empty};

/// Runs a plan. Only one of a plan is active; many may follow one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Migration {
    /// Names the `Plan`.
    #[schemars(extend("examples" = ["web"]))]
    pub plan: String,
    /// When its VMs are cut over: a time with its offset, as `2026-11-28T22:00:00+01:00`, `now`, or `never` until another time
    /// stands here. A cold migration begins then; without a time it begins at once. Changing the time reschedules, taking it
    /// away postpones, and one that has passed is never caught up with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 25), pattern(CUTOVER))]
    #[schemars(extend("examples" = ["2026-11-28T22:00:00+01:00"]))]
    pub cutover: Option<String>,
    /// The same for single VMs, instead of `cutover`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vm_cutover: Vec<VmCutover>,
    /// The VMs, by their names in the plan, that are stopped and undone before the point of no return.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["web-01"]]))]
    pub cancel: Vec<String>,
    /// The VMs, by their names in the plan, that are moved once more although they were moved before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = [["web-01"]]))]
    pub again: Vec<String>,
    /// The VMs, by their names in the plan, that go back to their source after they were started on the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [["web-01"]]))]
    pub rollback: Vec<String>,
    /// The VMs, by their names in the plan, whose copied data may be discarded by an edit of the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [["web-01"]]))]
    pub allow_recopy: Vec<String>,
    /// The VMs, by their names in the plan, whose conversion is tried again without copying.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [["web-01"]]))]
    pub resume_conversion: Vec<String>,
}

/// When one VM of a plan is cut over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VmCutover {
    /// The VM, by its name in the plan.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["db-01"]))]
    pub vm: String,
    /// As `spec.cutover`.
    #[schemars(length(min = 3, max = 25), pattern(CUTOVER))]
    #[schemars(extend("examples" = ["2026-11-28T23:30:00+01:00"]))]
    pub cutover: String,
}

/// How the time of a cutover is written: RFC 3339 without fractions, always with an offset, or `now`, or `never`.
const CUTOVER: &str =
    "^(now|never|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2}))$";

/// Tells whether a text has the shape of [`CUTOVER`]. Whether there is such a day is asked when it is read.
fn is_cutover(text: &str) -> bool {
    let shape: String =
        text.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    match shape.strip_prefix("0000-00-00T00:00:00") {
        None => text == "now" || text == "never",
        Some(offset) => matches!(offset, "Z" | "+00:00" | "-00:00"),
    }
}

impl Lawful for Migration {
    fn check(&self) -> Result<(), String> {
        for VmCutover { vm, cutover } in &self.vm_cutover {
            not_empty(Some(vm), "vm")?;
            if !is_cutover(cutover) {
                return Err("`vmCutover.cutover` is no time".to_owned());
            }
        }
        if self.cutover.as_ref().is_some_and(|cutover| !is_cutover(cutover)) {
            return Err("`cutover` is no time".to_owned());
        }
        Ok(())
    }
}
