//! One VM: what the server tells of it, property by property, and what that makes in no vendor's words.

use std::collections::BTreeMap;

use crate::adapter::location::{BlocksDisk, VsphereDisk};
use crate::adapter::vsphere::claim;
use crate::adapter::vsphere::collector::Wish;
use crate::adapter::vsphere::device::{Hardware, NetworkOf, VirtualDisk};
use crate::adapter::vsphere::soap::{Fault, Ref};
use crate::domain::id::{DiskKey, SourceVm};
use crate::domain::unit::Bytes;
use crate::domain::vm::{Checksum, Claim, Disk, DiskFormat, Firmware, Hosted, Nic, Power, Vm};
use crate::manifest::document::Transport;
use crate::xml::Element;

/// What is read of a VM.
pub(super) const WISH: Wish = Wish {
    kind: "VirtualMachine",
    paths: &[
        "name",
        "parent",
        "parentVApp",
        "config.uuid",
        "config.instanceUuid",
        "config.changeVersion",
        "config.template",
        "config.guestId",
        "config.firmware",
        "config.bootOptions",
        "config.extraConfig",
        "config.keyId",
        "config.ftInfo",
        "config.cpuAffinity",
        "config.cpuHotAddEnabled",
        "config.memoryHotAddEnabled",
        "config.hardware.numCPU",
        "config.hardware.numCoresPerSocket",
        "config.hardware.memoryMB",
        "config.hardware.device",
        "runtime.powerState",
        "runtime.connectionState",
        "runtime.host",
        "runtime.question",
        "guest.toolsRunningStatus",
        "snapshot",
    ],
};

/// What the server tells of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a server tells")]
pub(super) struct Told {
    pub(super) name: String,
    /// The properties that could not be read, which says nothing about what they are.
    unread: BTreeMap<String, String>,
    /// The folder or vApp that it lies in.
    pub(super) parent: Option<Ref>,
    pub(super) vapp: Option<Ref>,
    pub(super) bios_uuid: Option<String>,
    pub(super) instance_uuid: Option<String>,
    /// Guards a change of the configuration.
    pub(super) change_version: Option<String>,
    pub(super) template: bool,
    pub(super) power: Option<String>,
    pub(super) connection: Option<String>,
    pub(super) host: Option<Ref>,
    os: Option<String>,
    firmware: Option<String>,
    secure_boot: bool,
    boot_disks: Vec<i32>,
    marks: claim::Marks,
    cpus: Option<u32>,
    cores_per_socket: Option<u32>,
    memory_mib: Option<u64>,
    pub(super) hardware: Option<Hardware>,
    snapshots: u32,
    encrypted: bool,
    fault_tolerant: bool,
    pinned: bool,
    numa: bool,
    cpu_hot_plug: bool,
    memory_hot_plug: bool,
    question: Option<String>,
    tools_run: bool,
}

/// What a VM's description needs besides what is told of it.
pub(super) struct Surroundings<'a> {
    /// What identifies the server.
    pub(super) server: &'a str,
    /// The VM's id there.
    pub(super) id: &'a str,
    /// The VM's path in the inventory.
    pub(super) path: String,
    /// The inventory path of its datacenter.
    pub(super) datacenter: String,
    pub(super) transport: Transport,
    /// Whether VMware's library is there.
    pub(super) has_library: bool,
    /// Finds the name of a network that is not named in the VM.
    pub(super) network: &'a dyn Fn(&NetworkOf) -> Option<String>,
}

