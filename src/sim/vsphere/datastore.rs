//! The properties of datastores.

use super::entity::hosts_of;
use super::inventory::{Entity, Inventory, Object};
use super::machine::escaped_name;
use super::scenario::DatastoreSpec;
use super::value::{Data, Ref, Value, int, list, long, refs};

/// Returns a property of its own; `None` = it has no such one.
pub(super) fn property(inventory: &Inventory, object: &Object, name: &str) -> Option<Value> {
    let Entity::Datastore { spec, datacenter, vms, uuid } = &object.entity else { return None };
    Some(match name {
        "vm" => refs(vms),
        "host" => {
            let hosts = hosts_of(inventory, datacenter);
            list("DatastoreHostMount", hosts.iter().map(|host| mount(host, uuid)))
        }
        "summary" => summary(object, spec, uuid).into(),
        "info" => info(object, spec, uuid).into(),
        "capability" => Data::new("DatastoreCapability")
            .with("directoryHierarchySupported", true)
            .with("rawDiskMappingsSupported", spec.kind == "VMFS")
            .with("perFileThinProvisioningSupported", true)
            .into(),
        _ => return None,
    })
}

fn url(uuid: &str) -> String {
    format!("ds:///vmfs/volumes/{uuid}/")
}

fn mount(host: &Ref, uuid: &str) -> Data {
    let info = Data::new("HostMountInfo")
        .with("path", format!("/vmfs/volumes/{uuid}"))
        .with("accessMode", "readWrite")
        .with("mounted", true)
        .with("accessible", true);
    Data::new("DatastoreHostMount").with("key", host).with("mountInfo", info)
}

fn summary(object: &Object, spec: &DatastoreSpec, uuid: &str) -> Data {
    Data::new("DatastoreSummary")
        .with("datastore", &object.me)
        .with("name", escaped_name(&object.name))
        .with("url", url(uuid))
        .with("capacity", long(spec.capacity.0))
        .with("freeSpace", long(spec.free.0))
        .with("uncommitted", long(0))
        .with("accessible", true)
        .with("multipleHostAccess", true)
        .with("type", &spec.kind)
        .with("maintenanceMode", if spec.maintenance { "inMaintenance" } else { "normal" })
}

fn info(object: &Object, spec: &DatastoreSpec, uuid: &str) -> Data {
    let kind = match spec.kind.as_str() {
        "VMFS" => "VmfsDatastoreInfo",
        "NFS" | "NFS41" => "NasDatastoreInfo",
        "vsan" => "VsanDatastoreInfo",
        _ => "DatastoreInfo",
    };
    let data = Data::new(kind)
        .with("name", escaped_name(&object.name))
        .with("url", url(uuid))
        .with("freeSpace", long(spec.free.0))
        .with("maxFileSize", long(70_368_744_177_664))
        .with("maxMemoryFileSize", long(70_368_744_177_664));
    if kind != "VmfsDatastoreInfo" {
        return data;
    }
    let extent = Data::new("HostScsiDiskPartition")
        .with("diskName", format!("naa.{}", uuid.replace('-', "")))
        .with("partition", int(1));
    let volume = Data::new("HostVmfsVolume")
        .with("type", "VMFS")
        .with("name", &object.name)
        .with("capacity", long(spec.capacity.0))
        .with("blockSizeMb", int(1))
        .with("maxBlocks", int(63_963_136))
        .with("majorVersion", int(6))
        .with("version", "6.82")
        .with("uuid", uuid.to_owned())
        .with("extent", list("HostScsiDiskPartition", [extent]))
        .with("vmfsUpgradable", false);
    data.with("maxPhysicalRDMFileSize", long(70_368_744_177_664))
        .with("maxVirtualRDMFileSize", long(68_169_720_922_112))
        .with("vmfs", volume)
}
