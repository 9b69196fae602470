//! Reconfiguring a VM: its extra configuration, change tracking, and whether its devices are connected.

use super::event;
use super::fault::Fault;
use super::methods::{Call, Reply};
use super::soap::{self, number, truth};
use super::task::Work;
use super::value::Ref;
use super::world::World;

/// What a `VirtualMachineConfigSpec` changes.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// The version that the change was thought out for.
    version: Option<String>,
    name: Option<String>,
    annotation: Option<String>,
    /// An empty value takes the key away.
    extra: Vec<(String, String)>,
    tracking: Option<bool>,
    /// Network cards by key, and whether they are connected.
    connected: Vec<(u32, bool)>,
}

/// Answers `ReconfigVM_Task`.
pub(super) fn reconfigure(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let machine = world.called_vm(call)?;
    let spec = call.arguments.child("spec").ok_or_else(|| Fault::invalid_argument("spec"))?;
    let given = |name: &str| spec.child(name).map(|child| child.text().to_owned());
    let mut change = Change {
        version: given("changeVersion"),
        name: given("name"),
        annotation: given("annotation"),
        ..Change::default()
    };
    for option in spec.all("extraConfig") {
        let key =
            option.text_of("key").ok_or_else(|| Fault::invalid_argument("extraConfig.key"))?;
        let value = option.text_of("value").unwrap_or_default();
        change.extra.push((key.to_owned(), value.to_owned()));
    }
    if spec.child("changeTrackingEnabled").is_some() {
        change.tracking = Some(truth(spec, "changeTrackingEnabled")?);
    }
    for device in spec.all("deviceChange") {
        if device.text_of("operation") != Some("edit") {
            let text = "The simulated server edits devices and neither adds nor removes them.";
            return Err(Fault::new("NotSupported", text));
        }
        let device = device.child("device").filter(|device| soap::type_of(device).is_some());
        let device = device.ok_or_else(|| Fault::invalid_argument("deviceChange.device"))?;
        let key = number(device, "key")?.unwrap_or(0);
        if machine.nics.iter().all(|nic| nic.key != key) {
            return Err(Fault::invalid_argument("deviceChange.device.key"));
        }
        if let Some(connectable) = device.child("connectable") {
            change.connected.push((key, truth(connectable, "connected")?));
        }
    }
    if change.tracking.is_some() {
        let denied = "VirtualMachine.Config.ChangeTracking";
        if world.denied(&call.this, denied) {
            return Err(Fault::no_permission(&call.this, denied));
        }
    }
    let name = ("ReconfigVM_Task", "VirtualMachine.reconfigure");
    let work = Work::Reconfigure(Box::new(change));
    Ok(Reply::Value(world.start_task(call, &call.this, name, work)?.into()))
}

impl World {
    pub(super) fn reconfigure(&mut self, vm: &Ref, change: Change) -> Result<(), Fault> {
        let now = self.now;
        let Change { version, name, annotation, extra, tracking, connected } = change;
        let machine = self.inventory.change_vm(&vm.id).ok_or_else(|| Fault::not_found(vm))?;
        if version.is_some_and(|version| version != machine.change_version()) {
            let message = "The operation cannot be performed because the VM was changed meanwhile.";
            return Err(Fault::new("ConcurrentAccess", message));
        }
        for (key, value) in extra {
            machine.extra_config.retain(|(known, _)| *known != key);
            if !value.is_empty() {
                machine.extra_config.push((key, value));
            }
        }
        for (key, connected) in connected {
            for nic in machine.nics.iter_mut().filter(|nic| nic.key == key) {
                nic.connected = connected;
            }
        }
        if annotation.is_some() {
            machine.spec.annotation = annotation;
        }
        if let Some(tracking) = tracking {
            machine.change_tracking = tracking;
        }
        machine.reconfigured(now);
        if let Some(name) = name
            && let Some(object) = self.inventory.change(&vm.id)
        {
            object.name = name;
        }
        self.record(vm, event::RECONFIGURED, "is reconfigured");
        Ok(())
    }
}
