//! The simulated source: VMs with power, guests that obey, ignore or obey late, marks, and archives that have none of these.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::chance::{Call, Mishap};
use super::history::{Actor, What};
use super::{SOURCE_PATH, SimWorld, State};
use crate::copy::tree::LEAF_BYTES;
use crate::desired::Site;
use crate::domain::id::{DiskKey, SourceVm, Token};
use crate::domain::unit::Bytes;
use crate::domain::vm::{
    Checksum, Claim, Disk, DiskFormat, Firmware, Hosted, Nic, Power, SourceDisk, Vm,
};
use crate::journal::record::Mend;
use crate::observed::{Gap, SourceState};
use crate::port::{PortError, PoweredOn, Source};

/// What a VM is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimVmSpec {
    /// Its name.
    pub name: String,
    /// Whether it has power.
    pub kind: VmKind,
    /// The byte that fills each leaf of each disk.
    pub disks: Vec<Vec<u8>>,
    /// Whether something stands against moving it: a disk of a kind that no reader understands.
    pub unsupported: bool,
}

/// Kinds of simulated VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmKind {
    /// One that runs, keeps marks and has a guest.
    Powered {
        /// Whether it runs at first.
        power: Power,
        /// What its guest does when it is asked to shut down.
        guest: Guest,
    },
    /// An archive: off for ever, keeps no marks, never changes.
    Archive,
}

/// What a guest does when it is asked to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// It is off after so many seconds, whatever happens meanwhile.
    Obeys(u32),
    /// Nothing.
    Ignores,
}

impl SimVmSpec {
    /// Describes a running VM whose guest obeys after 30 seconds.
    pub fn powered(name: &str, disks: &[&[u8]]) -> Self {
        let kind = VmKind::Powered { power: Power::On, guest: Guest::Obeys(30) };
        Self { kind, ..Self::archive(name, disks) }
    }

    /// Describes an archive.
    pub fn archive(name: &str, disks: &[&[u8]]) -> Self {
        let disks = disks.iter().map(|disk| disk.to_vec()).collect();
        Self { name: name.to_owned(), kind: VmKind::Archive, disks, unsupported: false }
    }

    /// Returns what identifies the VM.
    pub fn id(&self) -> SourceVm {
        match self.kind {
            VmKind::Powered { .. } => {
                SourceVm::Vsphere { server: "sim".into(), vm: self.name.as_str().into() }
            }
            VmKind::Archive => SourceVm::Ova {
                archive: hex::encode(blake3::hash(self.name.as_bytes()).as_bytes()).into(),
                system: self.name.as_str().into(),
            },
        }
    }
}

/// A VM of the simulated source.
#[derive(Clone, Debug)]
pub(super) struct SimVm {
    pub(super) id: SourceVm,
    pub(super) name: String,
    pub(super) kind: VmKind,
    pub(super) unsupported: bool,
    pub(super) power: Power,
    pub(super) claim: Claim,
    /// Whether it is there at all.
    pub(super) present: bool,
    /// How many records the journal held when it went away or came back, and whether it was there from then on.
    presence: Vec<(usize, bool)>,
    /// When the guest will have obeyed.
    off_due: Option<Timestamp>,
    /// How its power changed, from the beginning on.
    pub(super) changes: Vec<PowerChange>,
    /// What its disks hold, one byte for each leaf.
    pub(super) disks: Vec<Vec<u8>>,
}

/// A moment at which a VM went on or off.
#[derive(Clone, Debug)]
pub(super) struct PowerChange {
    pub(super) at: Timestamp,
    /// How many records the journal held.
    pub(super) records: usize,
    pub(super) actor: Actor,
    pub(super) power: Power,
    /// What the disks held then.
    pub(super) content: Vec<Vec<u8>>,
}

