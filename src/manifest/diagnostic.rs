//! A finding: what is wrong with a manifest or a VM, where it stands, and what to do about it.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where in the repository something stands. Lines and columns count from 1, columns in characters.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The file's path in the repository, below the configured folder.
    pub file: Arc<str>,
    /// The line; 0 where the whole file is meant.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.file);
        }
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// How much a finding weighs, in the words of the field.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Severity {
    /// Blocks what it speaks of.
    Critical,
    /// Blocks nothing; a person should read it before the migration.
    Warning,
    /// Worth knowing.
    Information,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Critical => "Critical",
            Self::Warning => "Warning",
            Self::Information => "Information",
        })
    }
}

/// A diagnostic of a manifest or a concern about a VM, with its place.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Stable: `FY…` for manifests, a dotted name (`ova.manifest.missing`) for concerns.
    pub code: String,
    /// How much it weighs.
    pub severity: Severity,
    /// Where the text stands that has to change.
    pub place: Place,
    /// What is wrong, in one sentence without a full stop.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    /// Tells whether what it speaks of must not move.
    pub fn blocks(&self) -> bool {
        match self.severity {
            Severity::Critical => true,
            Severity::Warning | Severity::Information => false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.place, self.text, self.code)?;
        match &self.hint {
            Some(hint) => write!(f, " … hint: {hint}"),
            None => Ok(()),
        }
    }
}
