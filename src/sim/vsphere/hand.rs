//! What happens to a server besides its API: people at its console, guests that write, hosts that crash.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::event;
use super::machine::Machine;
use super::scenario::{FaultSpec, Scenario, ScenarioError};
use super::seeded_tracking;
use super::value::Ref;
use super::world::World;
use super::{Server, inventory::Entity};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    /// No VM, disk or host has that name.
    #[error("there is no {0}")]
    Nothing(String),
    /// The VM is in another state.
    #[error("{vm}: {why}")]
    Refused {
        /// The VM.
        vm: String,
        /// What the server would have answered.
        why: String,
    },
    /// The disk's file cannot be written.
    #[error("cannot write to the disk {key} of {vm}")]
    Write {
        /// The VM.
        vm: String,
        /// The disk's key.
        key: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn vm(world: &World, name: &str) -> Result<Ref, HandError> {
    let found = world.inventory.vm_named(name).map(|(object, _)| object.me.clone());
    found.ok_or_else(|| HandError::Nothing(format!("VM {name}")))
}

fn change<'a>(world: &'a mut World, vm: &Ref) -> Result<&'a mut Machine, HandError> {
    let nothing = || HandError::Nothing(format!("VM {}", vm.id));
    world.inventory.change_vm(&vm.id).ok_or_else(nothing)
}

/// VMs are named by their names, disks by their keys.
impl Server {
    /// Moves the server's time on: what is due happens, sessions and leases run out.
    pub fn advance(&self, time: Duration) {
        self.shared.advance(time);
    }

    /// Ends all sessions at once.
    pub fn expire_sessions(&self) {
        self.shared.enter(|world| {
            world.sessions.open.clear();
            world.note();
        });
    }

    /// Lets something go wrong from now on; `fault` is written as in a scenario, `{ method: Login, call: 1, cut: true }`.
    pub fn arm(&self, fault: &str) -> Result<(), ScenarioError> {
        let scenario = Scenario::parse("fault", &format!("faults: [{fault}]"))?;
        let faults = scenario.faults.into_iter().map(|fault: FaultSpec| (fault, 0));
        self.shared.enter(|world| world.faults.extend(faults));
        Ok(())
    }

    /// Lets nothing go wrong any more.
    pub fn disarm(&self) {
        self.shared.enter(|world| world.faults.clear());
    }

    /// Returns the id of a VM, `vm-12`.
    pub fn vm_id(&self, name: &str) -> Result<String, HandError> {
        self.shared.enter(|world| vm(world, name).map(|vm| vm.id.to_string()))
    }