impl Told {
    /// Takes what a property is now; `None` where it is not set.
    pub(super) fn set(&mut self, path: &str, value: Option<&Element>) {
        self.unread.remove(path);
        let text = || value.map(Element::text).filter(|text| !text.is_empty()).map(str::to_owned);
        let truth = || value.is_some_and(|value| value.text() == "true");
        let number = || value.and_then(|value| value.text().parse::<u32>().ok());
        match path {
            "name" => self.name = unescaped(&text().unwrap_or_default()),
            "parent" => self.parent = value.and_then(Ref::of),
            "parentVApp" => self.vapp = value.and_then(Ref::of),
            "config.uuid" => self.bios_uuid = text().map(|uuid| uuid.to_ascii_lowercase()),
            "config.instanceUuid" => {
                self.instance_uuid = text().map(|uuid| uuid.to_ascii_lowercase());
            }
            "config.changeVersion" => self.change_version = text(),
            "config.template" => self.template = truth(),
            "config.guestId" => self.os = text(),
            "config.firmware" => self.firmware = text(),
            "config.bootOptions" => self.boot(value),
            "config.extraConfig" => {
                self.marks = claim::Marks::of(value);
                self.numa = claim::option(value, "numa.nodeAffinity").is_some();
            }
            "config.keyId" => self.encrypted = value.is_some(),
            "config.ftInfo" => self.fault_tolerant = value.is_some(),
            "config.cpuAffinity" => {
                self.pinned = value.is_some_and(|set| set.child("affinitySet").is_some());
            }
            "config.cpuHotAddEnabled" => self.cpu_hot_plug = truth(),
            "config.memoryHotAddEnabled" => self.memory_hot_plug = truth(),
            "runtime.question" => {
                self.question = value.and_then(|asked| asked.text_of("text")).map(str::to_owned);
            }
            "guest.toolsRunningStatus" => {
                // While they execute a script they answer a moment later.
                self.tools_run =
                    value.is_some_and(|status| status.text() != "guestToolsNotRunning");
            }
            "config.hardware.numCPU" => self.cpus = number(),
            "config.hardware.numCoresPerSocket" => self.cores_per_socket = number(),
            "config.hardware.memoryMB" => self.memory_mib = number().map(u64::from),
            "config.hardware.device" => self.hardware = value.map(Hardware::of),
            "runtime.powerState" => self.power = text(),
            "runtime.connectionState" => self.connection = text(),
            "runtime.host" => self.host = value.and_then(Ref::of),
            "snapshot" => self.snapshots = value.map_or(0, |tree| count(tree, "rootSnapshotList")),
            _ => {}
        }
    }

    /// Takes that a property cannot be read, and why.
    pub(super) fn cannot_read(&mut self, path: String, fault: &Fault) {
        self.unread.insert(path, fault.kind.clone());
    }

    /// Fails where something of it could not be read: an absent mark may be one that nobody saw.
    pub(super) fn is_read(&self) -> Result<(), String> {
        match self.unread.first_key_value() {
            None => Ok(()),
            Some((path, fault)) => Err(format!("its `{path}` cannot be read ({fault})")),
        }
    }

    fn boot(&mut self, options: Option<&Element>) {
        self.secure_boot =
            options.is_some_and(|options| options.text_of("efiSecureBootEnabled") == Some("true"));
        let order = options.into_iter().flat_map(|options| options.all("bootOrder"));
        let disks = order.filter_map(|device| device.text_of("deviceKey")?.parse().ok());
        self.boot_disks = disks.collect();
    }

    /// Describes the VM; else says what keeps it from being known.
    pub(super) fn describe(&self, around: &Surroundings<'_>) -> Result<Vm, String> {
        if let Some(state) = self.connection.as_deref().filter(|state| *state != "connected") {
            return Err(format!("its server has no connection to it (`{state}`)"));
        }
        self.is_read()?;
        let (Some(uuid), Some(hardware)) = (&self.instance_uuid, &self.hardware) else {
            return Err("its configuration cannot be read".to_owned());
        };
        if hardware.is_unreadable {
            return Err("one of its disks or network cards cannot be read".to_owned());
        }
        let power = match self.power.as_deref() {
            Some("poweredOff") => Power::Off,
            // A suspended VM's disks are not consistent.
            Some("poweredOn" | "suspended") => Power::On,
            Some(_) | None => return Err("its power state cannot be read".to_owned()),
        };
        let mut disks: Vec<&VirtualDisk> = hardware.disks.iter().collect();
        let place = |disk: &VirtualDisk| self.boot_disks.iter().position(|key| *key == disk.key);
        disks.sort_by_key(|disk| place(disk).unwrap_or(usize::MAX));
        let flat =
            self.snapshots == 0 && hardware.disks.iter().all(|disk| disk.is_flat && !disk.is_delta);
        let (transport, why) = match around.transport {
            Transport::Auto if around.has_library => {
                (Transport::Vddk, "`vddk`, since the settings name the library")
            }
            Transport::Auto if flat => {
                (Transport::Https, "`https`, since they are flat files without snapshots")
            }
            Transport::Auto => {
                (Transport::Nfc, "`nfc`, since they are no flat files, or have snapshots")
            }
            Transport::Vddk => (Transport::Vddk, "`vddk`, as its Provider says"),
            Transport::Https => (Transport::Https, "`https`, as its Provider says"),
            Transport::Nfc => (Transport::Nfc, "`nfc`, as its Provider says"),
        };
        let name = |of: &NetworkOf| match of {
            NetworkOf::Named(name) => name.clone(),
            other => (around.network)(other).unwrap_or_else(|| "(unknown network)".to_owned()),
        };
        let cards = hardware.cards.iter();
        Ok(Vm {
            id: SourceVm::Vsphere { server: around.server.into(), vm: uuid.as_str().into() },
            name: self.name.clone(),
            path: around.path.clone(),
            power,
            firmware: match self.firmware.as_deref() {
                Some("bios") => Some(Firmware::Bios),
                Some("efi") => Some(Firmware::Efi),
                Some(_) | None => None,
            },
            secure_boot: self.secure_boot,
            tpm: hardware.tpm,
            cpus: self.cpus,
            cores_per_socket: self.cores_per_socket.filter(|cores| *cores > 0),
            memory: self.memory_mib.map(Bytes::mib),
            os: self.os.clone(),
            disks: disks.into_iter().map(|disk| described(disk, transport, around, flat)).collect(),
            nics: cards
                .map(|card| Nic { network: name(&card.network), mac: card.mac.clone() })
                .collect(),
            claim: self.claim(),
            hosted: Hosted { reading: Some(why.to_owned()), ..self.hosted(around.id, hardware) },
        })
    }