impl SimVm {
    pub(super) fn new(spec: &SimVmSpec, now: Timestamp) -> Self {
        let SimVmSpec { name, kind, disks, unsupported } = spec.clone();
        let (power, claim) = match kind {
            VmKind::Powered { power, .. } => (power, Claim::Free),
            VmKind::Archive => (Power::Off, Claim::Impossible),
        };
        let content = disks.clone();
        let first = PowerChange { at: now, records: 0, actor: Actor::Person, power, content };
        Self {
            id: spec.id(),
            name,
            kind,
            unsupported,
            power,
            claim,
            present: true,
            presence: Vec::new(),
            off_due: None,
            changes: vec![first],
            disks,
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.power == Power::On
    }

    /// Tells whether it was there when a record was written.
    pub(super) fn was_there(&self, record: usize) -> bool {
        let before = self.presence.iter().rev().find(|(records, _)| *records <= record);
        before.is_none_or(|(_, present)| *present)
    }

    /// Changes a leaf, as a running guest does all the time.
    pub(super) fn write_if_on(&mut self, second: u64) {
        if !self.runs() {
            return;
        }
        if let Some(disk) = self.disks.first_mut().filter(|disk| !disk.is_empty()) {
            let index = super::disk::size(second) % disk.len();
            disk[index] = disk[index].wrapping_add(1);
        }
    }

    /// Returns the last change before the journal got a record of this number.
    pub(super) fn change_before(&self, record: usize) -> Option<&PowerChange> {
        self.changes.iter().rev().find(|change| change.records <= record)
    }

    /// Tells whether it went on after the journal got a record of this number.
    pub(super) fn went_on_after(&self, record: usize) -> bool {
        self.changes.iter().any(|change| change.records > record && change.power == Power::On)
    }

    fn turn(&mut self, power: Power, at: Timestamp, records: usize, actor: Actor) {
        self.power = power;
        self.off_due = None;
        let content = self.disks.clone();
        self.changes.push(PowerChange { at, records, actor, power, content });
    }

    fn seen(&self) -> Vm {
        let disk = |(index, leaves): (usize, &Vec<u8>)| {
            let count = u64::try_from(leaves.len()).unwrap_or(0);
            let stored = leaves.iter().filter(|byte| **byte != 0).count();
            let stored = Bytes(u64::try_from(stored).unwrap_or(0) * LEAF_BYTES);
            let archive = self.kind == VmKind::Archive;
            Disk {
                key: disk_key(index),
                capacity: Bytes(count * LEAF_BYTES),
                // What a guest wrote lately is no property of its VM.
                stored: archive.then_some(stored),
                format: if self.unsupported {
                    DiskFormat::Unsupported("monolithicFlat".to_owned())
                } else {
                    DiskFormat::StreamOptimized
                },
                checksum: if archive {
                    Checksum::Sha256(hex::encode(blake3::hash(leaves).as_bytes()))
                } else {
                    Checksum::Absent
                },
                source: SourceDisk(format!("{}#{index}", self.id)),
            }
        };
        let disks = self.disks.iter().enumerate().map(disk).collect();
        Vm {
            id: self.id.clone(),
            name: self.name.clone(),
            path: format!("{0}.ova/{0}", self.name),
            power: self.power,
            firmware: Some(Firmware::Bios),
            secure_boot: false,
            tpm: false,
            cpus: Some(1),
            cores_per_socket: None,
            memory: Some(Bytes::mib(512)),
            os: Some("debian12_64Guest".to_owned()),
            disks,
            nics: vec![Nic { network: "VM Network".to_owned(), mac: None }],
            claim: self.claim.clone(),
            hosted: Hosted::default(),
        }
    }
}

/// Names the disks of every simulated VM.
pub(super) fn disk_key(index: usize) -> DiskKey {
    DiskKey::new(format!("disk-{index}"))
}

impl SimWorld {
    /// A person shuts a VM down, or its guest does so by itself.
    pub fn person_powers_off(&self, name: &str) {
        let mut state = self.lock();
        if let Some(index) = state.named(name) {
            state.go_off(index, Actor::Person);
        }
    }

    /// A person powers a VM on.
    pub fn person_powers_on(&self, name: &str) {
        let mut state = self.lock();
        if let Some(index) = state.named(name) {
            state.go_on(index, Actor::Person);
        }
    }

    /// Sets what a VM's guest does from now on when it is asked to shut down.
    pub fn guest(&self, name: &str, guest: Guest) {
        let mut state = self.lock();
        if let Some(index) = state.named(name)
            && let VmKind::Powered { guest: now, .. } = &mut state.vms[index].kind
        {
            *now = guest;
        }
    }

