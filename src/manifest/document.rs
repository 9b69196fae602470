//! The manifest kinds, one type for one schema in `schemas/`. What a field means stands in its doc comment, which is also
//! what `ferry explain` prints and what an editor shows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::diagnostic::{Finding, Place};

/// The API group and version of every manifest.
pub const API_VERSION: &str = "ferry.dev/v1alpha1";

/// One document of one file, judged and typed, with the place of each of its keys and values.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// `metadata.name`.
    pub name: String,
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

/// The kinds that are honoured.
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
}

impl Kind {
    /// All of them, in the order in which a person writes them.
    pub const ALL: [Self; 5] =
        [Self::Provider, Self::NetworkMapping, Self::StorageMapping, Self::Plan, Self::Migration];

    /// Returns the word in `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "Provider",
            Self::NetworkMapping => "NetworkMapping",
            Self::StorageMapping => "StorageMapping",
            Self::Plan => "Plan",
            Self::Migration => "Migration",
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
    Plan(Plan),
    /// `kind: Migration`
    Migration(Migration),
}

/// The name and labels of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// Names the manifest. Other manifests refer to it by this name. An RFC 1123 label: lower-case letters, digits and
    /// `-`, at most 63 characters.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Free labels, carried over to nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free annotations, carried over to nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A place where VMs come from or go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    {
        "required": ["type", "ova"],
        "properties": {
            "type": { "const": "ova" }, "ova": { "type": "object" }, "local": { "type": "null" }
        }
    },
    {
        "required": ["type", "local"],
        "properties": {
            "type": { "const": "local" }, "local": { "type": "object" }, "ova": { "type": "null" }
        }
    }
]))]
pub struct Provider {
    /// What kind of place it is.
    #[serde(rename = "type")]
    pub kind: ProviderType,
    /// For `type: ova`: where the archives are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ova: Option<OvaProvider>,
    /// For `type: local`: where disks and domains are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalProvider>,
}

/// The kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderType {
    /// OVA files in a folder. A source.
    Ova,
    /// A folder of disks with libvirt domain files. A target.
    Local,
}

/// Where OVA files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OvaProvider {
    /// An `.ova` file, or a folder of them (its sub-folders are not searched). Below one of the settings' `allowPaths`.
    #[schemars(length(min = 1))]
    pub path: String,
}

/// Where disks and domains are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LocalProvider {
    /// The folder; each VM gets one of its own below it. Below one of the settings' `allowPaths`.
    #[schemars(length(min = 1))]
    pub path: String,
}

/// The two ends of a plan or a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProviderPair {
    /// Names the source `Provider`.
    pub source: String,
    /// Names the target `Provider`.
    pub destination: String,
}

/// Which network of the source becomes which one of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetworkMapping {
    /// The providers it maps between.
    pub provider: ProviderPair,
    /// The entries. Each network of a VM needs one.
    pub map: Vec<NetworkEntry>,
}

/// One network and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetworkEntry {
    /// The network at the source.
    pub source: NamedRef,
    /// The network at the target.
    pub destination: NetworkDestination,
}

/// An object at the source, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NamedRef {
    /// Its name in the source's inventory.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// A network at the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    {
        "required": ["type", "name"],
        "properties": { "type": { "const": "multus" }, "name": { "type": "string" } }
    },
    { "required": ["type"], "properties": { "type": { "const": "pod" }, "name": { "type": "null" } } },
    {
        "required": ["type"],
        "properties": { "type": { "const": "ignored" }, "name": { "type": "null" } }
    }
]))]
pub struct NetworkDestination {
    /// What kind of network.
    #[serde(rename = "type")]
    pub kind: NetworkType,
    /// For `type: multus`: the network's name. On the local target the libvirt network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub name: Option<String>,
}

/// The kinds of networks at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkType {
    /// The target's own network with address translation. On the local target a user-mode network.
    Pod,
    /// A network with a name.
    Multus,
    /// The network card is left out.
    Ignored,
}

/// Which storage of the source becomes which one of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StorageMapping {
    /// The providers it maps between.
    pub provider: ProviderPair,
    /// The entries. An OVA has no datastores and the local target no storage classes, so between them it stays empty.
    pub map: Vec<StorageEntry>,
}

/// One datastore and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StorageEntry {
    /// The datastore at the source.
    pub source: NamedRef,
    /// The storage at the target.
    pub destination: StorageDestination,
}

/// Storage at the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StorageDestination {
    /// The storage class.
    #[schemars(length(min = 1))]
    pub storage_class: String,
}

/// A set of VMs that are moved with the same parameters. A `Migration` runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Plan {
    /// What it is for, in words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where the VMs come from and where they go.
    pub provider: ProviderPair,
    /// The mappings that it uses.
    #[serde(default)]
    pub map: PlanMaps,
    /// How the VMs are moved.
    #[serde(rename = "type", default)]
    pub kind: PlanType,
    /// The VMs.
    pub vms: Vec<PlanVm>,
    /// Whether the VMs run on the target afterwards.
    #[serde(default)]
    pub target_power_state: TargetPowerState,
    /// Leaves the guest as it is instead of installing drivers for KVM.
    #[serde(default)]
    pub skip_guest_conversion: bool,
    /// How a running guest is shut down.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// How much of a target disk is read again and compared before it is used.
    #[serde(default)]
    pub verify: Verify,
    /// What becomes of partial disks when a VM fails or is canceled.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Takes the plan out of use. Deletes nothing.
    #[serde(default)]
    pub archived: bool,
}

