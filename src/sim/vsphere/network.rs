//! The properties of networks and distributed switches.

use super::entity::hosts_of;
use super::inventory::{Entity, Inventory, Net, Object};
use super::machine::escaped_name;
use super::value::{Data, Ref, Value, int, list, refs};

/// Returns a property of its own; `None` = it has no such one.
pub(super) fn property(inventory: &Inventory, object: &Object, name: &str) -> Option<Value> {
    match &object.entity {
        Entity::Network { datacenter, net, vms } => Some(match name {
            "vm" => refs(vms),
            "host" => refs(&hosts_of(inventory, datacenter)),
            _ => return network(object, net, name),
        }),
        Entity::Switch { datacenter, uuid, port_groups } => Some(match name {
            "uuid" => uuid.into(),
            "portgroup" => refs(port_groups),
            "summary" => Data::new("DVSSummary")
                .with("name", escaped_name(&object.name))
                .with("uuid", uuid)
                .with("numPorts", int(8))
                .with("hostMember", refs(&hosts_of(inventory, datacenter)))
                .into(),
            "config" => switch_config(inventory, object, uuid, datacenter).into(),
            _ => return None,
        }),
        _ => None,
    }
}

fn network(object: &Object, net: &Net, name: &str) -> Option<Value> {
    let summary = |kind| {
        Data::new(kind)
            .with("network", &object.me)
            .with("name", escaped_name(&object.name))
            .with("accessible", true)
            .with("ipPoolName", "")
    };
    Some(match (net, name) {
        (Net::Opaque { id, kind }, "summary") => summary("OpaqueNetworkSummary")
            .with("opaqueNetworkId", id)
            .with("opaqueNetworkType", kind)
            .into(),
        (_, "summary") => summary("NetworkSummary").into(),
        (Net::PortGroup { key, .. }, "key") => key.into(),
        (Net::PortGroup { .. }, "portKeys") => list("xsd:string", ["0", "1", "2", "3"]),
        (Net::PortGroup { switch, key, vlan, .. }, "config") => {
            let vlan = Data::new("VmwareDistributedVirtualSwitchVlanIdSpec")
                .with("inherited", false)
                .with("vlanId", int(*vlan));
            let port = Data::new("VMwareDVSPortSetting").sub("vlan", vlan);
            let policy = [
                "blockOverrideAllowed",
                "shapingOverrideAllowed",
                "vendorConfigOverrideAllowed",
                "livePortMovingAllowed",
                "portConfigResetAtDisconnect",
            ]
            .into_iter()
            .fold(Data::new("VMwareDVSPortgroupPolicy"), |data, name| data.with(name, true));
            Data::new("DVPortgroupConfigInfo")
                .with("key", key)
                .with("name", escaped_name(&object.name))
                .with("numPorts", int(8))
                .with("distributedVirtualSwitch", switch)
                .sub("defaultPortConfig", port)
                .with("type", "earlyBinding")
                .sub("policy", policy)
                .with("autoExpand", true)
                .with("uplink", false)
                .without(&["logicalSwitchUuid", "segmentId"])
                .into()
        }
        _ => return None,
    })
}

fn switch_config(inventory: &Inventory, object: &Object, uuid: &str, datacenter: &Ref) -> Data {
    let members = hosts_of(inventory, datacenter).into_iter().map(|host| {
        let pnic =
            Data::new("DistributedVirtualSwitchHostMemberPnicSpec").with("pnicDevice", "vmnic1");
        let backing = Data::new("DistributedVirtualSwitchHostMemberPnicBacking")
            .with("pnicSpec", list("DistributedVirtualSwitchHostMemberPnicSpec", [pnic]));
        let config = Data::new("DistributedVirtualSwitchHostMemberConfigInfo")
            .with("host", host)
            .with("maxProxySwitchPorts", int(1536))
            .sub("backing", backing);
        Data::new("DistributedVirtualSwitchHostMember").with("config", config).with("status", "up")
    });
    Data::new("VMwareDVSConfigInfo")
        .with("uuid", uuid.to_owned())
        .with("name", escaped_name(&object.name))
        .with("numStandalonePorts", int(0))
        .with("numPorts", int(8))
        .with("maxPorts", int(8000))
        .with("host", list("DistributedVirtualSwitchHostMember", members))
        .with("configVersion", "1")
        .with("networkResourceManagementEnabled", true)
        .with("maxMtu", int(1500))
}
