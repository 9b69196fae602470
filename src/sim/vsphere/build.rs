//! Makes the inventory that a scenario describes.

use std::io;

use jiff::Timestamp;

use super::device;
use super::disk::{Disk, Store};
use super::inventory::{Entity, Folders, Inventory, Net};
use super::machine::{Machine, Nic, Snapshot};
use super::scenario::{
    DatacenterSpec, DiskSpec, HostSpec, NicSpec, PoolSpec, Power, Scenario, SwitchSpec, VmSpec,
};
use super::value::{Data, Ref};
use super::{seeded_tracking, seeded_uuid};

/// Why a scenario cannot stand.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It names what it does not have, or has it twice.
    #[error("{0}")]
    Sense(String),
    /// The disk of a VM cannot be made.
    #[error("cannot make the disk {disk} of {vm}")]
    Disk {
        /// The VM's name.
        vm: String,
        /// From 0.
        disk: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a scenario was made into.
pub(super) struct Built {
    pub(super) inventory: Inventory,
    /// The names of custom attributes.
    pub(super) fields: Vec<String>,
    /// The number that the next id has.
    pub(super) next: u32,
}

/// Makes the inventory, and all disks in the store.
pub(super) fn build(
    scenario: &Scenario,
    store: &mut Store,
    now: Timestamp,
    thumbprint: &str,
) -> Result<Built, BuildError> {
    let root = if scenario.esxi { "ha-folder-root" } else { "group-d1" };
    let root = Ref::new("Folder", root);
    let inventory = Inventory::new(root.clone());
    let mut builder = Builder {
        scenario,
        store,
        now,
        thumbprint,
        inventory,
        fields: Vec::new(),
        next: 2,
        macs: 0,
    };
    let child_types = &["vim.Folder", "vim.Datacenter"];
    let folder = Entity::Folder { child_types, children: Vec::new() };
    let name = if scenario.esxi { "ha-folder-root" } else { "Datacenters" };
    builder.inventory.add(root.clone(), name, None, folder);
    for datacenter in &scenario.datacenters {
        builder.datacenter(&root, datacenter)?;
    }
    Ok(Built { inventory: builder.inventory, fields: builder.fields, next: builder.next })
}

struct Builder<'a> {
    scenario: &'a Scenario,
    store: &'a mut Store,
    now: Timestamp,
    thumbprint: &'a str,
    inventory: Inventory,
    fields: Vec<String>,
    next: u32,
    macs: u32,
}

/// What VMs of a datacenter refer to by name.
struct Site {
    me: Ref,
    folders: Folders,
    /// Each with the pool of its computing resource.
    hosts: Vec<(String, Ref, Ref)>,
    pools: Vec<(String, Ref)>,
    datastores: Vec<(String, Ref)>,
    networks: Vec<(String, Ref)>,
}

