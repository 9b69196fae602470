//! `kind: Policy`: how much concerns weigh, and which of them somebody answers for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::diagnostic::Severity;
use crate::manifest::document::{Lawful, not_empty};

/// Weighs concerns and waives them. It counts for all plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Policy {
    /// How much concerns weigh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub severity: Vec<Weight>,
    /// The concerns that somebody answers for, VM by VM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waivers: Vec<Waiver>,
    /// Files of rules in Rego beside the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [["own.rego"]]))]
    pub rules: Vec<String>,
}

/// How much one concern weighs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Weight {
    /// The concern, as `ferry explain` lists it.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["vm.firmware.unknown"]))]
    pub concern: String,
    /// What it is from now on.
    pub category: Severity,
}

/// A concern that does not block one VM, since somebody answers for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Waiver {
    /// The concern, as `ferry explain` lists it.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["vm.firmware.unknown"]))]
    pub concern: String,
    /// The VM: `PLAN/VM`, or its name in any plan.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["web/web-01"]))]
    pub vm: String,
    /// Why it may move all the same, for whoever reads the preview and the report.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["It boots by BIOS: tried in the lab"]))]
    pub reason: String,
    /// The last day on which it counts (UTC), as `2026-12-31`.
    #[schemars(length(min = 10, max = 10), pattern(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    #[schemars(extend("examples" = ["2026-12-31"]))]
    pub expires: String,
}

impl Lawful for Policy {
    fn check(&self) -> Result<(), String> {
        for Weight { concern, category: _ } in &self.severity {
            not_empty(Some(concern), "concern")?;
        }
        for Waiver { concern, vm, reason, expires } in &self.waivers {
            not_empty(Some(concern), "concern")?;
            not_empty(Some(vm), "vm")?;
            not_empty(Some(reason), "reason")?;
            let digits = |range| expires.get(range).is_some_and(is_number);
            let dashes = expires.get(4..5) == Some("-") && expires.get(7..8) == Some("-");
            let day = digits(0..4) && digits(5..7) && digits(8..10) && dashes;
            if !day || expires.len() != 10 {
                return Err("`expires` is no day".to_owned());
            }
        }
        Ok(())
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}