    /// Takes a VM out of the inventory, or brings it back.
    pub fn vm_present(&self, name: &str, present: bool) {
        let mut state = self.lock();
        let records = state.records.len();
        let vm = state.vms.iter_mut().find(|vm| vm.name == name);
        if let Some(vm) = vm {
            vm.present = present;
            vm.presence.push((records, present));
        }
    }

    /// Puts a mark of somebody else on a VM that keeps marks and has none, or takes it away.
    pub fn foreign_claim(&self, name: &str, held: bool) {
        const FOREIGN: &str = "another-journal";
        let mut state = self.lock();
        let vm = state.vms.iter_mut().find(|vm| vm.name == name);
        match vm.map(|vm| &mut vm.claim) {
            Some(claim) if held && *claim == Claim::Free => {
                *claim = Claim::Held(FOREIGN.to_owned());
            }
            Some(claim) if !held && *claim == Claim::Held(FOREIGN.to_owned()) => {
                *claim = Claim::Free;
            }
            _ => {}
        }
    }

    /// Makes the source unreadable, or readable again.
    pub fn source_gap(&self, gap: bool) {
        self.lock().source_gap = gap;
    }

    /// Tells whether a VM runs at the source.
    pub fn source_power(&self, vm: &SourceVm) -> Option<Power> {
        self.lock().vms.iter().find(|other| other.id == *vm).map(|vm| vm.power)
    }

    fn at_vm<T>(
        &self,
        call: Call,
        site: &Site,
        vm: &SourceVm,
        effect: impl FnOnce(&mut State, usize) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        self.call(call, |state| {
            state.readable(site)?;
            let found = state.vms.iter().position(|other| other.id == *vm && other.present);
            let index = found.ok_or_else(|| {
                let text = format!("the simulated source has no VM {vm}");
                PortError::lasting(text, "bring it back", Mend::Source)
            })?;
            effect(state, index)
        })
    }
}

impl State {
    fn named(&self, name: &str) -> Option<usize> {
        let found = self.vms.iter().position(|vm| vm.name == name && vm.present);
        found.filter(|index| self.vms[*index].claim != Claim::Impossible)
    }

    fn readable(&self, site: &Site) -> Result<(), PortError> {
        if *site != (Site::Ova { path: SOURCE_PATH.into() }) {
            let text = format!("there is no simulated source at {site:?}");
            return Err(PortError::lasting(text, "name the simulated source", Mend::Person));
        }
        if self.source_gap {
            let text = "the simulated source does not answer";
            return Err(PortError::passing(text, "wait until it is back"));
        }
        Ok(())
    }

    /// Finds the guest that obeys next, up to a moment.
    pub(super) fn next_due(&self, end: Timestamp) -> Option<(usize, Timestamp)> {
        let due = self.vms.iter().enumerate().filter_map(|(index, vm)| Some((index, vm.off_due?)));
        due.filter(|(_, at)| *at <= end).min_by_key(|(index, at)| (*at, *index))
    }

    pub(super) fn guest_goes_off(&mut self, index: usize) {
        self.vms[index].off_due = None;
        self.go_off(index, Actor::Guest);
    }

    fn go_off(&mut self, index: usize, actor: Actor) {
        let (now, records) = (self.now, self.records.len());
        let vm = &mut self.vms[index];
        if !vm.runs() {
            return;
        }
        vm.turn(Power::Off, now, records, actor);
        let id = vm.id.clone();
        self.did(actor, What::WentOff { vm: id });
    }

    fn go_on(&mut self, index: usize, actor: Actor) {
        let (now, records) = (self.now, self.records.len());
        let vm = &mut self.vms[index];
        if vm.runs() {
            return;
        }
        vm.turn(Power::On, now, records, actor);
        vm.write_if_on(now.as_second().unsigned_abs());
        let id = vm.id.clone();
        let target_ran = self.runs_on_target(&id);
        self.did(actor, What::WentOn { vm: id, target_ran });
    }
}

impl Source for SimWorld {
    fn observe(&self, site: &Site) -> Result<SourceState, PortError> {
        let mut state = self.lock();
        if state.crashed {
            return Err(super::crash());
        }
        let mishap = state.draw(Call::SourceObserve);
        let stale = state.stale_source.clone().filter(|_| mishap == Some(Mishap::Stale));
        state.suffer(Call::SourceObserve, mishap, |state| {
            state.readable(site)?;
            if let Some(stale) = stale {
                return Ok(stale);
            }
            let present = state.vms.iter().filter(|vm| vm.present);
            let vms = present.map(|vm| Arc::new(vm.seen())).collect();
            let seen = SourceState { vms, gaps: Vec::<Gap>::new(), clock: None };
            state.stale_source = Some(seen.clone());
            Ok(seen)
        })
    }

