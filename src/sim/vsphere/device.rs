//! The virtual devices of a VM, with the keys that vSphere gives them.

use std::collections::BTreeMap;

use super::disk::Disk;
use super::machine::{Machine, Nic};
use super::scenario::{BusSharing, Controller, DiskBacking};
use super::value::{Data, Value, int, list, long};

/// Keys of the devices that every VM has.
const PCI: u32 = 100;
const IDE: u32 = 200;

/// Returns the key of a controller.
pub(super) fn controller_key(controller: Controller, bus: u32) -> u32 {
    bus + match controller {
        Controller::Pvscsi
        | Controller::LsiLogic
        | Controller::LsiLogicSas
        | Controller::BusLogic => 1000,
        Controller::Sata => 15_000,
        Controller::Ide => IDE,
        Controller::Nvme => 31_000,
    }
}

/// Returns how many disks hang on a controller, and the unit that it keeps for itself.
pub(super) fn units(controller: Controller) -> (u32, Option<u32>) {
    match controller {
        Controller::Pvscsi => (64, Some(7)),
        Controller::LsiLogic | Controller::LsiLogicSas | Controller::BusLogic => (16, Some(7)),
        Controller::Sata => (30, None),
        Controller::Ide => (2, None),
        Controller::Nvme => (64, None),
    }
}

/// Returns how many buses of a kind a VM has at most.
pub(super) fn buses(controller: Controller) -> u32 {
    if controller == Controller::Ide { 2 } else { 4 }
}

/// Returns the key of a disk.
pub(super) fn disk_key(controller: Controller, bus: u32, unit: u32) -> u32 {
    match controller {
        Controller::Pvscsi
        | Controller::LsiLogic
        | Controller::LsiLogicSas
        | Controller::BusLogic => match unit {
            0..16 => 2000 + bus * 16 + unit,
            // The 64 units of a PVSCSI controller, behind the keys of all others.
            _ => 2064 + bus * 64 + unit,
        },
        Controller::Sata => 16_000 + bus * 30 + unit,
        Controller::Ide => 3000 + bus * 2 + unit,
        Controller::Nvme => 32_000 + bus * 64 + unit,
    }
}

/// Returns all devices, those of the disks given.
pub(super) fn devices(machine: &Machine, disks: &[Disk]) -> Vec<Value> {
    let mut devices = vec![
        ide(0, disks),
        ide(1, disks),
        simple("VirtualPS2Controller", 300, "PS2 controller 0").with("busNumber", int(0)),
        simple("VirtualPCIController", PCI, "PCI controller 0").with("busNumber", int(0)),
        simple("VirtualSIOController", 400, "SIO controller 0").with("busNumber", int(0)),
        hung(simple("VirtualKeyboard", 600, "Keyboard"), 300, 0),
        hung(simple("VirtualPointingDevice", 700, "Pointing device"), 300, 1),
        hung(simple("VirtualMachineVideoCard", 500, "Video card"), PCI, 0)
            .with("videoRamSizeInKB", long(4096)),
        hung(simple("VirtualMachineVMCIDevice", 12_000, "VMCI device"), PCI, 17),
    ];
    // A controller is there with its disks, once for each bus.
    let mut controllers = BTreeMap::new();
    for disk in &machine.spec.disks {
        let key = controller_key(disk.controller, disk.bus);
        controllers.entry(key).or_insert((disk.controller, disk.bus, disk.bus_sharing));
    }
    for (key, (controller, bus, sharing)) in controllers {
        if controller != Controller::Ide {
            devices.push(hanging_on(key, disks, self::controller(key, controller, bus, sharing)));
        }
    }
    devices.extend(disks.iter().enumerate().map(|(at, disk)| self::disk(machine, at, disk)));
    devices.extend(machine.nics.iter().enumerate().map(|(at, nic)| self::nic(at, nic)));
    if machine.spec.tpm {
        devices.push(simple("VirtualTPM", 11_000, "Virtual TPM"));
    }
    devices.into_iter().map(Value::from).collect()
}

fn simple(kind: &'static str, key: u32, label: &'static str) -> Data {
    let info = Data::new("Description").with("label", label).with("summary", label);
    Data::new(kind).with("key", int(key)).with("deviceInfo", info)
}

fn hung(device: Data, controller: u32, unit: u32) -> Data {
    device.with("controllerKey", int(controller)).with("unitNumber", int(unit))
}

fn hanging_on(key: u32, disks: &[Disk], controller: Data) -> Data {
    let keys = disks.iter().filter(|disk| disk.controller_key == key).map(|disk| int(disk.key));
    // Stands before the fields of the derived types, as the sequence of the type wants it.
    controller.insert_before(&["hotAddRemove", "sharedBus"], "device", list("xsd:int", keys))
}

fn ide(bus: u32, disks: &[Disk]) -> Data {
    let label = format!("IDE {bus}");
    let info = Data::new("Description").with("label", label.clone()).with("summary", label);
    let controller = Data::new("VirtualIDEController")
        .with("key", int(IDE + bus))
        .with("deviceInfo", info)
        .with("busNumber", int(bus));
    hanging_on(IDE + bus, disks, controller)
}

