//! Makes the VMs of a scenario.

use super::build::{BuildError, Builder, Site};
use super::device;
use super::disk::Disk;
use super::inventory::{Entity, Net};
use super::machine::{Machine, Nic, Snapshot};
use super::scenario::{DiskSpec, NicSpec, Power, VmSpec};
use super::seeded_tracking;
use super::value::{Data, Ref};

impl Builder<'_> {
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

    pub(super) fn vm(
        &mut self,
        site: &Site,
        spec: &VmSpec,
        name: &str,
        at: u32,
    ) -> Result<(), BuildError> {
        if name.is_empty() {
            return Err(BuildError::Sense("a VM has no name".to_owned()));
        }
        let (host, pool) = place(site, spec, name, at)?;
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
            used.extend(Self::datastore(site, spec, None, vm)?.map(|(_, me)| me));
        }
        Ok((disks, used))
    }

    fn datastore(
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
        let (datastore_name, datastore) = Self::datastore(site, vm, Some(spec), name)?
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

/// Finds the host and the pool of a VM.
fn place(site: &Site, spec: &VmSpec, name: &str, at: u32) -> Result<(Ref, Ref), BuildError> {
    let missing = |kind, wanted: &str| {
        BuildError::Sense(format!("the VM {name} names the {kind} {wanted}, which there is not"))
    };
    let host = match &spec.host {
        Some(wanted) => site.hosts.iter().find(|(name, ..)| name == wanted),
        None => site.hosts.iter().cycle().nth(usize::try_from(at).unwrap_or(0)),
    };
    let (_, host, root_pool) = host.ok_or_else(|| match &spec.host {
        Some(wanted) => missing("host", wanted),
        None => BuildError::Sense(format!("the VM {name} has no host to run on")),
    })?;
    let (host, root_pool) = (host.clone(), root_pool.clone());
    let pool = match &spec.pool {
        None => root_pool,
        Some(wanted) => {
            let found = site.pools.iter().find(|(name, _)| name == wanted);
            found.ok_or_else(|| missing("pool", wanted))?.1.clone()
        }
    };
    Ok((host, pool))
}