    /// Powers a VM on at once.
    pub fn power_on(&self, name: &str) -> Result<(), HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            let refused = |fault: super::fault::Fault| HandError::Refused {
                vm: name.to_owned(),
                why: fault.message,
            };
            world.power_on(&vm).map_err(refused)
        })
    }

    /// Powers a VM off at once.
    pub fn power_off(&self, name: &str) -> Result<(), HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            let refused = |fault: super::fault::Fault| HandError::Refused {
                vm: name.to_owned(),
                why: fault.message,
            };
            world.power_off(&vm, false).map_err(refused)
        })
    }

    /// The VM's host crashes and the VM is started anew: its changes are tracked from zero.
    pub fn crash(&self, name: &str) -> Result<(), HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            let (seed, made) = (world.scenario.seed, world.next());
            let machine = change(world, &vm)?;
            for disk in &mut machine.disks {
                disk.tracking = None;
            }
            machine.power_changes += 1;
            machine.begin_tracking(|disk| {
                seeded_tracking(seed, &format!("crash {} {disk} {made}", vm.id))
            });
            Ok(())
        })
    }

    /// Renames a VM; its files keep their names.
    pub fn rename(&self, name: &str, to: &str) -> Result<(), HandError> {
        self.shared.enter(|world| {
            let (vm, now) = (vm(world, name)?, world.now);
            change(world, &vm)?.reconfigured(now);
            if let Some(object) = world.inventory.change(&vm.id) {
                to.clone_into(&mut object.name);
            }
            Ok(())
        })
    }

    /// Moves a VM to another host of its datacenter.
    pub fn relocate(&self, name: &str, host: &str) -> Result<(), HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            let is_it = |object: &&super::inventory::Object| {
                object.name == host && matches!(object.entity, Entity::Host { .. })
            };
            let to = world.inventory.all().find(is_it).map(|object| object.me.clone());
            let to = to.ok_or_else(|| HandError::Nothing(format!("host {host}")))?;
            let from = std::mem::replace(&mut change(world, &vm)?.host, to.clone());
            world.inventory.unlink(&from, &vm);
            world.inventory.link(&to, &vm);
            Ok(())
        })
    }

    /// Removes a VM and its disks.
    pub fn remove(&self, name: &str) -> Result<(), HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            world.record(&vm, event::REMOVED, "is removed");
            let Some(gone) = world.inventory.remove(&vm.id) else { return Ok(()) };
            let mut owners: Vec<Ref> = gone.parent.into_iter().collect();
            if let Entity::Vm(machine) = gone.entity {
                owners.extend([machine.host, machine.pool]);
                owners.extend(machine.networks.into_iter().chain(machine.datastores));
            }
            for owner in owners {
                world.inventory.unlink(&owner, &vm);
            }
            world.disks_changed();
            Ok(())
        })
    }

    /// Answers the question that a VM waits with.
    pub fn answer_question(&self, name: &str) -> Result<(), HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            change(world, &vm)?.question = None;
            Ok(())
        })
    }

    /// Writes to a disk as the guest does.
    pub fn write(&self, name: &str, key: u32, at: u64, bytes: &[u8]) -> Result<(), HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            let World { inventory, store, .. } = world;
            let machine = inventory.change_vm(&vm.id);
            let disk = machine.and_then(|m| m.disks.iter_mut().find(|disk| disk.key == key));
            let disk = disk.ok_or_else(|| HandError::Nothing(format!("disk {key} of {name}")))?;
            let before = disk.content.path.clone();
            let written = disk.write(store, at, bytes);
            if disk.content.path != before {
                world.disks_changed();
            }
            let vm = name.to_owned();
            written.map_err(|source| HandError::Write { vm, key, source })
        })
    }

    /// Makes a disk larger; what is new reads as zeros and is not tracked as changed.
    pub fn grow(&self, name: &str, key: u32, capacity: u64) -> Result<(), HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            let World { inventory, store, .. } = world;
            let machine = inventory.change_vm(&vm.id);
            let disk = machine.and_then(|m| m.disks.iter_mut().find(|disk| disk.key == key));
            let disk = disk.ok_or_else(|| HandError::Nothing(format!("disk {key} of {name}")))?;
            let grown = disk.grow(store, capacity);
            world.disks_changed();
            let vm = name.to_owned();
            grown.map_err(|source| HandError::Write { vm, key, source })
        })
    }

    /// Returns the raw file that holds what a disk holds now. A write after a snapshot goes to another file.
    pub fn disk_file(&self, name: &str, key: u32) -> Result<PathBuf, HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            let machine = world.inventory.vm(&vm.id);
            let disk = machine.and_then(|m| m.disks.iter().find(|disk| disk.key == key));
            let disk = disk.ok_or_else(|| HandError::Nothing(format!("disk {key} of {name}")))?;
            Ok(disk.content.path.clone())
        })
    }

    /// Returns whether a VM is on.
    pub fn is_on(&self, name: &str) -> Result<bool, HandError> {
        self.shared.enter(|world| {
            let vm = vm(world, name)?;
            let on = |machine: &Machine| machine.power == super::scenario::Power::On;
            Ok(world.inventory.vm(&vm.id).is_some_and(on))
        })
    }
}