    fn look(&self, site: &Site, vm: &SourceVm) -> Result<Option<Vm>, PortError> {
        self.call(Call::SourceLook, |state| {
            state.readable(site)?;
            let found = state.vms.iter().find(|other| other.id == *vm && other.present);
            Ok(found.map(SimVm::seen))
        })
    }

    fn claim(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError> {
        self.at_vm(Call::SourceClaim, site, vm, |state, index| {
            let vm = &mut state.vms[index];
            match &vm.claim {
                Claim::Free => {}
                Claim::Held(held) if held == token.as_str() => return Ok(()),
                Claim::Held(_) | Claim::Migrated(_) | Claim::Impossible => {
                    let text = format!("{} cannot be claimed: {:?}", vm.name, vm.claim);
                    return Err(PortError::lasting(text, "release its mark", Mend::Person));
                }
            }
            vm.claim = Claim::Held(token.as_str().to_owned());
            let (vm, token) = (vm.id.clone(), token.clone());
            state.did(Actor::Ferry, What::Claimed { vm, token });
            Ok(())
        })
    }

    fn release(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError> {
        self.at_vm(Call::SourceRelease, site, vm, |state, index| {
            let vm = &mut state.vms[index];
            match &vm.claim {
                Claim::Held(held) | Claim::Migrated(held) if held == token.as_str() => {}
                Claim::Held(_) | Claim::Migrated(_) | Claim::Free | Claim::Impossible => {
                    return Ok(());
                }
            }
            vm.claim = Claim::Free;
            let (vm, token) = (vm.id.clone(), token.clone());
            state.did(Actor::Ferry, What::Released { vm, token });
            Ok(())
        })
    }

    fn mark_migrated(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError> {
        self.at_vm(Call::SourceMarkMigrated, site, vm, |state, index| {
            let vm = &mut state.vms[index];
            match &vm.claim {
                Claim::Held(held) if held == token.as_str() => {}
                Claim::Migrated(held) if held == token.as_str() => return Ok(()),
                Claim::Impossible => return Ok(()),
                Claim::Held(_) | Claim::Migrated(_) | Claim::Free => {
                    let text = format!("the mark on {} is not ours: {:?}", vm.name, vm.claim);
                    return Err(PortError::lasting(text, "look who marked it", Mend::Person));
                }
            }
            vm.claim = Claim::Migrated(token.as_str().to_owned());
            let (vm, token) = (vm.id.clone(), token.clone());
            state.did(Actor::Ferry, What::Migrated { vm, token });
            Ok(())
        })
    }

    fn shut_down(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError> {
        self.at_vm(Call::SourceShutDown, site, vm, |state, index| {
            let now = state.now;
            let vm = &mut state.vms[index];
            let VmKind::Powered { guest, .. } = vm.kind else { return Err(powerless(vm)) };
            if !vm.runs() {
                return Ok(());
            }
            if let (Guest::Obeys(seconds), None) = (guest, vm.off_due) {
                let after = SignedDuration::from_secs(i64::from(seconds));
                vm.off_due = now.checked_add(after).ok();
            }
            let vm = vm.id.clone();
            state.did(Actor::Ferry, What::ShutdownAsked { vm });
            Ok(())
        })
    }

    fn power_off(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError> {
        self.at_vm(Call::SourcePowerOff, site, vm, |state, index| {
            if state.vms[index].kind == VmKind::Archive {
                return Err(powerless(&state.vms[index]));
            }
            state.go_off(index, Actor::Ferry);
            Ok(())
        })
    }

    fn power_on(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError> {
        self.at_vm(Call::SourcePowerOn, site, vm, |state, index| {
            if state.vms[index].kind == VmKind::Archive {
                return Err(powerless(&state.vms[index]));
            }
            state.go_on(index, Actor::Ferry);
            Ok(())
        })
    }

    fn powered_on_since(
        &self,
        site: &Site,
        vm: &SourceVm,
        since: Timestamp,
    ) -> Result<PoweredOn, PortError> {
        let mut state = self.lock();
        if state.crashed {
            return Err(super::crash());
        }
        let mishap = state.draw(Call::SourcePoweredOnSince);
        state.suffer(Call::SourcePoweredOnSince, mishap, |state| {
            state.readable(site)?;
            let found = state.vms.iter().find(|other| other.id == *vm && other.present);
            let Some(found) = found.filter(|_| mishap != Some(Mishap::Unknown)) else {
                return Ok(PoweredOn::Unknown);
            };
            // A moment has no parts here: on and off again within it counts as on.
            let went_on = |change: &PowerChange| change.power == Power::On && change.at >= since;
            let on = found.runs() || found.changes.iter().any(went_on);
            Ok(if on { PoweredOn::Yes } else { PoweredOn::Never })
        })
    }
}

fn powerless(vm: &SimVm) -> PortError {
    PortError::lasting(format!("{} has no power", vm.name), "leave it as it is", Mend::Person)
}

#[cfg(test)]
mod tests {
    use super::super::FaultPlan;
    use super::*;
    use crate::port::Clock;

    fn site() -> Site {
        Site::Ova { path: SOURCE_PATH.into() }
    }

    fn seconds(count: i64) -> SignedDuration {
        SignedDuration::from_secs(count)
    }

    #[test]
    fn a_guest_obeys_in_its_own_time_and_cannot_be_called_back() {
        let spec = SimVmSpec::powered("web", &[&[1, 2]]);
        let world = SimWorld::new(std::slice::from_ref(&spec), FaultPlan::default());
        let start = world.now();
        world.shut_down(&site(), &spec.id()).unwrap();
        world.power_on(&site(), &spec.id()).unwrap();
        world.advance(seconds(29));
        assert_eq!(world.source_power(&spec.id()), Some(Power::On));
        world.advance(seconds(2));
        assert_eq!(world.source_power(&spec.id()), Some(Power::Off));
        assert_eq!(world.deeds()[1].at, start.checked_add(seconds(30)).unwrap());
        world.guest("web", Guest::Ignores);
        world.person_powers_on("web");
        world.shut_down(&site(), &spec.id()).unwrap();
        world.advance(seconds(10_000));
        assert_eq!(world.source_power(&spec.id()), Some(Power::On));
    }

    #[test]
    fn disks_change_only_while_the_vm_is_on_and_power_ons_are_remembered() {
        let specs = [SimVmSpec::powered("web", &[&[1, 2]]), SimVmSpec::archive("old", &[&[3]])];
        let world = SimWorld::new(&specs, FaultPlan::default());
        world.advance(seconds(1));
        let before = world.lock().vms[0].disks.clone();
        assert_ne!(before, specs[0].disks);
        world.person_powers_off("web");
        let since = world.now();
        world.advance(seconds(100));
        assert_eq!(world.lock().vms[0].disks, before);
        assert_eq!(world.lock().vms[1].disks, specs[1].disks);
        let on = |since| world.powered_on_since(&site(), &specs[0].id(), since).unwrap();
        assert_eq!(on(since), PoweredOn::Never);
        world.person_powers_on("web");
        world.person_powers_off("web");
        assert_eq!(on(since), PoweredOn::Yes);
        assert_ne!(world.lock().vms[0].disks, before);
    }

    #[test]
    fn a_mark_belongs_to_its_token() {
        let spec = SimVmSpec::powered("web", &[]);
        let world = SimWorld::new(std::slice::from_ref(&spec), FaultPlan::default());
        let (vm, ours, theirs) = (spec.id(), Token::new("a"), Token::new("b"));
        world.claim(&site(), &vm, &ours).unwrap();
        world.claim(&site(), &vm, &ours).unwrap();
        assert!(world.claim(&site(), &vm, &theirs).is_err());
        world.release(&site(), &vm, &theirs).unwrap();
        assert!(world.mark_migrated(&site(), &vm, &theirs).is_err());
        world.mark_migrated(&site(), &vm, &ours).unwrap();
        assert!(world.claim(&site(), &vm, &ours).is_err());
        assert_eq!(world.deeds().len(), 2);
    }
}
