//! The properties of everything but VMs: what each managed entity has, and what hosts, storage and networks have besides.

use super::inventory::{Entity, Folders, Inventory, Net, Object};
use super::machine::escaped_name;
use super::scenario::{DatastoreSpec, HostSpec, Power};
use super::value::{Data, Ref, Value, int, list, long, refs, short, word};
use super::world::World;

/// What every managed entity has.
pub(super) const COMMON: [&str; 10] = [
    "availableField",
    "configStatus",
    "customValue",
    "disabledMethod",
    "name",
    "overallStatus",
    "parent",
    "recentTask",
    "tag",
    "value",
];

/// Returns what an entity of a type has besides.
pub(super) fn own(kind: &str) -> &'static [&'static str] {
    match kind {
        "VirtualMachine" => &super::machine::PROPERTIES,
        "Folder" => &["childEntity", "childType"],
        "Datacenter" => {
            &["datastore", "datastoreFolder", "hostFolder", "network", "networkFolder", "vmFolder"]
        }
        "ComputeResource" => {
            &["configurationEx", "datastore", "host", "network", "resourcePool", "summary"]
        }
        "ClusterComputeResource" => &[
            "configuration",
            "configurationEx",
            "datastore",
            "host",
            "network",
            "resourcePool",
            "summary",
        ],
        "HostSystem" => &["config", "datastore", "hardware", "network", "runtime", "summary", "vm"],
        "ResourcePool" => &["config", "owner", "resourcePool", "runtime", "summary", "vm"],
        "VirtualApp" => &[
            "config",
            "owner",
            "parentFolder",
            "parentVApp",
            "resourcePool",
            "runtime",
            "summary",
            "vm",
        ],
        "Datastore" => &["capability", "host", "info", "summary", "vm"],
        "Network" | "OpaqueNetwork" => &["host", "summary", "vm"],
        "DistributedVirtualPortgroup" => &["config", "host", "key", "portKeys", "summary", "vm"],
        "VmwareDistributedVirtualSwitch" => &["config", "portgroup", "summary", "uuid"],
        _ => &[],
    }
}