    fn hosted(&self, id: &str, hardware: &Hardware) -> Hosted {
        let uuids = self.instance_uuid.iter().chain(&self.bios_uuid);
        let mut ids: Vec<String> = std::iter::once(id.to_owned()).chain(uuids.cloned()).collect();
        ids.dedup();
        let shared = hardware.disks.iter().filter(|disk| disk.is_shared);
        Hosted {
            ids,
            reading: None,
            suspended: self.power.as_deref() == Some("suspended"),
            deaf: self.power.as_deref() == Some("poweredOn") && !self.tools_run,
            question: self.question.clone(),
            snapshots: self.snapshots,
            encrypted: self.encrypted || hardware.disks.iter().any(|disk| disk.is_encrypted),
            fault_tolerant: self.fault_tolerant,
            pinned: self.pinned || self.numa,
            hot_plug: self.cpu_hot_plug || self.memory_hot_plug,
            shared_disks: shared.map(|disk| DiskKey::new(disk.key.to_string())).collect(),
            passed_through: hardware.passed_through.clone(),
            devices: hardware.others.clone(),
        }
    }

    /// Returns Ferry's mark on it.
    pub(super) fn claim(&self) -> Claim {
        self.marks.claim()
    }
}

/// Counts the snapshots of a tree.
fn count(tree: &Element, name: &str) -> u32 {
    let below = |snapshot: &Element| 1 + count(snapshot, "childSnapshotList");
    tree.all(name).map(below).sum()
}

fn described(
    disk: &VirtualDisk,
    transport: Transport,
    around: &Surroundings<'_>,
    flat: bool,
) -> Disk {
    let VirtualDisk { key, capacity, file, odd, slot, .. } = disk;
    let (format, transport) = match (odd, transport) {
        (Some(odd), _) => (DiskFormat::Unsupported((*odd).to_owned()), transport),
        (None, Transport::Https) if !flat => {
            (DiskFormat::Unsupported("flat-file-below-snapshots".to_owned()), transport)
        }
        (None, Transport::Nfc) => (DiskFormat::StreamOptimized, transport),
        (None, _) => (DiskFormat::Blocks, transport),
    };
    let source = BlocksDisk::Vsphere(VsphereDisk {
        vm: around.id.to_owned(),
        key: *key,
        file: file.clone(),
        datacenter: around.datacenter.clone(),
        slot: slot.clone(),
        transport,
    });
    Disk {
        key: DiskKey::new(key.to_string()),
        capacity: *capacity,
        stored: None,
        format,
        checksum: Checksum::Absent,
        source: source.to_source(),
    }
}

/// Reads a name of the inventory, in which `/`, `\` and `%` are escaped.
pub(super) fn unescaped(name: &str) -> String {
    name.replace("%2f", "/")
        .replace("%2F", "/")
        .replace("%5c", "\\")
        .replace("%5C", "\\")
        .replace("%25", "%")
}
