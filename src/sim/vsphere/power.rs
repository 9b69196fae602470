//! Power: on, off, and guests that obey or do not.

use super::event;
use super::fault::Fault;
use super::machine::{Machine, power_state};
use super::methods::{Call, Reply};
use super::scenario::{Connection, Power, ShutdownAnswer};
use super::seeded_tracking;
use super::task::Work;
use super::value::Ref;
use super::world::{Due, World};

impl World {
    /// Returns the VM that a method is called on.
    pub(super) fn called_vm(&self, call: &Call<'_>) -> Result<&Machine, Fault> {
        self.inventory.vm(&call.this.id).ok_or_else(|| Fault::not_found(&call.this))
    }

    /// Tracking begins or ends where the VM stands still for a moment.
    pub(super) fn stun(&mut self, vm: &Ref) {
        let (seed, made) = (self.scenario.seed, self.next());
        if let Some(machine) = self.inventory.change_vm(&vm.id) {
            machine.begin_tracking(|disk| {
                seeded_tracking(seed, &format!("tracking {} {disk} {made}", vm.id))
            });
        }
    }

    /// Powers a VM on; it must be off.
    pub(super) fn power_on(&mut self, vm: &Ref) -> Result<(), Fault> {
        self.set_power(vm, Power::On)?;
        self.stun(vm);
        self.record(vm, event::POWERED_ON, "is powered on");
        Ok(())
    }

    /// Powers a VM off; it must be on.
    pub(super) fn power_off(&mut self, vm: &Ref, clean: bool) -> Result<(), Fault> {
        self.set_power(vm, Power::Off)?;
        if let Some(machine) = self.inventory.change_vm(&vm.id) {
            machine.clean_power_off = clean;
        }
        self.record(vm, event::POWERED_OFF, "is powered off");
        Ok(())
    }

    fn set_power(&mut self, vm: &Ref, power: Power) -> Result<(), Fault> {
        let now = self.now;
        let machine = self.inventory.change_vm(&vm.id).ok_or_else(|| Fault::not_found(vm))?;
        if machine.power == power {
            return Err(wrong_power(power, machine.power));
        }
        machine.power = power;
        machine.power_changes += 1;
        machine.booted = (power == Power::On).then_some(now);
        // vSphere itself writes to the configuration when it powers a VM off.
        machine.reconfigured(now);
        Ok(())
    }

    /// Lets a guest write to its disks from time to time, as the scenario says.
    pub(super) fn plan_writes(&mut self, vm: &Ref) {
        let disks = self.inventory.vm(&vm.id).map(|machine| machine.spec.disks.clone());
        for (at, disk) in disks.into_iter().flatten().enumerate() {
            if let Some(every) = disk.writes {
                self.plan(every.0, Due::GuestWrites(vm.clone(), at));
            }
        }
    }

    /// A guest writes four kibibytes somewhere, if it runs, and will again.
    pub(super) fn guest_writes(&mut self, vm: &Ref, at: usize) {
        let hash = blake3::hash(format!("{} {}", vm.id, self.next()).as_bytes());
        let Some(machine) = self.inventory.change_vm(&vm.id) else { return };
        let every = machine.spec.disks.get(at).and_then(|disk| disk.writes);
        let Some(every) = every else { return };
        if machine.power == Power::On
            && let Some(disk) = machine.disks.get_mut(at)
        {
            let (place, bytes) = hash.as_bytes().split_at(8);
            let place = place.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
            let bytes = bytes.repeat(171)[..4096].to_vec();
            let pages = (disk.capacity / 4096).max(1);
            let length = bytes.len().min(usize::try_from(disk.capacity).unwrap_or(usize::MAX));
            let path = disk.content.path.clone();
            if let Err(error) = disk.write(&mut self.store, place % pages * 4096, &bytes[..length])
            {
                tracing::error!(%error, "a guest cannot write");
            }
            if disk.content.path != path {
                self.disks_changed();
            }
        }
        self.plan(every.0, Due::GuestWrites(vm.clone(), at));
    }

    /// A guest that was asked to shut down is down, if nothing came between.
    pub(super) fn guest_is_down(&mut self, vm: &Ref, power_changes: u64) {
        let same = |machine: &Machine| machine.power_changes == power_changes;
        if self.inventory.vm(&vm.id).is_some_and(same) {
            let _ = self.power_off(vm, true);
        }
    }
}

fn wrong_power(wanted: Power, is: Power) -> Fault {
    let text = "The attempted operation cannot be performed in the current state";
    Fault::new("InvalidPowerState", text)
        .with("requestedState", power_state(wanted))
        .with("existingState", power_state(is))
}

fn reachable(machine: &Machine) -> Result<(), Fault> {
    match machine.connection {
        Connection::Connected => Ok(()),
        Connection::Disconnected
        | Connection::Orphaned
        | Connection::Inaccessible
        | Connection::Invalid => Err(Fault::invalid_state(
            "The operation is not allowed in the current connection state of the VM.",
        )),
    }
}

/// Answers `PowerOnVM_Task`.
pub(super) fn on(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let machine = world.called_vm(call)?;
    reachable(machine)?;
    if machine.power == Power::On {
        return Err(wrong_power(Power::On, machine.power));
    }
    if machine.spec.template {
        return Err(Fault::new("NotSupported", "A template cannot be powered on."));
    }
    let name = ("PowerOnVM_Task", "VirtualMachine.powerOn");
    Ok(Reply::Value(world.start_task(call, &call.this, name, Work::PowerOn)?.into()))
}

/// Answers `PowerOffVM_Task`.
pub(super) fn off(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let machine = world.called_vm(call)?;
    reachable(machine)?;
    if machine.power != Power::On {
        return Err(wrong_power(Power::Off, machine.power));
    }
    let name = ("PowerOffVM_Task", "VirtualMachine.powerOff");
    Ok(Reply::Value(world.start_task(call, &call.this, name, Work::PowerOff)?.into()))
}

/// Answers `ShutdownGuest`: at once, whatever the guest does.
pub(super) fn shutdown(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let machine = world.called_vm(call)?;
    reachable(machine)?;
    if machine.power != Power::On {
        return Err(wrong_power(Power::Off, machine.power));
    }
    if !machine.tools_run() {
        let message = "Cannot complete operation because VMware Tools is not running in this virtual machine.";
        return Err(Fault::new("ToolsUnavailable", message));
    }
    let power_changes = machine.power_changes;
    match machine.spec.shutdown {
        ShutdownAnswer::Refuses => {
            return Err(Fault::invalid_state("The guest operating system refused to shut down."));
        }
        ShutdownAnswer::Ignores => {}
        ShutdownAnswer::After(span) => {
            world.plan(span.0, Due::GuestIsDown(call.this.clone(), power_changes));
        }
    }
    world.record(&call.this, event::GUEST_SHUTDOWN, "is asked to shut its guest down");
    Ok(Reply::nothing())
}
