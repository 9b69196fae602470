//! `kind: Plan`: VMs that are moved with the same parameters.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::vm::Power;
use crate::manifest::document::{
    Affinity, DiskOverride, Fence, HookRef, Lawful, NicOverride, Precopy, ProviderPair, duration_s,
    exactly_one, is_label, later, not_empty,
};

/// A set of VMs that are moved with the same parameters. A `Migration` runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Plan {
    /// What it is for, in words for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["The web shop"]))]
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
    /// Names a `CutoverWindow`: its VMs are taken down only while that is open, and a cold migration begins only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["saturday-night"]))]
    pub window: Option<String>,
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
    /// More VMs, by an expression over the inventory. It is evaluated on every pass; each preview lists what it picks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true, "examples" = ["folder =~ '/prod/.*' && power == 'off'"]))]
    pub select: Option<String>,
    /// What runs before and after each VM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    pub hooks: Vec<HookRef>,
    /// The namespace of the VMs on Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = ["shop"]))]
    pub target_namespace: Option<String>,
    /// Keeps static addresses of guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "preserveStaticIPs")]
    #[schemars(extend("x-ferry-later" = true, "default" = true))]
    pub preserve_static_ips: Option<bool>,
    /// Moves disks that several VMs share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true, "default" = true))]
    pub migrate_shared_disks: Option<bool>,
    /// How claims are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = ["{{.VmName}}-{{.DiskIndex}}"]))]
    pub pvc_name_template: Option<String>,
    /// How volumes are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = ["disk-{{.VolumeIndex}}"]))]
    pub volume_name_template: Option<String>,
    /// How network interfaces are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = ["net-{{.NetworkIndex}}"]))]
    pub network_name_template: Option<String>,
    /// Labels of the VMs on the target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [{ "team": "shop" }]))]
    pub target_labels: BTreeMap<String, String>,
    /// The labels of the nodes on which the VMs may run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [{ "zone": "a" }]))]
    pub target_node_selector: BTreeMap<String, String>,
    /// The affinity of the VMs, as Kubernetes writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [{ "nodeAffinity": {} }]))]
    pub target_affinity: Option<Affinity>,
    /// The rounds of a warm migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    pub precopy: Option<Precopy>,
    /// What keeps the source from coming back beside its copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    pub fence: Option<Fence>,
    /// The place of the plan in an order of waves: lower ones first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true), range(min = 0, max = 9999))]
    #[schemars(extend("examples" = [2]))]
    pub wave: Option<u16>,
    /// Names the plans whose VMs are migrated first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [["databases"]]))]
    pub depends_on: Vec<String>,
}

/// The mappings of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PlanMaps {
    /// Names a `NetworkMapping`. Needed as soon as a VM has a network card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["office-networks"]))]
    pub network: Option<String>,
    /// Names a `StorageMapping`. The local target needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["office-storage"]))]
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

/// One VM of a plan: by exactly one of `name`, `id` and `uuid`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    { "required": ["name"], "properties": { "name": { "type": "string" } } },
    { "required": ["id"], "properties": { "id": { "type": "string" } } },
    { "required": ["uuid"], "properties": { "uuid": { "type": "string" } } }
]))]
pub struct PlanVm {
    /// Its name or path in the source's inventory: at a vCenter `DATACENTER/vm/FOLDER/NAME`, for an OVA the name of the virtual
    /// system, or `FILE.ova/SYSTEM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["web-01"]))]
    pub name: Option<String>,
    /// Its identifier at the source: of a vCenter `vm-123`, for an OVA `ova:HASH/SYSTEM`, as reports show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["ova:9f2c…/web-01"]))]
    pub id: Option<String>,
    /// What it is called on the target; its name, made an RFC 1123 label, where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[schemars(extend("examples" = ["web-01"]))]
    pub target_name: Option<String>,
    /// Overrides the plan's `targetPowerState`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_power_state: Option<TargetPowerState>,
    /// Its instance UUID, or its BIOS UUID where no other VM has the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["5029c9ab-25a0-4c4f-8a6d-2f1f3a1a4b10"]))]
    pub uuid: Option<String>,
    /// What runs before and after this VM, instead of the plan's hooks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    pub hooks: Vec<HookRef>,
    /// The disk that holds the root of the guest; found by looking into it where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = ["/dev/sda2"]))]
    pub root_disk: Option<String>,
    /// Names a credential of the controller's settings that holds the keys of encrypted disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = ["disk-keys"]))]
    pub luks: Option<String>,
    /// An instance type of KubeVirt, instead of the VM's own CPUs and memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = ["u1.medium"]))]
    pub instance_type: Option<String>,
    /// What is different for single disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    pub disks: Vec<DiskOverride>,
    /// What is different for single network cards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    pub networks: Vec<NicOverride>,
    /// Labels of the VM on the target, besides the plan's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [{ "tier": "gold" }]))]
    pub labels: BTreeMap<String, String>,
    /// How many CPUs it gets on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true), range(min = 1, max = 4096))]
    #[schemars(extend("examples" = [4]))]
    pub cpu: Option<u16>,
    /// How much memory it gets on the target, as `8Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true, "examples" = ["8Gi"]))]
    pub memory: Option<String>,
    /// A merge patch of its definition on the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = [{ "spec": { "template": {} } }]))]
    pub patch: Option<BTreeMap<String, serde_json::Value>>,
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

impl TargetPowerState {
    /// Tells whether a VM is to be started on the target, given how its source was found.
    pub fn starts(self, was: Power) -> bool {
        match (self, was) {
            (Self::On, _) | (Self::Auto, Power::On) => true,
            (Self::Off, _) | (Self::Auto, Power::Off) => false,
        }
    }
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

impl Lawful for Plan {
    fn check(&self) -> Result<(), String> {
        if duration_s(&self.shutdown.timeout).is_none() {
            return Err("`shutdown.timeout` is no time".to_owned());
        }
        later::plan(self)?;
        for PlanVm { name, id, uuid, target_name, .. } in &self.vms {
            exactly_one(&[name.is_some(), id.is_some(), uuid.is_some()])?;
            for name in [name, id, uuid] {
                not_empty(name.as_ref(), "name")?;
            }
            if target_name.as_ref().is_some_and(|name| !is_label(name)) {
                return Err("`targetName` is no RFC 1123 label".to_owned());
            }
        }
        Ok(())
    }
}
