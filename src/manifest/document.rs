//! The manifest kinds, one type for one schema in `schemas/`. What a field means stands in its doc comment, which is also
//! what `ferry explain` prints and what an editor shows.

mod later;
mod mapping;
mod migration;
mod plan;
mod policy;
mod provider;
mod window;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::diagnostic::{Finding, Place};

pub use later::{
    AccessMode, Affinity, DiskOverride, Fence, Hook, HookRef, HookStep, Host, NicOverride, Precopy,
    Provisioner, ProvisionerAccessMode, ProvisionerVolumeMode, VolumeMode,
};
pub use mapping::{
    NetworkDestination, NetworkEntry, NetworkMapping, NetworkSource, NetworkType, ObjectSource,
    StorageDestination, StorageEntry, StorageMapping,
};
pub use migration::{Migration, VmCutover};
pub use plan::{OnFailure, Plan, PlanMaps, PlanType, PlanVm, Shutdown, TargetPowerState, Verify};
pub use policy::{Policy, Waiver, Weight};
pub use provider::{
    ImageFormat, LocalProvider, OvaProvider, Provider, ProviderPair, ProviderType, Tls, Transport,
};
pub use window::{CutoverWindow, LabelSelector, WindowRule};

/// The API group and version of every manifest.
pub const API_VERSION: &str = "ferry.dev/v1alpha1";

/// One document of one file, judged and typed, with the place of each of its keys and values.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// What it says.
    pub spec: Spec,
    /// Where the document starts.
    pub place: Place,
    /// The place of each value by its JSON pointer (`/spec/vms/0/name`).
    pub places: BTreeMap<String, Place>,
    /// The digest of the document's own text: another document of the same file may change without changing it.
    pub digest: String,
    /// What is wrong with it although it could be read (what it asks for and is not supported yet), by JSON pointer.
    pub findings: Vec<(String, Finding)>,
}

impl Manifest {
    /// Returns where the value at a JSON pointer stands; where it was left out, its nearest parent.
    pub fn place_of(&self, pointer: &str) -> Place {
        let mut pointer = pointer;
        loop {
            if let Some(place) = self.places.get(pointer) {
                return place.clone();
            }
            match pointer.rsplit_once('/') {
                Some((parent, _)) => pointer = parent,
                None => return self.place.clone(),
            }
        }
    }
}

/// A whole document as it is written: what the schema of its kind describes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Document<S> {
    /// The group and version: `ferry.dev/v1alpha1`.
    pub api_version: ApiVersion,
    /// What the document is.
    pub kind: Kind,
    /// Its name and labels.
    pub metadata: Metadata,
    /// What it says.
    pub spec: S,
}

/// The versions that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The only one so far.
    #[serde(rename = "ferry.dev/v1alpha1")]
    V1Alpha1,
}

/// The kinds.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Kind {
    /// A place where VMs come from or go to.
    Provider,
    /// Which network becomes which.
    NetworkMapping,
    /// Which storage becomes which.
    StorageMapping,
    /// A set of VMs that are moved.
    Plan,
    /// Runs a plan.
    Migration,
    /// When VMs may be taken down.
    CutoverWindow,
    /// How much concerns weigh, and which are waived.
    Policy,
    /// An ESXi host that disks are read from directly.
    Host,
    /// What a storage provisioner can do.
    Provisioner,
    /// What runs before or after a VM moves.
    Hook,
}

impl Kind {
    /// All of them, in the order in which a person writes them.
    pub const ALL: [Self; 10] = [
        Self::Provider,
        Self::NetworkMapping,
        Self::StorageMapping,
        Self::Plan,
        Self::Migration,
        Self::CutoverWindow,
        Self::Policy,
        Self::Host,
        Self::Provisioner,
        Self::Hook,
    ];

    /// Returns the word in `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "Provider",
            Self::NetworkMapping => "NetworkMapping",
            Self::StorageMapping => "StorageMapping",
            Self::Plan => "Plan",
            Self::Migration => "Migration",
            Self::CutoverWindow => "CutoverWindow",
            Self::Policy => "Policy",
            Self::Host => "Host",
            Self::Provisioner => "Provisioner",
            Self::Hook => "Hook",
        }
    }

    /// Finds the kind that a word means.
    pub fn find(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What a type cannot say by its shape: patterns, lengths, fields that belong together. The schema says the same in its own
/// words, and a test holds the two together.
pub trait Lawful {
    /// Returns what is wrong, in one sentence.
    fn check(&self) -> Result<(), String>;
}

/// The specs of all kinds.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// `kind: Provider`
    Provider(Provider),
    /// `kind: NetworkMapping`
    NetworkMapping(NetworkMapping),
    /// `kind: StorageMapping`
    StorageMapping(StorageMapping),
    /// `kind: Plan`
    Plan(Box<Plan>),
    /// `kind: Migration`
    Migration(Migration),
    /// `kind: CutoverWindow`
    CutoverWindow(CutoverWindow),
    /// `kind: Policy`
    Policy(Policy),
    /// `kind: Host`
    Host(Host),
    /// `kind: Provisioner`
    Provisioner(Provisioner),
    /// `kind: Hook`
    Hook(Hook),
}

/// The name and labels of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// Names the manifest. Other manifests refer to it by this name. An RFC 1123 label: lower-case letters, digits and
    /// `-`, at most 63 characters.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Free labels. The selectors of `CutoverWindow`s match those of plans.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free annotations, carried over to nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Reads a time such as `10m` or `1h 30m`, in seconds.
pub fn duration_s(text: &str) -> Option<u32> {
    if !(2..=20).contains(&text.len()) {
        return None;
    }
    let mut seconds: u32 = 0;
    let mut digits = String::new();
    let mut gap = true;
    for letter in text.chars() {
        match letter {
            '0'..='9' if digits.len() < 4 => digits.push(letter),
            ' ' if digits.is_empty() && !gap => {
                gap = true;
                continue;
            }
            'h' | 'm' | 's' => {
                let unit = match letter {
                    'h' => 3600,
                    'm' => 60,
                    _ => 1,
                };
                let count: u32 = digits.parse().ok()?;
                seconds = seconds.checked_add(count.checked_mul(unit)?)?;
                digits.clear();
            }
            _ => return None,
        }
        gap = false;
    }
    (digits.is_empty() && !gap).then_some(seconds)
}

/// Tells whether a text is an RFC 1123 label.
pub fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn not_empty(text: Option<&String>, field: &str) -> Result<(), String> {
    match text {
        Some(text) if text.is_empty() => Err(format!("`{field}` is empty")),
        Some(_) | None => Ok(()),
    }
}

fn exactly_one(given: &[bool]) -> Result<(), String> {
    match given.iter().filter(|given| **given).count() {
        1 => Ok(()),
        count => Err(format!("{count} of fields of which exactly one is needed")),
    }
}

impl Lawful for Metadata {
    fn check(&self) -> Result<(), String> {
        if is_label(&self.name) { Ok(()) } else { Err("`name` is no RFC 1123 label".to_owned()) }
    }
}
