//! The managed entities: a tree of named objects, each with the revision at which it last changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::machine::Machine;
use super::scenario::{DatastoreSpec, HostSpec};
use super::value::Ref;

/// One managed entity.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) me: Ref,
    pub(super) name: String,
    pub(super) parent: Option<Ref>,
    /// The revision of the inventory at which it last changed.
    pub(super) revision: u64,
    pub(super) entity: Entity,
}

/// What an object is.
#[derive(Debug)]
pub(super) enum Entity {
    Folder {
        child_types: &'static [&'static str],
        children: Vec<Ref>,
    },
    Datacenter {
        folders: Folders,
        datastores: Vec<Ref>,
        networks: Vec<Ref>,
    },
    /// A host that stands alone, or a cluster.
    Compute {
        hosts: Vec<Ref>,
        pool: Ref,
        datacenter: Ref,
        drs: bool,
        ha: bool,
    },
    Host {
        spec: HostSpec,
        compute: Ref,
        datacenter: Ref,
        vms: Vec<Ref>,
        thumbprint: String,
    },
    /// A resource pool or a vApp.
    Pool {
        owner: Ref,
        pools: Vec<Ref>,
        vms: Vec<Ref>,
    },
    Datastore {
        spec: DatastoreSpec,
        datacenter: Ref,
        vms: Vec<Ref>,
        uuid: String,
    },
    Network {
        datacenter: Ref,
        net: Net,
        vms: Vec<Ref>,
    },
    Switch {
        datacenter: Ref,
        uuid: String,
        port_groups: Vec<Ref>,
    },
    Vm(Box<Machine>),
}

/// The four folders of a datacenter.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    pub(super) vm: Ref,
    pub(super) host: Ref,
    pub(super) datastore: Ref,
    pub(super) network: Ref,
}

/// What a network is.
#[derive(Clone, Debug)]
pub(super) enum Net {
    Standard { vlan: u16 },
    PortGroup { switch: Ref, switch_uuid: String, key: String, vlan: u16 },
    Opaque { id: String, kind: String },
}

/// All managed entities.
#[derive(Debug)]
pub(super) struct Inventory {
    objects: BTreeMap<Arc<str>, Object>,
    pub(super) root: Ref,
    /// Counts changes.
    revision: u64,
}