fn controller(key: u32, controller: Controller, bus: u32, sharing: BusSharing) -> Data {
    let (name, is_scsi) = match controller {
        Controller::Pvscsi
        | Controller::LsiLogic
        | Controller::LsiLogicSas
        | Controller::BusLogic => ("SCSI", true),
        Controller::Sata => ("SATA", false),
        Controller::Ide => ("IDE", false),
        Controller::Nvme => ("NVME", false),
    };
    let label = format!("{name} controller {bus}");
    let info = Data::new("Description").with("label", label.clone()).with("summary", label);
    let data = Data::new(controller.wire()).with("key", int(key)).with("deviceInfo", info);
    let data = hung(data, PCI, 3 + bus).with("busNumber", int(bus));
    if is_scsi {
        data.with("hotAddRemove", true)
            .with("sharedBus", super::value::word("VirtualSCSISharing", sharing.wire()))
            .with("scsiCtlrUnitNumber", int(7))
    } else {
        data
    }
}

fn disk(machine: &Machine, at: usize, disk: &Disk) -> Data {
    let info = Data::new("Description")
        .with("label", format!("Hard disk {}", at + 1))
        .with("summary", format!("{} KB", grouped(disk.capacity >> 10)));
    Data::new("VirtualDisk")
        .with("key", int(disk.key))
        .with("deviceInfo", info)
        .sub("backing", backing(disk, &parents(machine, disk)))
        .with("controllerKey", int(disk.controller_key))
        .with("unitNumber", int(disk.unit))
        .with("capacityInKB", long(disk.capacity >> 10))
        .with("capacityInBytes", long(disk.capacity))
        .with("diskObjectId", format!("{}-{}", machine.created.as_second() % 10_000, disk.key))
        .with("nativeUnmanagedLinkedClone", false)
        .without(&["connectable", "shares", "vDiskId"])
}

/// Returns the disks of the chain below one, the nearest first.
fn parents<'a>(machine: &'a Machine, disk: &Disk) -> Vec<&'a Disk> {
    let kept = machine.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
    let mut below: Vec<&Disk> =
        kept.filter(|kept| kept.key == disk.key && kept.delta < disk.delta).collect();
    below.dedup_by_key(|disk| disk.delta);
    below.reverse();
    below
}

fn backing(disk: &Disk, below: &[&Disk]) -> Data {
    let parent = below.split_first().map(|(nearest, rest)| backing(nearest, rest));
    let change_id = disk.tracking.as_ref().map(super::disk::Tracking::change_id);
    let sharing = if disk.multi_writer { "sharingMultiWriter" } else { "sharingNone" };
    let file = |kind| {
        Data::new(kind).with("fileName", disk.file_name()).with("datastore", &disk.datastore)
    };
    if let Some(mode) = disk.rdm {
        return file("VirtualDiskRawDiskMappingVer1BackingInfo")
            .with("lunUuid", format!("0200000000{}", disk.uuid.replace('-', "")))
            .with("deviceName", format!("vml.0200000000{}", disk.uuid.replace('-', "")))
            .with("compatibilityMode", mode.wire())
            .with("diskMode", disk.mode.wire())
            .with("uuid", &disk.uuid)
            .with("changeId", change_id)
            .with("parent", parent)
            .with("sharing", sharing);
    }
    let data = file(disk.backing.wire()).with("diskMode", disk.mode.wire());
    match disk.backing {
        DiskBacking::FlatVer2 => data
            .with("split", false)
            .with("writeThrough", false)
            .with("thinProvisioned", disk.thin)
            .with("uuid", &disk.uuid)
            .with("contentId", content_id(disk))
            .with("changeId", change_id)
            .with("parent", parent)
            .with("digestEnabled", false)
            .with("sharing", sharing)
            .without(&["keyId"]),
        DiskBacking::SeSparse => data
            .with("writeThrough", false)
            .with("uuid", &disk.uuid)
            .with("contentId", content_id(disk))
            .with("changeId", change_id)
            .with("parent", parent)
            .with("digestEnabled", false),
        DiskBacking::SparseVer2 => data
            .with("split", false)
            .with("writeThrough", false)
            .with("uuid", &disk.uuid)
            .with("contentId", content_id(disk))
            .with("changeId", change_id)
            .with("parent", parent),
        DiskBacking::FlatVer1 => data
            .with("split", false)
            .with("writeThrough", false)
            .with("contentId", content_id(disk))
            .with("parent", parent),
    }
}

fn content_id(disk: &Disk) -> String {
    disk.uuid.replace('-', "")
}

fn nic(at: usize, nic: &Nic) -> Data {
    let info = Data::new("Description")
        .with("label", format!("Network adapter {}", at + 1))
        .with("summary", nic.network_name.clone());
    let connect = Data::new("VirtualDeviceConnectInfo")
        .with("startConnected", nic.connected)
        .with("allowGuestControl", true)
        .with("connected", nic.connected)
        .with("status", if nic.connected { "ok" } else { "untried" });
    let device = Data::new(nic.kind.wire())
        .with("key", int(nic.key))
        .with("deviceInfo", info)
        .sub("backing", nic.backing.clone())
        .with("connectable", connect);
    hung(device, PCI, nic.unit)
        .with("addressType", if nic.generated { "assigned" } else { "manual" })
        .with("macAddress", &nic.mac)
        .with("wakeOnLanEnabled", true)
}

/// Writes a number as people see it, `1,048,576`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
