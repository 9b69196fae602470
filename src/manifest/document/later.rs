//! Kinds and fields of the design that this version reads and does not honour yet. Each has the mark `x-ferry-later` in its
//! schema: a finding blocks what it would touch, and the mark goes when the field is honoured.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::manifest::document::{
    Lawful, NetworkDestination, ObjectSource, Plan, PlanVm, duration_s, exactly_one, not_empty,
};

/// How a volume is offered to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumeMode {
    /// As a block device.
    Block,
    /// As a file in a filesystem.
    Filesystem,
}

/// Who may use a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessMode {
    /// One node.
    ReadWriteOnce,
    /// Many nodes, which a live migration needs.
    ReadWriteMany,
    /// Many nodes, to read.
    ReadOnlyMany,
}

/// A hook and when it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HookRef {
    /// Names the `Hook`.
    #[schemars(extend("examples" = ["stop-backup"]))]
    pub hook: String,
    /// When it runs.
    pub step: HookStep,
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HookStep {
    /// Before the VM is taken down.
    PreHook,
    /// After it runs on the target.
    PostHook,
}

/// An affinity, as Kubernetes writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Affinity(pub BTreeMap<String, Value>);

/// The rounds of a warm migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Precopy {
    /// How long a round waits for the next one, as `60m`.
    #[schemars(length(min = 2, max = 20), pattern(r"^[0-9]{1,4}[hms]( ?[0-9]{1,4}[hms])*$"))]
    pub interval: String,
    /// How many snapshots a VM may see.
    #[schemars(range(min = 1, max = 1000))]
    pub max_snapshots: u16,
    /// The longest time that the cutover is expected to take, as `5m`: without it, rounds go on until the cutover.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 20), pattern(r"^[0-9]{1,4}[hms]( ?[0-9]{1,4}[hms])*$"))]
    #[schemars(extend("examples" = ["5m"]))]
    pub downtime_budget: Option<String>,
    /// Turns changed block tracking on where it is off.
    pub enable_cbt: bool,
}

impl Default for Precopy {
    fn default() -> Self {
        let interval = "60m".to_owned();
        Self { interval, max_snapshots: 28, downtime_budget: None, enable_cbt: false }
    }
}

/// What keeps a source from coming back beside its copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Fence {
    /// Disconnects the network cards of the source.
    pub disconnect_nics: bool,
}

/// What is different for one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DiskOverride {
    /// The disk, by its key in the source's inventory.
    #[schemars(extend("examples" = ["2000"]))]
    pub disk: String,
    /// The storage class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["fast"]))]
    pub storage_class: Option<String>,
    /// How the volume is offered to the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mode: Option<VolumeMode>,
    /// Who may use the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
}

/// What is different for one network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NicOverride {
    /// The card, by its MAC address.
    #[schemars(extend("examples" = ["00:50:56:9a:00:01"]))]
    pub mac: String,
    /// The network at the target.
    pub destination: NetworkDestination,
}

/// An ESXi host that disks are read from directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-ferry-later" = true))]
pub struct Host {
    /// Names the `Provider`, of `type: vsphere`.
    #[schemars(extend("examples" = ["vcenter-prod"]))]
    pub provider: String,
    /// The host in the provider's inventory.
    pub host: ObjectSource,
    /// The address that disks are read from.
    #[schemars(extend("examples" = ["192.0.2.10"]))]
    pub ip_address: String,
    /// Names a credential of the controller's settings: an account of the host.
    #[schemars(extend("examples" = ["esx-prod"]))]
    pub credentials: String,
}

/// What a storage provisioner can do, where that differs from what Ferry knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-ferry-later" = true))]
pub struct Provisioner {
    /// The provisioner, as storage classes name it.
    #[schemars(extend("examples" = ["csi.example.org"]))]
    pub provisioner: String,
    /// The modes that it can.
    pub volume_modes: Vec<ProvisionerVolumeMode>,
}

/// A volume mode that a provisioner can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProvisionerVolumeMode {
    /// The mode.
    pub name: VolumeMode,
    /// Lower ones are preferred.
    #[schemars(range(min = 0, max = 9999))]
    #[schemars(extend("examples" = [1]))]
    pub priority: u16,
    /// The access modes that it can with it.
    pub access_modes: Vec<ProvisionerAccessMode>,
}

/// An access mode that a provisioner can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProvisionerAccessMode {
    /// The mode.
    pub name: AccessMode,
    /// Lower ones are preferred.
    #[schemars(range(min = 0, max = 9999))]
    #[schemars(extend("examples" = [1]))]
    pub priority: u16,
}

/// What runs before or after a VM moves: an image on Kubernetes, a command of the controller's settings elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-ferry-later" = true))]
pub struct Hook {
    /// The image that runs as a Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["registry.example.org/hooks/stop-backup:1.4"]))]
    pub image: Option<String>,
    /// An Ansible playbook for the image, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["LSBob3N0czogYWxsCg=="]))]
    pub playbook: Option<String>,
    /// The service account of the Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["ferry-hooks"]))]
    pub service_account: Option<String>,
    /// Names a command of the settings' `hooks.commands`, for the local target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["stop-backup"]))]
    pub command: Option<String>,
    /// How long it may take, as `30m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 20), pattern(r"^[0-9]{1,4}[hms]( ?[0-9]{1,4}[hms])*$"))]
    #[schemars(extend("examples" = ["30m"]))]
    pub deadline: Option<String>,
    /// How often it is tried again.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub retry: u8,
}

/// Checks what [`Plan`] says of later fields.
pub(super) fn plan(plan: &Plan) -> Result<(), String> {
    at_most(plan.wave, 0, 9999, "wave")?;
    for PlanVm { cpu, networks, .. } in &plan.vms {
        at_most(*cpu, 1, 4096, "cpu")?;
        networks.iter().try_for_each(|card| card.destination.check())?;
    }
    let Some(Precopy { interval, max_snapshots, downtime_budget, enable_cbt: _ }) = &plan.precopy
    else {
        return Ok(());
    };
    at_most(Some(*max_snapshots), 1, 1000, "maxSnapshots")?;
    time(Some(interval), "interval")?;
    time(downtime_budget.as_ref(), "downtimeBudget")
}

fn at_most(number: Option<u16>, least: u16, most: u16, field: &str) -> Result<(), String> {
    match number {
        Some(number) if !(least..=most).contains(&number) => {
            Err(format!("`{field}` is not between {least} and {most}"))
        }
        Some(_) | None => Ok(()),
    }
}

fn time(text: Option<&String>, field: &str) -> Result<(), String> {
    match text {
        Some(text) if duration_s(text).is_none() => Err(format!("`{field}` is no time")),
        Some(_) | None => Ok(()),
    }
}

impl Lawful for Host {
    fn check(&self) -> Result<(), String> {
        let ObjectSource { name, id } = &self.host;
        exactly_one(&[name.is_some(), id.is_some()])?;
        not_empty(name.as_ref(), "name")?;
        not_empty(id.as_ref(), "id")
    }
}

impl Lawful for Provisioner {
    fn check(&self) -> Result<(), String> {
        let modes = self.volume_modes.iter();
        let priorities = modes.flat_map(|mode| {
            let access = mode.access_modes.iter().map(|access| access.priority);
            std::iter::once(mode.priority).chain(access)
        });
        priorities.map(Some).try_for_each(|priority| at_most(priority, 0, 9999, "priority"))
    }
}

impl Lawful for Hook {
    fn check(&self) -> Result<(), String> {
        time(self.deadline.as_ref(), "deadline")?;
        at_most(Some(self.retry.into()), 0, 100, "retry")
    }
}