/// Returns a property of a managed entity; `None` = the type has no such one.
pub(super) fn property(world: &World, object: &Object, name: &str) -> Option<Value> {
    let inventory = &world.inventory;
    if let Some(value) = common(world, object, name) {
        return Some(value);
    }
    match &object.entity {
        Entity::Vm(machine) => machine.property(object, name),
        Entity::Folder { child_types, children } => match name {
            "childEntity" => Some(refs(children)),
            "childType" => Some(list("xsd:string", child_types.iter().copied())),
            _ => None,
        },
        Entity::Datacenter { folders, datastores, networks } => {
            let Folders { vm, host, datastore, network } = folders;
            Some(match name {
                "vmFolder" => vm.into(),
                "hostFolder" => host.into(),
                "datastoreFolder" => datastore.into(),
                "networkFolder" => network.into(),
                "datastore" => refs(datastores),
                "network" => refs(networks),
                _ => return None,
            })
        }
        Entity::Compute { hosts, pool, datacenter, drs, ha } => {
            let is_cluster = object.me.kind == "ClusterComputeResource";
            Some(match name {
                "host" => refs(hosts),
                "resourcePool" => pool.into(),
                "datastore" | "network" => of_datacenter(inventory, datacenter, name),
                "summary" => compute_summary(inventory, is_cluster, hosts).into(),
                "configurationEx" | "configuration" if is_cluster => {
                    cluster_config(name, *drs, *ha).into()
                }
                "configurationEx" => Data::new("ComputeResourceConfigInfo")
                    .with("vmSwapPlacement", "vmDirectory")
                    .into(),
                _ => return None,
            })
        }
        Entity::Host { spec, datacenter, vms, thumbprint, .. } => Some(match name {
            "vm" => refs(vms),
            "datastore" | "network" => of_datacenter(inventory, datacenter, name),
            "runtime" => host_runtime(spec).into(),
            "summary" => host_summary(world, object, spec, thumbprint).into(),
            "hardware" => host_hardware(spec, &host_uuid(world, object, spec)).into(),
            "config" => host_config(inventory, object, spec, datacenter).into(),
            _ => return None,
        }),
        Entity::Pool { owner, pools, vms } => Some(match name {
            "owner" => owner.into(),
            "resourcePool" => refs(pools),
            "vm" => refs(vms),
            "config" => pool_config(object).into(),
            "runtime" => pool_runtime().into(),
            "summary" => {
                let kind = if object.me.kind == "VirtualApp" {
                    "VirtualAppSummary"
                } else {
                    "ResourcePoolSummary"
                };
                Data::new(kind)
                    .with("name", escaped_name(&object.name))
                    .with("config", pool_config(object))
                    .with("runtime", pool_runtime())
                    .into()
            }
            "parentFolder" | "parentVApp" if object.me.kind == "VirtualApp" => Value::Unset,
            _ => return None,
        }),
        Entity::Datastore { spec, datacenter, vms, uuid } => Some(match name {
            "vm" => refs(vms),
            "host" => {
                let hosts = hosts_of(inventory, datacenter);
                list("DatastoreHostMount", hosts.iter().map(|host| mount(host, uuid)))
            }
            "summary" => datastore_summary(object, spec, uuid).into(),
            "info" => datastore_info(object, spec, uuid).into(),
            "capability" => Data::new("DatastoreCapability")
                .with("directoryHierarchySupported", true)
                .with("rawDiskMappingsSupported", spec.kind == "VMFS")
                .with("perFileThinProvisioningSupported", true)
                .into(),
            _ => return None,
        }),
        Entity::Network { datacenter, net, vms } => Some(match name {
            "vm" => refs(vms),
            "host" => refs(&hosts_of(inventory, datacenter)),
            _ => return network_property(object, net, name),
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
    }
}

fn common(world: &World, object: &Object, name: &str) -> Option<Value> {
    let machine = match &object.entity {
        Entity::Vm(machine) => Some(machine),
        _ => None,
    };
    Some(match name {
        "name" => escaped_name(&object.name).into(),
        "parent" => object.parent.as_ref().into(),
        "overallStatus" | "configStatus" => word("ManagedEntityStatus", "green"),
        "tag" => {
            let tags = machine.iter().flat_map(|machine| &machine.spec.tags);
            list("Tag", tags.map(|tag| Data::new("Tag").with("key", tag)))
        }
        "availableField" if machine.is_some() => field_definitions(world),
        "availableField" => Value::List("CustomFieldDef", Vec::new()),
        "customValue" | "value" => {
            let values = machine.iter().flat_map(|machine| &machine.custom);
            list(
                "CustomFieldValue",
                values.map(|(key, value)| {
                    Data::new("CustomFieldStringValue").with("key", int(*key)).with("value", value)
                }),
            )
        }
        "recentTask" => refs(machine.iter().flat_map(|machine| &machine.recent_tasks)),
        "disabledMethod" => Value::List("xsd:string", Vec::new()),
        _ => return None,
    })
}

/// Returns the custom attributes that VMs have.
pub(super) fn field_definitions(world: &World) -> Value {
    let fields = world.fields.iter().enumerate().map(|(at, field)| {
        Data::new("CustomFieldDef")
            .with("key", int(field_key(at)))
            .with("name", field)
            .with("type", "string")
            .with("managedObjectType", "VirtualMachine")
    });
    list("CustomFieldDef", fields)
}

/// Returns the key of a custom attribute by its place.
pub(super) fn field_key(at: usize) -> u32 {
    101 + u32::try_from(at).unwrap_or(u32::MAX - 101)
}

fn of_datacenter(inventory: &Inventory, datacenter: &Ref, name: &str) -> Value {
    match inventory.get(&datacenter.id).map(|object| &object.entity) {
        Some(Entity::Datacenter { datastores, .. }) if name == "datastore" => refs(datastores),
        Some(Entity::Datacenter { networks, .. }) => refs(networks),
        _ => Value::Unset,
    }
}

/// Returns the hosts of a datacenter: all of them see all of its storage and networks.
fn hosts_of(inventory: &Inventory, datacenter: &Ref) -> Vec<Ref> {
    let Some(Entity::Datacenter { folders, .. }) =
        inventory.get(&datacenter.id).map(|object| &object.entity)
    else {
        return Vec::new();
    };
    let mut hosts = Vec::new();
    inventory.below(&folders.host.id, true, &mut |object| {
        if matches!(object.entity, Entity::Host { .. }) {
            hosts.push(object.me.clone());
        }
    });
    hosts
}

fn compute_summary(inventory: &Inventory, is_cluster: bool, hosts: &[Ref]) -> Data {
    let specs = || {
        hosts.iter().filter_map(|host| match &inventory.get(&host.id)?.entity {
            Entity::Host { spec, .. } => Some(spec),
            _ => None,
        })
    };
    let cores: u32 = specs().map(|spec| u32::from(spec.cores)).sum();
    let memory: u64 = specs().map(|spec| spec.memory.0).sum();
    let count = i64::try_from(hosts.len()).unwrap_or(i64::MAX);
    Data::new(if is_cluster { "ClusterComputeResourceSummary" } else { "ComputeResourceSummary" })
        .with("totalCpu", int(cores * 2400))
        .with("totalMemory", long(memory))
        .with("numCpuCores", short(cores))
        .with("numCpuThreads", short(cores * 2))
        .with("effectiveCpu", int(cores * 2400))
        .with("effectiveMemory", long(memory >> 20))
        .with("numHosts", int(count))
        .with("numEffectiveHosts", int(count))
        .with("overallStatus", word("ManagedEntityStatus", "green"))
}

fn cluster_config(name: &str, drs: bool, ha: bool) -> Data {
    let data = if name == "configuration" {
        Data::new("ClusterConfigInfo")
    } else {
        Data::new("ClusterConfigInfoEx").with("vmSwapPlacement", "vmDirectory")
    };
    let behavior = word("DrsBehavior", "fullyAutomated");
    data.with("dasConfig", Data::new("ClusterDasConfigInfo").with("enabled", ha)).with(
        "drsConfig",
        Data::new("ClusterDrsConfigInfo").with("enabled", drs).with("defaultVmBehavior", behavior),
    )
}

/// Returns the uuid of a host's hardware: what names an ESXi, which has no instance uuid.
fn host_uuid(world: &World, object: &Object, spec: &HostSpec) -> String {
    spec.uuid.clone().unwrap_or_else(|| world.uuid(&format!("host {}", object.name)))
}

fn host_product(spec: &HostSpec) -> Data {
    Data::new("AboutInfo")
        .with("name", "VMware ESXi")
        .with("fullName", format!("VMware ESXi {} build-22380479", spec.version))
        .with("vendor", "VMware, Inc.")
        .with("version", &spec.version)
        .with("build", "22380479")
        .with("osType", "vmnix-x86")
        .with("productLineId", "embeddedEsx")
        .with("apiType", "HostAgent")
        .with("apiVersion", format!("{}.0", spec.version))
}

fn host_runtime(spec: &HostSpec) -> Data {
    Data::new("HostRuntimeInfo")
        .with("connectionState", word("HostSystemConnectionState", "connected"))
        .with("powerState", word("HostSystemPowerState", Power::On.wire()))
        .with("inMaintenanceMode", spec.maintenance)
        .without(&["bootTime"])
}

fn host_summary(world: &World, object: &Object, spec: &HostSpec, thumbprint: &str) -> Data {
    let hardware = Data::new("HostHardwareSummary")
        .with("vendor", "Example")
        .with("model", "Simulated")
        .with("uuid", host_uuid(world, object, spec))
        .with("memorySize", long(spec.memory.0))
        .with("cpuModel", "Simulated CPU")
        .with("cpuMhz", int(2400))
        .with("numCpuPkgs", short(spec.cpus))
        .with("numCpuCores", short(spec.cores))
        .with("numCpuThreads", short(spec.cores.saturating_mul(2)))
        .with("numNics", int(2))
        .with("numHBAs", int(1));
    let config = Data::new("HostConfigSummary")
        .with("name", &object.name)
        .with("port", int(443))
        .with("sslThumbprint", thumbprint.to_owned())
        .with("product", host_product(spec))
        .with("vmotionEnabled", true)
        .with("faultToleranceEnabled", false);
    let manager = (!world.scenario.esxi).then_some("127.0.0.1");
    Data::new("HostListSummary")
        .with("host", &object.me)
        .with("hardware", hardware)
        .with("runtime", host_runtime(spec))
        .with("config", config)
        .with("quickStats", Data::new("HostListSummaryQuickStats").with("overallCpuUsage", int(0)))
        .with("overallStatus", word("ManagedEntityStatus", "green"))
        .with("rebootRequired", false)
        .with("managementServerIp", manager)
}

fn host_hardware(spec: &HostSpec, uuid: &str) -> Data {
    let system = Data::new("HostSystemInfo")
        .with("vendor", "Example")
        .with("model", "Simulated")
        .with("uuid", uuid.to_owned())
        .without(&["serialNumber"]);
    let cpu = Data::new("HostCpuInfo")
        .with("numCpuPackages", short(spec.cpus))
        .with("numCpuCores", short(spec.cores))
        .with("numCpuThreads", short(spec.cores.saturating_mul(2)))
        .with("hz", long(2_400_000_000));
    Data::new("HostHardwareInfo")
        .with("systemInfo", system)
        .with("cpuInfo", cpu)
        .with("memorySize", long(spec.memory.0))
        .with("smcPresent", false)
}

fn host_config(inventory: &Inventory, object: &Object, spec: &HostSpec, datacenter: &Ref) -> Data {
    let (switch, pnic) = ("key-vim.host.VirtualSwitch-vSwitch0", "key-vim.host.PhysicalNic-vmnic0");
    let policy = || Data::new("HostNetworkPolicy");
    let mut groups = Vec::new();
    let Some(Entity::Datacenter { networks, .. }) =
        inventory.get(&datacenter.id).map(|object| &object.entity)
    else {
        return Data::new("HostConfigInfo");
    };
    for network in networks.iter().filter_map(|network| inventory.get(&network.id)) {
        if let Entity::Network { net: Net::Standard { vlan }, .. } = &network.entity {
            let spec = Data::new("HostPortGroupSpec")
                .with("name", &network.name)
                .with("vlanId", int(*vlan))
                .with("vswitchName", "vSwitch0")
                .with("policy", policy());
            groups.push(
                Data::new("HostPortGroup")
                    .with("key", format!("key-vim.host.PortGroup-{}", network.name))
                    .with("vswitch", switch)
                    .with("computedPolicy", policy())
                    .with("spec", spec),
            );
        }
    }
    let keys = groups.iter().filter_map(|group| group.get("key").cloned());
    let vswitch = Data::new("HostVirtualSwitch")
        .with("name", "vSwitch0")
        .with("key", switch)
        .with("numPorts", int(2560))
        .with("numPortsAvailable", int(2550))
        .with("mtu", int(1500))
        .with("portgroup", list("xsd:string", keys))
        .with("pnic", list("xsd:string", [pnic]))
        .with("spec", Data::new("HostVirtualSwitchSpec").with("numPorts", int(128)));
    let link = Data::new("PhysicalNicLinkInfo").with("speedMb", int(10_000)).with("duplex", true);
    let pnic = Data::new("PhysicalNic")
        .with("key", pnic)
        .with("device", "vmnic0")
        .with("pci", "0000:03:00.0")
        .with("driver", "nmlx5_core")
        .with("linkSpeed", link)
        .with("spec", Data::new("PhysicalNicSpec"))
        .with("wakeOnLanSupported", false)
        .with("mac", "00:25:90:00:00:01");
    let ip = Data::new("HostIpConfig")
        .with("dhcp", false)
        .with("ipAddress", "127.0.0.1")
        .with("subnetMask", "255.0.0.0");
    let vnic_spec = Data::new("HostVirtualNicSpec")
        .with("ip", ip)
        .with("mac", "00:25:90:00:00:02")
        .with("portgroup", "Management Network")
        .with("mtu", int(1500));
    let vnic = Data::new("HostVirtualNic")
        .with("device", "vmk0")
        .with("key", "key-vim.host.VirtualNic-vmk0")
        .with("portgroup", "Management Network")
        .with("spec", vnic_spec);
    let network = Data::new("HostNetworkInfo")
        .with("vswitch", list("HostVirtualSwitch", [vswitch]))
        .with("portgroup", list("HostPortGroup", groups))
        .with("pnic", list("PhysicalNic", [pnic]))
        .with("vnic", list("HostVirtualNic", [vnic.clone()]));
    let management = Data::new("VirtualNicManagerNetConfig")
        .with("nicType", "management")
        .with("multiSelectAllowed", true)
        .with("candidateVnic", list("HostVirtualNic", [vnic]))
        .with("selectedVnic", list("xsd:string", ["management.key-vim.host.VirtualNic-vmk0"]));
    let manager = Data::new("HostVirtualNicManagerInfo")
        .with("netConfig", list("VirtualNicManagerNetConfig", [management]));
    Data::new("HostConfigInfo")
        .with("host", &object.me)
        .with("product", host_product(spec))
        .with("network", network)
        .with("virtualNicManagerInfo", manager)
}

fn pool_config(object: &Object) -> Data {
    let allocation = || {
        let shares = Data::new("SharesInfo")
            .with("shares", int(4000))
            .with("level", word("SharesLevel", "normal"));
        Data::new("ResourceAllocationInfo")
            .with("reservation", long(0))
            .with("expandableReservation", true)
            .with("limit", Value::Plain("xsd:long", "-1".into()))
            .with("shares", shares)
    };
    Data::new("ResourceConfigSpec")
        .with("entity", &object.me)
        .with("cpuAllocation", allocation())
        .with("memoryAllocation", allocation())
}

fn pool_runtime() -> Data {
    let usage = || {
        [
            "reservationUsed",
            "reservationUsedForVm",
            "unreservedForPool",
            "unreservedForVm",
            "overallUsage",
            "maxUsage",
        ]
        .into_iter()
        .fold(Data::new("ResourcePoolResourceUsage"), |data, name| data.with(name, long(0)))
    };
    Data::new("ResourcePoolRuntimeInfo")
        .with("memory", usage())
        .with("cpu", usage())
        .with("overallStatus", word("ManagedEntityStatus", "green"))
}

fn datastore_url(uuid: &str) -> String {
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

fn datastore_summary(object: &Object, spec: &DatastoreSpec, uuid: &str) -> Data {
    Data::new("DatastoreSummary")
        .with("datastore", &object.me)
        .with("name", escaped_name(&object.name))
        .with("url", datastore_url(uuid))
        .with("capacity", long(spec.capacity.0))
        .with("freeSpace", long(spec.free.0))
        .with("uncommitted", long(0))
        .with("accessible", true)
        .with("multipleHostAccess", true)
        .with("type", &spec.kind)
        .with("maintenanceMode", if spec.maintenance { "inMaintenance" } else { "normal" })
}

fn datastore_info(object: &Object, spec: &DatastoreSpec, uuid: &str) -> Data {
    let kind = match spec.kind.as_str() {
        "VMFS" => "VmfsDatastoreInfo",
        "NFS" | "NFS41" => "NasDatastoreInfo",
        "vsan" => "VsanDatastoreInfo",
        _ => "DatastoreInfo",
    };
    let data = Data::new(kind)
        .with("name", escaped_name(&object.name))
        .with("url", datastore_url(uuid))
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

fn network_property(object: &Object, net: &Net, name: &str) -> Option<Value> {
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