impl Builder<'_> {
    /// Makes an id: `vm-12` as vCenter's, or the given one on a host.
    fn id(&mut self, kind: &'static str, prefix: &str, on_host: &str) -> Ref {
        self.next += 1;
        if self.scenario.esxi {
            Ref::new(kind, on_host)
        } else {
            Ref::new(kind, &format!("{prefix}{}", self.next - 1))
        }
    }

    fn uuid(&self, label: &str) -> String {
        seeded_uuid(self.scenario.seed, label)
    }

    fn add(&mut self, me: &Ref, name: &str, parent: &Ref, entity: Entity) {
        self.inventory.add(me.clone(), name, Some(parent.clone()), entity);
        self.inventory.link(parent, me);
    }

    fn folder(
        &mut self,
        (prefix, on_host): (&str, &str),
        name: &str,
        parent: &Ref,
        child_types: &'static [&'static str],
    ) -> Ref {
        let me = self.id("Folder", prefix, on_host);
        self.add(&me, name, parent, Entity::Folder { child_types, children: Vec::new() });
        me
    }

    fn datacenter(&mut self, root: &Ref, spec: &DatacenterSpec) -> Result<(), BuildError> {
        let name = if self.scenario.esxi { "ha-datacenter" } else { &spec.name };
        let me = self.id("Datacenter", "datacenter-", "ha-datacenter");
        // It is made before its folders, which name it as their parent.
        let nowhere = Folders {
            vm: me.clone(),
            host: me.clone(),
            datastore: me.clone(),
            network: me.clone(),
        };
        let entity =
            |folders| Entity::Datacenter { folders, datastores: Vec::new(), networks: Vec::new() };
        self.add(&me, name, root, entity(nowhere));
        let vm_types = &["vim.Folder", "vim.VirtualMachine", "vim.VirtualApp"];
        let folders = Folders {
            vm: self.folder(("group-v", "ha-folder-vm"), "vm", &me, vm_types),
            host: self.folder(
                ("group-h", "ha-folder-host"),
                "host",
                &me,
                &["vim.Folder", "vim.ComputeResource"],
            ),
            datastore: self.folder(
                ("group-s", "ha-folder-datastore"),
                "datastore",
                &me,
                &["vim.Folder", "vim.Datastore", "vim.StoragePod"],
            ),
            network: self.folder(
                ("group-n", "ha-folder-network"),
                "network",
                &me,
                &["vim.Folder", "vim.Network", "vim.DistributedVirtualSwitch"],
            ),
        };
        let mut site = Site {
            me: me.clone(),
            folders: folders.clone(),
            hosts: Vec::new(),
            pools: Vec::new(),
            datastores: Vec::new(),
            networks: Vec::new(),
        };
        self.storage_and_networks(spec, &mut site);
        self.computing(spec, &mut site);
        let lists = (
            site.datastores.iter().map(|(_, me)| me.clone()).collect(),
            site.networks.iter().map(|(_, me)| me.clone()).collect(),
        );
        if let Some(object) = self.inventory.change(&me.id) {
            object.entity = Entity::Datacenter { folders, datastores: lists.0, networks: lists.1 };
        }
        for vm in &spec.vms {
            for at in 0..vm.count.unwrap_or(1) {
                let name = match vm.count {
                    Some(_) => format!("{}{at:05}", vm.name),
                    None => vm.name.clone(),
                };
                self.vm(&site, vm, &name, at)?;
            }
        }
        Ok(())
    }

    fn storage_and_networks(&mut self, spec: &DatacenterSpec, site: &mut Site) {
        for datastore in &spec.datastores {
            let uuid = self.uuid(&format!("datastore {}", datastore.name));
            let me = self.id("Datastore", "datastore-", &uuid);
            let entity = Entity::Datastore {
                spec: datastore.clone(),
                datacenter: site.me.clone(),
                vms: Vec::new(),
                uuid,
            };
            self.add(&me, &datastore.name, &site.folders.datastore.clone(), entity);
            site.datastores.push((datastore.name.clone(), me));
        }
        for network in &spec.networks {
            let me = self.id("Network", "network-", &format!("HaNetwork-{}", network.name));
            self.network(site, me, &network.name, Net::Standard { vlan: network.vlan });
        }
        for network in &spec.opaque_networks {
            let me = self.id("OpaqueNetwork", "network-o", &format!("HaOpaque-{}", network.name));
            let id = network.id.clone();
            let id = id.unwrap_or_else(|| self.uuid(&format!("opaque {}", network.name)));
            self.network(site, me, &network.name, Net::Opaque { id, kind: network.kind.clone() });
        }
        for switch in &spec.switches {
            self.switch(switch, site);
        }
    }

    fn switch(&mut self, spec: &SwitchSpec, site: &mut Site) {
        let me = self.id("VmwareDistributedVirtualSwitch", "dvs-", &format!("dvs-{}", spec.name));
        let uuid = self.uuid(&format!("switch {}", spec.name));
        let mut port_groups = Vec::new();
        for group in &spec.port_groups {
            let on_host = format!("dvportgroup-{}", group.name);
            let group_me = self.id("DistributedVirtualPortgroup", "dvportgroup-", &on_host);
            let net = Net::PortGroup {
                switch: me.clone(),
                switch_uuid: uuid.clone(),
                key: group_me.id.to_string(),
                vlan: group.vlan,
            };
            self.network(site, group_me.clone(), &group.name, net);
            port_groups.push(group_me);
        }
        let entity = Entity::Switch { datacenter: site.me.clone(), uuid, port_groups };
        self.add(&me, &spec.name, &site.folders.network.clone(), entity);
    }

    fn network(&mut self, site: &mut Site, me: Ref, name: &str, net: Net) {
        let entity = Entity::Network { datacenter: site.me.clone(), net, vms: Vec::new() };
        self.add(&me, name, &site.folders.network, entity);
        site.networks.push((name.to_owned(), me));
    }

    fn computing(&mut self, spec: &DatacenterSpec, site: &mut Site) {
        for cluster in &spec.clusters {
            let me = self.id("ClusterComputeResource", "domain-c", "ha-compute-res");
            let flags = (cluster.drs, cluster.ha);
            self.compute(&me, &cluster.name, site, &cluster.hosts, (flags, &cluster.pools));
        }
        for host in &spec.hosts {
            let me = self.id("ComputeResource", "domain-s", "ha-compute-res");
            let hosts = std::slice::from_ref(host);
            self.compute(&me, &host.name, site, hosts, ((false, false), &[]));
        }
    }

    fn compute(
        &mut self,
        me: &Ref,
        name: &str,
        site: &mut Site,
        hosts: &[HostSpec],
        ((drs, ha), pools): ((bool, bool), &[PoolSpec]),
    ) {
        let pool = self.id("ResourcePool", "resgroup-", "ha-root-pool");
        let mut members = Vec::new();
        for spec in hosts {
            let host = self.id("HostSystem", "host-", "ha-host");
            let entity = Entity::Host {
                spec: spec.clone(),
                compute: me.clone(),
                datacenter: site.me.clone(),
                vms: Vec::new(),
                thumbprint: self.thumbprint.to_owned(),
            };
            self.inventory.add(host.clone(), &spec.name, Some(me.clone()), entity);
            site.hosts.push((spec.name.clone(), host.clone(), pool.clone()));
            members.push(host);
        }
        let datacenter = site.me.clone();
        let entity = Entity::Compute { hosts: members, pool: pool.clone(), datacenter, drs, ha };
        self.add(me, name, &site.folders.host.clone(), entity);
        self.pool(&pool, "Resources", me, me, pools, site);
    }

    fn pool(
        &mut self,
        me: &Ref,
        name: &str,
        parent: &Ref,
        owner: &Ref,
        below: &[PoolSpec],
        site: &mut Site,
    ) {
        let mut pools = Vec::new();
        for spec in below {
            let kind = if spec.v_app { "VirtualApp" } else { "ResourcePool" };
            let prefix = if spec.v_app { "resgroup-v" } else { "resgroup-" };
            let child = self.id(kind, prefix, &format!("pool-{}", spec.name));
            site.pools.push((spec.name.clone(), child.clone()));
            self.pool(&child, &spec.name, me, owner, &spec.pools, site);
            pools.push(child);
        }
        let entity = Entity::Pool { owner: owner.clone(), pools, vms: Vec::new() };
        self.inventory.add(me.clone(), name, Some(parent.clone()), entity);
    }

    /// Finds or makes the folder that a path names.
    fn vm_folder(&mut self, site: &Site, path: &str) -> Ref {
        let mut at = site.folders.vm.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let children = self.inventory.get(&at.id).map(super::inventory::Object::children);
            let found = children.into_iter().flatten().find(|child| {
                child.kind == "Folder"
                    && self.inventory.get(&child.id).is_some_and(|object| object.name == name)
            });
            at = match found {
                Some(found) => found,
                None => {
                    let vm_types = &["vim.Folder", "vim.VirtualMachine", "vim.VirtualApp"];
                    let on_host = format!("ha-folder-vm-{path}-{name}");
                    self.folder(("group-v", &on_host), name, &at, vm_types)
                }
            };
        }
        at
    }

    fn vm(&mut self, site: &Site, spec: &VmSpec, name: &str, at: u32) -> Result<(), BuildError> {
        if name.is_empty() {
            return Err(BuildError::Sense("a VM has no name".to_owned()));
        }
        let place = |kind, wanted: &str| {
            BuildError::Sense(format!(
                "the VM {name} names the {kind} {wanted}, which there is not"
            ))
        };
        let host = match &spec.host {
            Some(wanted) => site.hosts.iter().find(|(name, ..)| name == wanted),
            None => site.hosts.iter().cycle().nth(usize::try_from(at).unwrap_or(0)),
        };
        let wanted = spec.host.as_deref().unwrap_or("of any name");
        let (_, host, root_pool) = host.ok_or_else(|| place("host", wanted))?.clone();
        let pool = match &spec.pool {
            None => root_pool,
            Some(wanted) => {
                let found = site.pools.iter().find(|(name, _)| name == wanted);
                found.ok_or_else(|| place("pool", wanted))?.1.clone()
            }
        };
        let folder = self.vm_folder(site, &spec.folder);
        let number = self.next;
        let me = self.id("VirtualMachine", "vm-", &number.to_string());
        let label = format!("vm {}/{}/{name}", site.me.id, spec.folder);
        let instance_uuid = match &spec.instance_uuid {
            Some(given) => given.clone(),
            None => self.uuid(&format!("instance {label}")),
        };
        let uuid = spec.uuid.clone().unwrap_or_else(|| self.uuid(&label));
        let (disks, datastores) = self.disks(site, spec, name, &label)?;
        let (nics, networks) = self.nics(site, spec, name)?;
        let custom = self.custom(spec);
        let home = datastores.first().and_then(|first| {
            site.datastores.iter().find(|(_, me)| me == first).map(|(name, _)| name.clone())
        });
        let created = self.now;
        let mut machine = Machine {
            uuid,
            instance_uuid,
            power: spec.power,
            connection: spec.connection,
            booted: (spec.power == Power::On).then_some(created),
            clean_power_off: true,
            host: host.clone(),
            is_in_v_app: pool.kind == "VirtualApp",
            pool: pool.clone(),
            networks: networks.clone(),
            datastores: datastores.clone(),
            folder: format!("[{}] {name}/", home.unwrap_or_default()),
            disks,
            nics,
            change_tracking: spec.change_tracking,
            extra_config: spec.extra_config.clone().into_iter().collect(),
            changes: 0,
            modified: created,
            created,
            snapshots: Vec::new(),
            snapshots_made: 0,
            question: spec.question.clone(),
            recent_tasks: Vec::new(),
            power_changes: 0,
            api_before_6_7: is_before_6_7(&self.scenario.api_version),
            custom,
            spec: spec.clone(),
        };
        self.snapshots(&mut machine, spec, &me);
        self.add(&me, name, &folder, Entity::Vm(Box::new(machine)));
        for owner in [&host, &pool].into_iter().chain(&datastores).chain(&networks) {
            self.inventory.link(owner, &me);
        }
        Ok(())
    }

    fn custom(&mut self, spec: &VmSpec) -> Vec<(u32, String)> {
        let mut custom = Vec::new();
        for (name, value) in &spec.custom_attributes {
            let known = self.fields.iter().position(|field| field == name);
            let at = known.unwrap_or_else(|| {
                self.fields.push(name.clone());
                self.fields.len() - 1
            });
            custom.push((super::entity::field_key(at), value.clone()));
        }
        custom
    }

    /// Makes the snapshots that a VM has from the start. Tracking begins with the first of them.
    fn snapshots(&mut self, machine: &mut Machine, spec: &VmSpec, vm: &Ref) {
        if machine.change_tracking {
            machine.begin_tracking(|disk| {
                seeded_tracking(self.scenario.seed, &format!("tracking {} {disk}", vm.id))
            });
        }
        for name in &spec.snapshots {
            machine.snapshots_made += 1;
            let id = machine.snapshots_made;
            let me =
                self.id("VirtualMachineSnapshot", "snapshot-", &format!("{}-snapshot-{id}", vm.id));
            let disks = machine.disks.iter_mut().map(|disk| disk.freeze(id)).collect();
            machine.snapshots.push(Snapshot {
                me,
                id,
                name: name.clone(),
                description: String::new(),
                created: self.now,
                quiesced: false,
                power: machine.power,
                disks,
                removed: false,
            });
        }
    }

    fn disks(
        &mut self,
        site: &Site,
        spec: &VmSpec,
        vm: &str,
        label: &str,
    ) -> Result<(Vec<Disk>, Vec<Ref>), BuildError> {
        let mut disks: Vec<Disk> = Vec::new();
        let mut used = Vec::new();
        for (at, disk) in spec.disks.iter().enumerate() {
            let made = self.disk(site, spec, (vm, label), (at, disk), &disks)?;
            if !used.contains(&made.datastore) {
                used.push(made.datastore.clone());
            }
            disks.push(made);
        }
        if used.is_empty() {
            used.extend(self.datastore(site, spec, None, vm)?.map(|(_, me)| me));
        }
        Ok((disks, used))
    }

    fn datastore(
        &self,
        site: &Site,
        vm: &VmSpec,
        disk: Option<&DiskSpec>,
        name: &str,
    ) -> Result<Option<(String, Ref)>, BuildError> {
        let wanted = disk.and_then(|disk| disk.datastore.as_ref()).or(vm.datastore.as_ref());
        match wanted {
            None => Ok(site.datastores.first().cloned()),
            Some(wanted) => {
                let found = site.datastores.iter().find(|(name, _)| name == wanted);
                let text =
                    format!("the VM {name} names the datastore {wanted}, which there is not");
                Ok(Some(found.ok_or(BuildError::Sense(text))?.clone()))
            }
        }
    }

    fn disk(
        &mut self,
        site: &Site,
        vm: &VmSpec,
        (name, label): (&str, &str),
        (at, spec): (usize, &DiskSpec),
        others: &[Disk],
    ) -> Result<Disk, BuildError> {
        let sense =
            |what: &str| BuildError::Sense(format!("the disk {at} of the VM {name} {what}"));
        let broken = |source| BuildError::Disk { vm: name.to_owned(), disk: at, source };
        let (datastore_name, datastore) = self
            .datastore(site, vm, Some(spec), name)?
            .ok_or_else(|| sense("has no datastore to lie on"))?;
        let controller_key = device::controller_key(spec.controller, spec.bus);
        let (units, own) = device::units(spec.controller);
        let is_free = |unit: &u32| {
            Some(*unit) != own
                && !others.iter().any(|o| o.controller_key == controller_key && o.unit == *unit)
        };
        let unit = match spec.unit {
            Some(unit) => Some(unit).filter(|unit| *unit < units && is_free(unit)),
            None => (0..units).find(is_free),
        };
        let unit = unit.ok_or_else(|| sense("has no free unit on its controller"))?;
        if spec.bus >= device::buses(spec.controller) {
            return Err(sense("has a bus that no VM has"));
        }
        let capacity = match (spec.size, &spec.image) {
            (Some(size), _) => size.0,
            (None, Some(image)) => {
                std::fs::metadata(image).map_err(broken)?.len().next_multiple_of(512)
            }
            (None, None) => return Err(sense("has neither a size nor an image")),
        };
        if capacity == 0 || !capacity.is_multiple_of(512) {
            return Err(sense("has a size that is no multiple of 512 bytes"));
        }
        let content = match (&spec.image, spec.fill) {
            (Some(_), Some(_)) => return Err(sense("has both an image and a fill")),
            (Some(image), None) => self.store.image(image, capacity),
            (None, Some(fill)) => self.store.filled(capacity, fill),
            (None, None) => self.store.blank(capacity),
        };
        let base = if at == 0 { format!("{name}/{name}") } else { format!("{name}/{name}_{at}") };
        Ok(Disk {
            key: device::disk_key(spec.controller, spec.bus, unit),
            controller_key,
            unit,
            capacity,
            datastore,
            datastore_name,
            base,
            delta: 0,
            uuid: self.uuid(&format!("disk {label} {at}")),
            thin: spec.thin,
            mode: spec.mode,
            multi_writer: spec.multi_writer,
            backing: spec.backing,
            rdm: spec.rdm,
            content: content.map_err(broken)?,
            tracking: None,
        })
    }

    fn nics(
        &mut self,
        site: &Site,
        vm: &VmSpec,
        name: &str,
    ) -> Result<(Vec<Nic>, Vec<Ref>), BuildError> {
        let (mut nics, mut networks) = (Vec::new(), Vec::new());
        for (spec, at) in vm.nics.iter().zip(0..10) {
            let found = site.networks.iter().find(|(network, _)| *network == spec.network);
            let (_, network) = found.ok_or_else(|| {
                let wanted = &spec.network;
                BuildError::Sense(format!(
                    "the VM {name} names the network {wanted}, which there is not"
                ))
            })?;
            nics.push(self.nic(spec, at, network));
            if !networks.contains(network) {
                networks.push(network.clone());
            }
        }
        Ok((nics, networks))
    }

    fn nic(&mut self, spec: &NicSpec, at: u32, network: &Ref) -> Nic {
        self.macs += 1;
        let [_, high, middle, low] = self.macs.to_be_bytes();
        let mac = spec.mac.clone();
        let generated = mac.is_none();
        let net = self.inventory.get(&network.id).map(|object| &object.entity);
        let backing = match net {
            Some(Entity::Network { net: Net::PortGroup { switch_uuid, key, .. }, .. }) => {
                let port = Data::new("DistributedVirtualSwitchPortConnection")
                    .with("switchUuid", switch_uuid)
                    .with("portgroupKey", key)
                    .with("portKey", at.to_string());
                Data::new("VirtualEthernetCardDistributedVirtualPortBackingInfo").with("port", port)
            }
            Some(Entity::Network { net: Net::Opaque { id, kind }, .. }) => {
                Data::new("VirtualEthernetCardOpaqueNetworkBackingInfo")
                    .with("opaqueNetworkId", id)
                    .with("opaqueNetworkType", kind)
            }
            _ => Data::new("VirtualEthernetCardNetworkBackingInfo")
                .with("deviceName", &spec.network)
                .with("useAutoDetect", false)
                .with("network", network),
        };
        Nic {
            key: 4000 + at,
            unit: 7 + at,
            kind: spec.kind,
            mac: mac.unwrap_or_else(|| {
                format!("00:50:56:{:02x}:{middle:02x}:{low:02x}", 0x80 | (high & 0x3f))
            }),
            generated,
            connected: spec.connected,
            network_name: spec.network.clone(),
            backing,
        }
    }
}

fn is_before_6_7(api_version: &str) -> bool {
    let mut parts = api_version.split('.').filter_map(|part| part.parse::<u32>().ok());
    (parts.next(), parts.next()) < (Some(6), Some(7))
}
