//! `kind: NetworkMapping` and `kind: StorageMapping`: what becomes of networks and datastores.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::document::{
    AccessMode, Lawful, ProviderPair, VolumeMode, exactly_one, not_empty,
};

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
    pub source: NetworkSource,
    /// The network at the target.
    pub destination: NetworkDestination,
}

/// A network at the source: by exactly one of `name`, `id` and `vlan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    { "required": ["name"], "properties": { "name": { "type": "string" } } },
    { "required": ["id"], "properties": { "id": { "type": "string" } } },
    { "required": ["vlan"], "properties": { "vlan": { "type": "integer" } } }
]))]
pub struct NetworkSource {
    /// Its name in the source's inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["VM Network"]))]
    pub name: Option<String>,
    /// Its identifier in the source's inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true), length(min = 1))]
    #[schemars(extend("examples" = ["network-12"]))]
    pub id: Option<String>,
    /// The VLAN of a port group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true), range(min = 0, max = 4094))]
    #[schemars(extend("examples" = [120]))]
    pub vlan: Option<u16>,
}

/// An object at the source: by exactly one of `name` and `id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    { "required": ["name"], "properties": { "name": { "type": "string" } } },
    { "required": ["id"], "properties": { "id": { "type": "string" } } }
]))]
pub struct ObjectSource {
    /// Its name in the source's inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["ssd-01"]))]
    pub name: Option<String>,
    /// Its identifier in the source's inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true), length(min = 1))]
    #[schemars(extend("examples" = ["datastore-52"]))]
    pub id: Option<String>,
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
    #[schemars(extend("examples" = ["dmz"]))]
    pub name: Option<String>,
    /// For `type: multus` on Kubernetes: the namespace of the network's definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true), length(min = 1))]
    #[schemars(extend("examples" = ["networks"]))]
    pub namespace: Option<String>,
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
    #[schemars(extend("x-ferry-later" = true, "x-ferry-instead" = "leave it empty"))]
    pub map: Vec<StorageEntry>,
}

/// One datastore and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StorageEntry {
    /// The datastore at the source.
    pub source: ObjectSource,
    /// The storage at the target.
    pub destination: StorageDestination,
}

/// Storage at the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StorageDestination {
    /// The storage class.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["fast"]))]
    pub storage_class: String,
    /// How the volume is offered to the VM; as its provisioner prefers where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    pub volume_mode: Option<VolumeMode>,
    /// Who may use the volume; as its provisioner prefers where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    pub access_mode: Option<AccessMode>,
}

impl Lawful for NetworkMapping {
    fn check(&self) -> Result<(), String> {
        for NetworkEntry { source, destination } in &self.map {
            let NetworkSource { name, id, vlan } = source;
            exactly_one(&[name.is_some(), id.is_some(), vlan.is_some()])?;
            if vlan.is_some_and(|vlan| vlan > 4094) {
                return Err("`vlan` is too large".to_owned());
            }
            not_empty(name.as_ref(), "name")?;
            not_empty(id.as_ref(), "id")?;
            destination.check()?;
        }
        Ok(())
    }
}

impl Lawful for NetworkDestination {
    fn check(&self) -> Result<(), String> {
        not_empty(self.name.as_ref(), "name")?;
        not_empty(self.namespace.as_ref(), "namespace")?;
        match (self.kind, self.name.is_some()) {
            (NetworkType::Multus, true) | (NetworkType::Pod | NetworkType::Ignored, false) => {
                Ok(())
            }
            (NetworkType::Multus, false) => Err("`multus` needs a `name`".to_owned()),
            (NetworkType::Pod | NetworkType::Ignored, true) => {
                Err("only `multus` has a `name`".to_owned())
            }
        }
    }
}

impl Lawful for StorageMapping {
    fn check(&self) -> Result<(), String> {
        self.map.iter().try_for_each(|StorageEntry { source, destination }| {
            let ObjectSource { name, id } = source;
            exactly_one(&[name.is_some(), id.is_some()])?;
            not_empty(name.as_ref(), "name")?;
            not_empty(id.as_ref(), "id")?;
            not_empty(Some(&destination.storage_class), "storageClass")
        })
    }
}
