//! Newtypes for every identifier, so that a plan's name cannot be passed where a VM's is expected.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::planted::{Bug, planted};

/// Declares a newtype over a text that is written and read as that text. What was read once is shared from then on: a pass
/// over ten thousand VMs copies no text.
macro_rules! string_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(text.as_ref().into())
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

string_id! {
    /// Names a `Provider` manifest.
    ProviderName;
    /// Names a `Plan` manifest.
    PlanName;
    /// Names a `Migration` manifest.
    MigrationName;
    /// Names one entry of a plan's `vms[]`, as reports and people call it: its `name`, else its `id` or `uuid`.
    VmName;
    /// Names the VM that is made on the target (an RFC 1123 label).
    TargetName;
    /// Names a controller in claims, snapshots and report folders.
    Instance;
    /// Names a disk within its VM. Stable over observations: the disk id of an OVF, the device key of a vSphere disk.
    DiskKey;
    /// A git commit, as 40 hexadecimal digits.
    CommitId;
    /// Proves that an effect belongs to this journal: derived from the journal's own random id, the run and the step.
    Token;
    /// The digest over everything that a verdict was made of (BLAKE3, hexadecimal).
    Digest;
    /// What identifies a journal: random, made with the file.
    JournalId;
}

impl Token {
    /// Derives the token of one step of one run. Two journals never agree on one, so a claim that another journal made
    /// is never taken for ours; the same journal derives the same token after every restart.
    pub fn derive(journal: &JournalId, run: &RunId, step: &str) -> Self {
        let step = if planted(Bug::OneTokenForAllSteps) { "" } else { step };
        let text = format!("{journal}\n{run}\n{step}");
        let hash = blake3::derive_key("ferry 2026 step token", text.as_bytes());
        Self::new(hex::encode(&hash[..12]))
    }
}

/// What a VM is, whatever plans and inventories call it. Plans may be renamed, re-created or duplicated without meaning
/// another VM: "finished" belongs to this identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceVm {
    /// `about.instanceUuid` of the vCenter (of an ESXi host its hardware UUID) and the VM's `instanceUuid`.
    Vsphere {
        /// The server's UUID.
        server: Arc<str>,
        /// The VM's instance UUID.
        vm: Arc<str>,
    },
    /// The hash of the export's `.ovf` and `.mf` as stored (of all its bytes where it has no `.mf`) and the id of the
    /// virtual system within.
    Ova {
        /// SHA-256 in hexadecimal.
        archive: Arc<str>,
        /// `ovf:id` of the `VirtualSystem`.
        system: Arc<str>,
    },
}

impl fmt::Display for SourceVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsphere { server, vm } => write!(f, "vsphere:{server}/{vm}"),
            Self::Ova { archive, system } => write!(f, "ova:{archive}/{system}"),
        }
    }
}

/// A text that names no source VM.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no source VM: expected `vsphere:SERVER/VM` or `ova:HASH/SYSTEM`")]
pub struct NoSourceVm(String);

impl FromStr for SourceVm {
    type Err = NoSourceVm;

    fn from_str(text: &str) -> Result<Self, NoSourceVm> {
        let refused = || NoSourceVm(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(refused)?;
        let (first, second) = rest.split_once('/').ok_or_else(refused)?;
        match kind {
            "vsphere" => Ok(Self::Vsphere { server: first.into(), vm: second.into() }),
            "ova" => Ok(Self::Ova { archive: first.into(), system: second.into() }),
            _ => Err(refused()),
        }
    }
}

impl Serialize for SourceVm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SourceVm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One VM of one plan, as people speak of it: `PLAN/VM`.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct VmKey {
    /// The plan.
    pub plan: PlanName,
    /// The entry within.
    pub vm: VmName,
}

impl fmt::Display for VmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.plan, self.vm)
    }
}

/// One attempt to move one VM: the key of everything that is journaled about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunId {
    /// The VM.
    pub vm: SourceVm,
    /// The migration that asked for it.
    pub migration: MigrationName,
    /// Counts the attempts at this VM under this journal, from 1.
    pub attempt: u32,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.vm, self.migration, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_vm_reads_back_what_it_wrote() {
        let ova = SourceVm::Ova { archive: "ab12".into(), system: "web/01 x".into() };
        assert_eq!(ova.to_string(), "ova:ab12/web/01 x");
        assert_eq!(ova.to_string().parse::<SourceVm>().unwrap(), ova);
        assert!("ova".parse::<SourceVm>().is_err());
        assert!("disk:a/b".parse::<SourceVm>().is_err());
    }

    #[test]
    fn another_journal_derives_another_token() {
        let vm = SourceVm::Vsphere { server: "s".into(), vm: "v".into() };
        let run = RunId { vm, migration: MigrationName::new("m"), attempt: 1 };
        let of = |journal: &str| Token::derive(&JournalId::new(journal), &run, "claim");
        assert_eq!(of("one"), of("one"));
        assert_ne!(of("one"), of("two"));
    }
}
