//! The simulated target: areas, the VMs that they become, and what stands there already. Each call happens as a whole or not
//! at all, and what happened is durable; only what is written to disks is not until it is synced.

use std::collections::{BTreeMap, BTreeSet};

use super::chance::{Call, Mishap};
use super::convert::Overlay;
use super::disk::SimDisk;
use super::history::{Actor, What};
use super::source::disk_key;
use super::{SimWorld, State, TARGET_PATH};
use crate::desired::Site;
use crate::domain::id::{DiskKey, SourceVm, TargetName, Token};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Power, TargetDisk, Vm};
use crate::journal::record::Mend;
use crate::observed::{ConverterState, TargetState, TargetVm};
use crate::port::{Blueprint, PortError, Target};

/// What a simulated target can store: more than all VMs of a script and a conversion.
const CAPACITY: u64 = 2 << 30;

/// A partial area, or the VM that it became.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub(super) vm: SourceVm,
    pub(super) name: TargetName,
    pub(super) disks: Vec<(DiskKey, TargetDisk)>,
    /// Whether the VM runs; `None` as long as there is no VM.
    pub(super) power: Option<Power>,
    /// Whether it ever ran.
    pub(super) started: bool,
}

impl Area {
    pub(super) fn runs(&self) -> bool {
        self.power == Some(Power::On)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct SimTarget {
    pub(super) areas: BTreeMap<Token, Area>,
    pub(super) disks: BTreeMap<String, SimDisk>,
    /// Whole conversions over them, durable.
    pub(super) overlays: BTreeMap<String, Overlay>,
    /// Names on which something else stands.
    pub(super) foreign: BTreeSet<TargetName>,
    /// Whether the target does not answer.
    pub(super) gap: bool,
    /// Whether it starts nothing, as a folder of files does.
    pub(super) starts_nothing: bool,
    /// Bytes that others use.
    pub(super) taken_by_others: u64,
}

impl SimTarget {
    fn named(&self, name: &TargetName) -> Option<(&Token, &Area)> {
        self.areas.iter().find(|(_, area)| area.name == *name && area.power.is_some())
    }

    fn seen(&self, name: &TargetName) -> Option<TargetVm> {
        if self.foreign.contains(name) {
            return Some(TargetVm { made_by: None, power: Some(Power::On) });
        }
        let (token, area) = self.named(name)?;
        Some(TargetVm { made_by: Some(token.clone()), power: area.power })
    }

    /// Returns how much more can be stored.
    pub(super) fn free(&self) -> u64 {
        let used: u64 = self.disks.values().map(SimDisk::stored).sum();
        CAPACITY.saturating_sub(used).saturating_sub(self.taken_by_others)
    }
}

impl SimWorld {
    /// Somebody else puts a VM on a name, where it is free, or takes it away.
    pub fn foreign_on_target(&self, name: &TargetName, stands: bool) {
        let mut state = self.lock();
        if !stands {
            state.target.foreign.remove(name);
        } else if state.target.seen(name).is_none() {
            state.target.foreign.insert(name.clone());
        }
    }

    /// Makes the target unreadable, or readable again.
    pub fn target_gap(&self, gap: bool) {
        self.lock().target.gap = gap;
    }

    /// Lets others fill the target, or free it.
    pub fn target_full(&self, full: bool) {
        self.lock().target.taken_by_others = if full { CAPACITY } else { 0 };
    }

    /// Lets the target start VMs, or nothing.
    pub fn target_starts(&self, starts: bool) {
        self.lock().target.starts_nothing = !starts;
    }

    fn at_target<T>(
        &self,
        call: Call,
        site: &Site,
        effect: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        self.call(call, |state| {
            state.writable(site)?;
            effect(state)
        })
    }
}

impl State {
    fn writable(&self, site: &Site) -> Result<(), PortError> {
        if site.place() != Site::folder(TARGET_PATH) {
            let text = format!("there is no simulated target at {site:?}");
            return Err(PortError::lasting(text, "name the simulated target", Mend::Person));
        }
        if self.target.gap {
            let text = "the simulated target does not answer";
            return Err(PortError::passing(text, "wait until it is back"));
        }
        Ok(())
    }

    fn name_is_free(&self, name: &TargetName, area: &Token) -> Result<(), PortError> {
        let others = self.target.named(name).is_some_and(|(token, _)| token != area);
        if others || self.stands_foreign(name) {
            let text = format!("{name} on the simulated target is something else");
            return Err(PortError::lasting(text, "choose another name", Mend::Person));
        }
        Ok(())
    }
}

impl Target for SimWorld {
    fn observe(&self, site: &Site) -> Result<TargetState, PortError> {
        let mut state = self.lock();
        if state.crashed {
            return Err(super::crash());
        }
        let mishap = state.draw(Call::TargetObserve);
        let stale = state.stale_target.clone().filter(|_| mishap == Some(Mishap::Stale));
        state.suffer(Call::TargetObserve, mishap, |state| {
            state.writable(site)?;
            if let Some(stale) = stale {
                return Ok(stale);
            }
            let target = &state.target;
            let ours = target.areas.values().filter(|area| area.power.is_some());
            let names = ours.map(|area| &area.name).chain(&target.foreign);
            let vms = names.filter_map(|name| Some((name.clone(), target.seen(name)?)));
            let partial = target.areas.iter().filter(|(_, area)| area.power.is_none());
            let areas = partial.map(|(token, _)| token.clone()).collect();
            let seen = TargetState {
                free: Bytes(target.free()),
                vms: vms.collect(),
                areas,
                starts: !target.starts_nothing,
                converter: ConverterState::default(),
            };
            state.stale_target = Some(seen.clone());
            Ok(seen)
        })
    }

    fn look(&self, site: &Site, name: &TargetName) -> Result<Option<TargetVm>, PortError> {
        self.at_target(Call::TargetLook, site, |state| Ok(state.target.seen(name)))
    }

    fn create_disks(
        &self,
        site: &Site,
        area: &Token,
        name: &TargetName,
        vm: &Vm,
    ) -> Result<Vec<(DiskKey, TargetDisk)>, PortError> {
        self.at_target(Call::TargetCreateDisks, site, |state| {
            if let Some(area) = state.target.areas.get(area) {
                return Ok(area.disks.clone());
            }
            state.name_is_free(name, area)?;
            let mut disks = Vec::new();
            for (index, disk) in vm.disks.iter().enumerate() {
                let target = TargetDisk(format!("sim:{area}/{}", disk_key(index)));
                state.target.disks.insert(target.0.clone(), SimDisk::new(disk.capacity.0));
                disks.push((disk.key.clone(), target));
            }
            let (vm, name, token) = (vm.id.clone(), name.clone(), area.clone());
            let area = Area {
                vm: vm.clone(),
                name: name.clone(),
                disks: disks.clone(),
                power: None,
                started: false,
            };
            state.target.areas.insert(token.clone(), area);
            state.did(Actor::Ferry, What::DisksCreated { vm, area: token, name });
            Ok(disks)
        })
    }

    fn create_vm(
        &self,
        site: &Site,
        area: &Token,
        blueprint: &Blueprint<'_>,
    ) -> Result<(), PortError> {
        let name = blueprint.name;
        self.at_target(Call::TargetCreateVm, site, |state| {
            state.name_is_free(name, area)?;
            let locked = state.locked(area);
            let found = state.target.areas.get_mut(area).ok_or_else(|| no_area(area))?;
            if found.power.is_some() && found.name == *name {
                return Ok(());
            }
            if locked {
                return Err(in_use(area));
            }
            found.name = name.clone();
            found.power = Some(Power::Off);
            let vm = found.vm.clone();
            let (area, name) = (area.clone(), name.clone());
            state.did(Actor::Ferry, What::VmCreated { vm, area, name });
            Ok(())
        })
    }

    fn start(&self, site: &Site, area: &Token, name: &TargetName) -> Result<Power, PortError> {
        self.at_target(Call::TargetStart, site, |state| {
            let found = state.target.areas.get_mut(area).ok_or_else(|| no_area(area))?;
            if found.power.is_none() || found.name != *name {
                return Err(no_area(area));
            }
            if found.runs() {
                return Ok(Power::On);
            }
            if state.target.starts_nothing {
                let text = "the simulated target starts nothing";
                return Err(PortError::lasting(text, "start it by hand", Mend::Person));
            }
            let found = state.target.areas.get_mut(area).ok_or_else(|| no_area(area))?;
            found.power = Some(Power::On);
            found.started = true;
            let vm = found.vm.clone();
            let source_ran = state.source_runs(&vm);
            let (area, name) = (area.clone(), name.clone());
            state.did(Actor::Ferry, What::Started { vm, area, name, source_ran });
            Ok(Power::On)
        })
    }

    fn remove(&self, site: &Site, area: &Token, name: &TargetName) -> Result<(), PortError> {
        self.at_target(Call::TargetRemove, site, |state| {
            let Some(found) = state.target.areas.get(area) else { return Ok(()) };
            if found.started {
                let text = format!("{name} was started, and was to be deleted");
                state.slip(text.clone());
                return Err(PortError::lasting(text, "delete it by hand", Mend::Person));
            }
            if state.locked(area) {
                return Err(in_use(area));
            }
            let Some(found) = state.target.areas.remove(area) else { return Ok(()) };
            for (_, disk) in &found.disks {
                state.target.disks.remove(&disk.0);
                state.target.overlays.remove(&disk.0);
            }
            let (vm, area, name) = (found.vm, area.clone(), found.name);
            state.did(Actor::Ferry, What::Removed { vm, area, name });
            Ok(())
        })
    }
}

impl State {
    fn locked(&self, area: &Token) -> bool {
        let disks = self.target.areas.get(area).into_iter().flat_map(|area| &area.disks);
        disks.filter_map(|(_, disk)| self.target.disks.get(&disk.0)).any(|disk| disk.locked)
    }
}

fn no_area(area: &Token) -> PortError {
    let text = format!("the simulated target has no VM made from {area}");
    PortError::lasting(text, "find out who took it away", Mend::Person)
}

fn in_use(area: &Token) -> PortError {
    let text = format!("a worker still holds the disks of {area}");
    PortError::passing(text, "wait until it has ended")
}

#[cfg(test)]
mod tests {
    use super::super::{FaultPlan, SOURCE_PATH, SimVmSpec};
    use super::*;
    use std::sync::Arc;

    use crate::port::Source;

    fn site() -> Site {
        Site::folder(TARGET_PATH)
    }

    fn world() -> (SimWorld, Vm) {
        let world = SimWorld::new(&[SimVmSpec::powered("web", &[&[1]])], FaultPlan::default());
        let source = Site::Ova { path: SOURCE_PATH.into() };
        let vm = Source::observe(&world, &source).unwrap().vms.remove(0);
        (world, Arc::unwrap_or_clone(vm))
    }

    #[test]
    fn an_area_becomes_a_vm_that_starts_once() {
        let (world, vm) = world();
        let (area, name) = (Token::new("area"), TargetName::new("web"));
        let blueprint = Blueprint { name: &name, vm: &vm, nics: vec![] };
        assert!(world.create_vm(&site(), &area, &blueprint).is_err());
        for _ in 0..2 {
            world.create_disks(&site(), &area, &name, &vm).unwrap();
        }
        assert!(Target::observe(&world, &site()).unwrap().vms.is_empty());
        for _ in 0..2 {
            world.create_vm(&site(), &area, &blueprint).unwrap();
        }
        for _ in 0..2 {
            assert_eq!(world.start(&site(), &area, &name).unwrap(), Power::On);
        }
        assert!(world.remove(&site(), &area, &name).is_err());
        let deeds: Vec<_> = world.deeds().iter().map(|deed| deed.what.name()).collect();
        assert_eq!(deeds, ["disks created", "vm created", "started"]);
    }

    #[test]
    fn what_stands_there_is_never_replaced() {
        let (world, vm) = world();
        let (area, name) = (Token::new("area"), TargetName::new("web"));
        world.create_disks(&site(), &area, &name, &vm).unwrap();
        world.foreign_on_target(&name, true);
        let blueprint = Blueprint { name: &name, vm: &vm, nics: vec![] };
        assert!(world.create_vm(&site(), &area, &blueprint).is_err());
        assert!(world.create_disks(&site(), &Token::new("other"), &name, &vm).is_err());
        for _ in 0..2 {
            world.remove(&site(), &area, &name).unwrap();
        }
        assert_eq!(Target::observe(&world, &site()).unwrap().vms.len(), 1);
        assert!(world.lock().target.disks.is_empty());
    }
}
