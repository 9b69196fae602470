//! Makes the inventory that a scenario describes.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

use super::disk::Store;
use super::inventory::{Entity, Folders, Inventory, Net};
use super::scenario::{DatacenterSpec, HostSpec, PoolSpec, Scenario, SwitchSpec};
use super::seeded_uuid;
use super::value::Ref;

/// Why a scenario cannot stand.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It names what it does not have, or has it twice.
    #[error("{0}")]
    Sense(String),
    /// The folder of the disks cannot be made.
    #[error("cannot make the folder {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
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

pub(super) struct Builder<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) store: &'a mut Store,
    pub(super) now: Timestamp,
    pub(super) thumbprint: &'a str,
    pub(super) inventory: Inventory,
    pub(super) fields: Vec<String>,
    pub(super) next: u32,
    pub(super) macs: u32,
}

/// What VMs of a datacenter refer to by name.
pub(super) struct Site {
    pub(super) me: Ref,
    pub(super) folders: Folders,
    /// Each with the pool of its computing resource.
    pub(super) hosts: Vec<(String, Ref, Ref)>,
    pub(super) pools: Vec<(String, Ref)>,
    pub(super) datastores: Vec<(String, Ref)>,
    pub(super) networks: Vec<(String, Ref)>,
}

impl Builder<'_> {
    /// Makes an id: `vm-12` as vCenter's, or the given one on a host.
    pub(super) fn id(&mut self, kind: &'static str, prefix: &str, on_host: &str) -> Ref {
        self.next += 1;
        if self.scenario.esxi {
            Ref::new(kind, on_host)
        } else {
            Ref::new(kind, &format!("{prefix}{}", self.next - 1))
        }
    }

    pub(super) fn uuid(&self, label: &str) -> String {
        seeded_uuid(self.scenario.seed, label)
    }

    pub(super) fn add(&mut self, me: &Ref, name: &str, parent: &Ref, entity: Entity) {
        self.inventory.add(me.clone(), name, Some(parent.clone()), entity);
        self.inventory.link(parent, me);
    }

    pub(super) fn folder(
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
}