impl Inventory {
    pub(super) fn new(root: Ref) -> Self {
        Self { objects: BTreeMap::new(), root, revision: 0 }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn add(&mut self, me: Ref, name: &str, parent: Option<Ref>, entity: Entity) {
        self.revision += 1;
        let object = Object {
            me: me.clone(),
            name: name.to_owned(),
            parent,
            revision: self.revision,
            entity,
        };
        self.objects.insert(me.id.clone(), object);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Object> {
        self.revision += 1;
        self.objects.remove(id)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Object> {
        self.objects.get(id)
    }

    /// Returns an object to be changed: its watchers look at it again.
    pub(super) fn change(&mut self, id: &str) -> Option<&mut Object> {
        let object = self.objects.get_mut(id)?;
        self.revision += 1;
        object.revision = self.revision;
        Some(object)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    pub(super) fn vm(&self, id: &str) -> Option<&Machine> {
        let Entity::Vm(machine) = &self.get(id)?.entity else { return None };
        Some(machine)
    }

    /// Returns a VM to be changed.
    pub(super) fn change_vm(&mut self, id: &str) -> Option<&mut Machine> {
        let Entity::Vm(machine) = &mut self.change(id)?.entity else { return None };
        Some(machine)
    }

    pub(super) fn vms(&self) -> impl Iterator<Item = (&Object, &Machine)> {
        self.all().filter_map(|object| {
            let Entity::Vm(machine) = &object.entity else { return None };
            Some((object, &**machine))
        })
    }

    pub(super) fn vm_named(&self, name: &str) -> Option<(&Object, &Machine)> {
        self.vms().find(|(object, _)| object.name == name)
    }

    /// Finds the VM of a snapshot.
    pub(super) fn vm_of_snapshot(&self, id: &str) -> Option<(&Object, &Machine)> {
        self.vms()
            .find(|(_, machine)| machine.snapshots.iter().any(|s| &*s.me.id == id && !s.removed))
    }

    /// Returns the objects of which the tree below one consists, in depth-first order.
    pub(super) fn below(&self, id: &str, recursive: bool, visit: &mut dyn FnMut(&Object)) {
        let Some(object) = self.get(id) else { return };
        for child in object.children() {
            let Some(found) = self.get(&child.id) else { continue };
            visit(found);
            if recursive {
                self.below(&child.id, true, visit);
            }
        }
    }

    /// Returns the datacenter that an object lies in.
    pub(super) fn datacenter(&self, id: &str) -> Option<&Object> {
        let mut object = self.get(id)?;
        loop {
            if let Entity::Datacenter { .. } = object.entity {
                return Some(object);
            }
            object = self.get(&object.parent.as_ref()?.id)?;
        }
    }

    /// Follows a path of names, `DC1/vm/prod/web01`.
    pub(super) fn by_path(&self, path: &str) -> Option<&Object> {
        let mut object = self.get(&self.root.id)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let children = object.children();
            object = children
                .iter()
                .filter_map(|child| self.get(&child.id))
                .find(|child| child.name == name)?;
        }
        Some(object)
    }

    /// Appends a reference to one of an object's lists.
    pub(super) fn link(&mut self, owner: &Ref, child: &Ref) {
        let Some(object) = self.change(&owner.id) else { return };
        match &mut object.entity {
            Entity::Folder { children, .. } => children.push(child.clone()),
            Entity::Host { vms, .. }
            | Entity::Pool { vms, .. }
            | Entity::Datastore { vms, .. }
            | Entity::Network { vms, .. } => vms.push(child.clone()),
            Entity::Datacenter { .. }
            | Entity::Compute { .. }
            | Entity::Switch { .. }
            | Entity::Vm(_) => {}
        }
    }

    /// Takes a reference out of an object's lists.
    pub(super) fn unlink(&mut self, owner: &Ref, child: &Ref) {
        let Some(object) = self.change(&owner.id) else { return };
        match &mut object.entity {
            Entity::Folder { children: list, .. }
            | Entity::Host { vms: list, .. }
            | Entity::Pool { vms: list, .. }
            | Entity::Datastore { vms: list, .. }
            | Entity::Network { vms: list, .. } => list.retain(|listed| listed != child),
            Entity::Datacenter { .. }
            | Entity::Compute { .. }
            | Entity::Switch { .. }
            | Entity::Vm(_) => {}
        }
    }
}

impl Object {
    /// Returns what lies directly below it: what a container view walks over, and a path of names.
    pub(super) fn children(&self) -> Vec<Ref> {
        match &self.entity {
            Entity::Folder { children, .. } => children.clone(),
            Entity::Datacenter { folders, .. } => {
                let Folders { vm, host, datastore, network } = folders.clone();
                vec![vm, host, datastore, network]
            }
            Entity::Compute { hosts, pool, .. } => {
                let mut children = hosts.clone();
                children.push(pool.clone());
                children
            }
            Entity::Pool { pools, .. } => pools.clone(),
            Entity::Host { .. }
            | Entity::Datastore { .. }
            | Entity::Network { .. }
            | Entity::Switch { .. }
            | Entity::Vm(_) => Vec::new(),
        }
    }
}

/// Tells whether a managed type is another one or one of its subtypes.
pub(super) fn is_a(kind: &str, of: &str) -> bool {
    if of == "ManagedObject" {
        return true;
    }
    let mut at = Some(kind);
    while let Some(kind) = at {
        if kind == of {
            return true;
        }
        at = match kind {
            "ClusterComputeResource" => Some("ComputeResource"),
            "VirtualApp" => Some("ResourcePool"),
            "DistributedVirtualPortgroup" | "OpaqueNetwork" => Some("Network"),
            "VmwareDistributedVirtualSwitch" => Some("DistributedVirtualSwitch"),
            "ComputeResource"
            | "ResourcePool"
            | "Network"
            | "DistributedVirtualSwitch"
            | "Folder"
            | "Datacenter"
            | "HostSystem"
            | "Datastore"
            | "VirtualMachine" => Some("ManagedEntity"),
            "ManagedEntity" | "Task" | "VirtualMachineSnapshot" => Some("ExtensibleManagedObject"),
            "ContainerView" => Some("ManagedObjectView"),
            "ManagedObjectView" => Some("View"),
            _ => None,
        };
    }
    false
}
