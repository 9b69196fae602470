//! The properties of managed entities: what each has, and what the tree is made of.

use super::inventory::{Entity, Inventory, Object};
use super::machine::escaped_name;
use super::value::{Data, Ref, Value, int, list, long, refs, short, word};
use super::world::World;
use super::{datastore, host, network};

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
        Entity::Datacenter { folders, datastores, networks } => Some(match name {
            "vmFolder" => (&folders.vm).into(),
            "hostFolder" => (&folders.host).into(),
            "datastoreFolder" => (&folders.datastore).into(),
            "networkFolder" => (&folders.network).into(),
            "datastore" => refs(datastores),
            "network" => refs(networks),
            _ => return None,
        }),
        Entity::Compute { .. } => compute(inventory, object, name),
        Entity::Host { .. } => host::property(world, object, name),
        Entity::Pool { .. } => pool(object, name),
        Entity::Datastore { .. } => datastore::property(inventory, object, name),
        Entity::Network { .. } | Entity::Switch { .. } => {
            network::property(inventory, object, name)
        }
    }
}

fn compute(inventory: &Inventory, object: &Object, name: &str) -> Option<Value> {
    let Entity::Compute { hosts, pool, datacenter, drs, ha } = &object.entity else { return None };
    let is_cluster = object.me.kind == "ClusterComputeResource";
    Some(match name {
        "host" => refs(hosts),
        "resourcePool" => pool.into(),
        "datastore" | "network" => of_datacenter(inventory, datacenter, name),
        "summary" => compute_summary(inventory, is_cluster, hosts).into(),
        "configurationEx" | "configuration" if is_cluster => cluster_config(name, *drs, *ha).into(),
        "configurationEx" => {
            Data::new("ComputeResourceConfigInfo").with("vmSwapPlacement", "vmDirectory").into()
        }
        _ => return None,
    })
}

fn pool(object: &Object, name: &str) -> Option<Value> {
    let Entity::Pool { owner, pools, vms } = &object.entity else { return None };
    let is_v_app = object.me.kind == "VirtualApp";
    Some(match name {
        "owner" => owner.into(),
        "resourcePool" => refs(pools),
        "vm" => refs(vms),
        "config" => pool_config(object).into(),
        "runtime" => pool_runtime().into(),
        "summary" => Data::new(if is_v_app { "VirtualAppSummary" } else { "ResourcePoolSummary" })
            .with("name", escaped_name(&object.name))
            .with("config", pool_config(object))
            .with("runtime", pool_runtime())
            .into(),
        "parentFolder" | "parentVApp" if is_v_app => Value::Unset,
        _ => return None,
    })
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

pub(super) fn of_datacenter(inventory: &Inventory, datacenter: &Ref, name: &str) -> Value {
    match inventory.get(&datacenter.id).map(|object| &object.entity) {
        Some(Entity::Datacenter { datastores, .. }) if name == "datastore" => refs(datastores),
        Some(Entity::Datacenter { networks, .. }) => refs(networks),
        _ => Value::Unset,
    }
}

/// Returns the hosts of a datacenter: all of them see all of its storage and networks.
pub(super) fn hosts_of(inventory: &Inventory, datacenter: &Ref) -> Vec<Ref> {
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