/// The mappings of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PlanMaps {
    /// Names a `NetworkMapping`. Needed as soon as a VM has a network card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Names a `StorageMapping`. The local target needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
}

/// How VMs are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlanType {
    /// The VM is off while its disks are copied.
    #[default]
    Cold,
    /// Most is copied while the VM runs.
    Warm,
}

/// One VM of a plan: by exactly one of `name` and `id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    { "required": ["name"], "properties": { "name": { "type": "string" } } },
    { "required": ["id"], "properties": { "id": { "type": "string" } } }
]))]
pub struct PlanVm {
    /// Its name or path in the source's inventory. For an OVA the name of the virtual system, or `FILE.ova/SYSTEM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub name: Option<String>,
    /// Its identifier at the source. For an OVA `ova:HASH/SYSTEM`, as reports show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub id: Option<String>,
    /// What it is called on the target; its name, made an RFC 1123 label, where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub target_name: Option<String>,
    /// Overrides the plan's `targetPowerState`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_power_state: Option<TargetPowerState>,
}

/// Whether a VM runs on the target afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetPowerState {
    /// As the source was; an OVA counts as off.
    #[default]
    Auto,
    /// It is started.
    On,
    /// It is created and stays off.
    Off,
}

/// How a running guest is shut down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Shutdown {
    /// How long the guest may take, as `10m` or `1h 30m`.
    #[schemars(length(min = 2, max = 20), pattern(r"^[0-9]{1,4}[hms]( ?[0-9]{1,4}[hms])*$"))]
    pub timeout: String,
    /// Whether power is cut after that time.
    pub force: bool,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { timeout: "10m".to_owned(), force: false }
    }
}

/// How much of a target disk is read again and compared before it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// All of it.
    Full,
    /// What this migration wrote.
    #[default]
    Changed,
    /// Nothing.
    None,
}

/// What becomes of partial disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They stay, and a later attempt goes on from them.
    #[default]
    Keep,
    /// They are deleted.
    Delete,
}

/// Runs a plan. Only one of a plan is active; many may follow one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Migration {
    /// Names the `Plan`.
    pub plan: String,
    /// The VMs, by their names in the plan, that are stopped and undone before the point of no return.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cancel: Vec<String>,
    /// The VMs, by their names in the plan, that are moved once more although they were moved before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub again: Vec<String>,
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

impl Lawful for Metadata {
    fn check(&self) -> Result<(), String> {
        if is_label(&self.name) { Ok(()) } else { Err("`name` is no RFC 1123 label".to_owned()) }
    }
}

impl Lawful for Provider {
    fn check(&self) -> Result<(), String> {
        match (self.kind, &self.ova, &self.local) {
            (ProviderType::Ova, Some(OvaProvider { path }), None)
            | (ProviderType::Local, None, Some(LocalProvider { path })) => {
                not_empty(Some(path), "path")
            }
            (ProviderType::Ova | ProviderType::Local, _, _) => {
                Err("the block that belongs to `type` is needed, and no other".to_owned())
            }
        }
    }
}

impl Lawful for NetworkMapping {
    fn check(&self) -> Result<(), String> {
        for NetworkEntry { source, destination } in &self.map {
            not_empty(Some(&source.name), "name")?;
            not_empty(destination.name.as_ref(), "name")?;
            match (destination.kind, destination.name.is_some()) {
                (NetworkType::Multus, true) | (NetworkType::Pod | NetworkType::Ignored, false) => {}
                (NetworkType::Multus, false) => return Err("`multus` needs a `name`".to_owned()),
                (NetworkType::Pod | NetworkType::Ignored, true) => {
                    return Err("only `multus` has a `name`".to_owned());
                }
            }
        }
        Ok(())
    }
}

impl Lawful for StorageMapping {
    fn check(&self) -> Result<(), String> {
        self.map.iter().try_for_each(|StorageEntry { source, destination }| {
            not_empty(Some(&source.name), "name")?;
            not_empty(Some(&destination.storage_class), "storageClass")
        })
    }
}

impl Lawful for Plan {
    fn check(&self) -> Result<(), String> {
        if duration_s(&self.shutdown.timeout).is_none() {
            return Err("`shutdown.timeout` is no time".to_owned());
        }
        for PlanVm { name, id, target_name, target_power_state: _ } in &self.vms {
            if name.is_some() == id.is_some() {
                return Err("a VM needs exactly one of `name` and `id`".to_owned());
            }
            not_empty(name.as_ref(), "name")?;
            not_empty(id.as_ref(), "id")?;
            if target_name.as_ref().is_some_and(|name| !is_label(name)) {
                return Err("`targetName` is no RFC 1123 label".to_owned());
            }
        }
        Ok(())
    }
}

impl Lawful for Migration {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
