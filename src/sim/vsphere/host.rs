//! The properties of hosts.

use super::entity::of_datacenter;
use super::inventory::{Entity, Inventory, Net, Object};
use super::scenario::{HostSpec, Power};
use super::value::{Data, Ref, Value, int, list, long, refs, short, word};
use super::world::World;

/// Returns a property of its own; `None` = it has no such one.
pub(super) fn property(world: &World, object: &Object, name: &str) -> Option<Value> {
    let Entity::Host { spec, datacenter, vms, thumbprint, .. } = &object.entity else {
        return None;
    };
    Some(match name {
        "vm" => refs(vms),
        "datastore" | "network" => of_datacenter(&world.inventory, datacenter, name),
        "runtime" => runtime(spec).into(),
        "summary" => summary(world, object, spec, thumbprint).into(),
        "hardware" => hardware(spec, &uuid(world, object, spec)).into(),
        "config" => config(&world.inventory, object, spec, datacenter).into(),
        _ => return None,
    })
}

/// Returns the uuid of a host's hardware: what names an ESXi, which has no instance uuid.
fn uuid(world: &World, object: &Object, spec: &HostSpec) -> String {
    spec.uuid.clone().unwrap_or_else(|| world.uuid(&format!("host {}", object.name)))
}

fn product(spec: &HostSpec) -> Data {
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

fn runtime(spec: &HostSpec) -> Data {
    Data::new("HostRuntimeInfo")
        .with("connectionState", word("HostSystemConnectionState", "connected"))
        .with("powerState", word("HostSystemPowerState", Power::On.wire()))
        .with("inMaintenanceMode", spec.maintenance)
        .without(&["bootTime"])
}

fn summary(world: &World, object: &Object, spec: &HostSpec, thumbprint: &str) -> Data {
    let hardware = Data::new("HostHardwareSummary")
        .with("vendor", "Example")
        .with("model", "Simulated")
        .with("uuid", uuid(world, object, spec))
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
        .with("product", product(spec))
        .with("vmotionEnabled", true)
        .with("faultToleranceEnabled", false);
    let manager = (!world.scenario.esxi).then_some("127.0.0.1");
    Data::new("HostListSummary")
        .with("host", &object.me)
        .with("hardware", hardware)
        .with("runtime", runtime(spec))
        .with("config", config)
        .with("quickStats", Data::new("HostListSummaryQuickStats").with("overallCpuUsage", int(0)))
        .with("overallStatus", word("ManagedEntityStatus", "green"))
        .with("rebootRequired", false)
        .with("managementServerIp", manager)
}

fn hardware(spec: &HostSpec, uuid: &str) -> Data {
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

fn config(inventory: &Inventory, object: &Object, spec: &HostSpec, datacenter: &Ref) -> Data {
    let vnic = vnic();
    let management = Data::new("VirtualNicManagerNetConfig")
        .with("nicType", "management")
        .with("multiSelectAllowed", true)
        .with("candidateVnic", list("HostVirtualNic", [vnic.clone()]))
        .with("selectedVnic", list("xsd:string", ["management.key-vim.host.VirtualNic-vmk0"]));
    let manager = Data::new("HostVirtualNicManagerInfo")
        .with("netConfig", list("VirtualNicManagerNetConfig", [management]));
    let groups = port_groups(inventory, datacenter);
    let network = Data::new("HostNetworkInfo")
        .with("vswitch", list("HostVirtualSwitch", [switch(&groups)]))
        .with("portgroup", list("HostPortGroup", groups))
        .with("pnic", list("PhysicalNic", [pnic()]))
        .with("vnic", list("HostVirtualNic", [vnic]));
    Data::new("HostConfigInfo")
        .with("host", &object.me)
        .with("product", product(spec))
        .with("network", network)
        .with("virtualNicManagerInfo", manager)
}

const SWITCH: &str = "key-vim.host.VirtualSwitch-vSwitch0";
const PNIC: &str = "key-vim.host.PhysicalNic-vmnic0";

/// Returns the standard networks as a host has them.
fn port_groups(inventory: &Inventory, datacenter: &Ref) -> Vec<Data> {
    let policy = || Data::new("HostNetworkPolicy");
    let mut groups = Vec::new();
    for network in of_datacenter(inventory, datacenter, "network").refs() {
        let Some(network) = inventory.get(&network.id) else { continue };
        let Entity::Network { net: Net::Standard { vlan }, .. } = &network.entity else { continue };
        let spec = Data::new("HostPortGroupSpec")
            .with("name", &network.name)
            .with("vlanId", int(*vlan))
            .with("vswitchName", "vSwitch0")
            .with("policy", policy());
        groups.push(
            Data::new("HostPortGroup")
                .with("key", format!("key-vim.host.PortGroup-{}", network.name))
                .with("vswitch", SWITCH)
                .with("computedPolicy", policy())
                .with("spec", spec),
        );
    }
    groups
}

fn switch(groups: &[Data]) -> Data {
    let keys = groups.iter().filter_map(|group| group.get("key").cloned());
    Data::new("HostVirtualSwitch")
        .with("name", "vSwitch0")
        .with("key", SWITCH)
        .with("numPorts", int(2560))
        .with("numPortsAvailable", int(2550))
        .with("mtu", int(1500))
        .with("portgroup", list("xsd:string", keys))
        .with("pnic", list("xsd:string", [PNIC]))
        .with("spec", Data::new("HostVirtualSwitchSpec").with("numPorts", int(128)))
}

fn pnic() -> Data {
    let link = Data::new("PhysicalNicLinkInfo").with("speedMb", int(10_000)).with("duplex", true);
    Data::new("PhysicalNic")
        .with("key", PNIC)
        .with("device", "vmnic0")
        .with("pci", "0000:03:00.0")
        .with("driver", "nmlx5_core")
        .with("linkSpeed", link)
        .with("spec", Data::new("PhysicalNicSpec"))
        .with("wakeOnLanSupported", false)
        .with("mac", "00:25:90:00:00:01")
}

fn vnic() -> Data {
    let ip = Data::new("HostIpConfig")
        .with("dhcp", false)
        .with("ipAddress", "127.0.0.1")
        .with("subnetMask", "255.0.0.0");
    let spec = Data::new("HostVirtualNicSpec")
        .with("ip", ip)
        .with("mac", "00:25:90:00:00:02")
        .with("portgroup", "Management Network")
        .with("mtu", int(1500));
    Data::new("HostVirtualNic")
        .with("device", "vmk0")
        .with("key", "key-vim.host.VirtualNic-vmk0")
        .with("portgroup", "Management Network")
        .with("spec", spec)
}
