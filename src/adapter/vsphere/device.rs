//! The virtual hardware of a VM, as its `config.hardware.device` lists it.

use crate::adapter::vsphere::soap::kind;
use crate::domain::unit::Bytes;
use crate::xml::Element;

/// What a VM is made of, as far as it is moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hardware {
    /// Its disks, by key.
    pub(super) disks: Vec<VirtualDisk>,
    /// Its network cards, by key.
    pub(super) cards: Vec<Card>,
    /// Whether a disk or card is among it of which that is not known which matters.
    pub(super) is_unreadable: bool,
    /// Whether it has a virtual TPM.
    pub(super) tpm: bool,
    /// Types of devices of the host that it uses directly.
    pub(super) passed_through: Vec<String>,
    /// Types of devices that are not moved.
    pub(super) others: Vec<String>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a server tells")]
pub(super) struct VirtualDisk {
    pub(super) key: i32,
    pub(super) capacity: Bytes,
    /// Its file, `[DATASTORE] FOLDER/NAME.vmdk`.
    pub(super) file: String,
    /// Why it cannot be read like others; `None` for one that can.
    pub(super) odd: Option<&'static str>,
    /// Whether it is a file that holds its bytes as the guest sees them.
    pub(super) is_flat: bool,
    pub(super) is_shared: bool,
    pub(super) is_encrypted: bool,
    /// Whether its file is what was written since a snapshot.
    pub(super) is_delta: bool,
    /// Where it is connected: the controller's type, number and the unit there (`ParaVirtualSCSIController0:1`).
    pub(super) slot: String,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) key: i32,
    pub(super) mac: Option<String>,
    pub(super) network: NetworkOf,
}

/// How a card says what it is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NetworkOf {
    /// By the network's name.
    Named(String),
    /// By the key of a distributed port group.
    PortGroup(String),
    /// By the id of an opaque network (NSX).
    Opaque(String),
    /// It is connected to nothing that is known.
    Nothing,
}

/// The types of network cards.
const CARDS: [&str; 6] = [
    "VirtualVmxnet3",
    "VirtualVmxnet2",
    "VirtualVmxnet",
    "VirtualE1000",
    "VirtualE1000e",
    "VirtualPCNet32",
];

/// What most VMs have, and no target needs to be told.
const USUAL: [&str; 18] = [
    "VirtualIDEController",
    "VirtualPS2Controller",
    "VirtualPCIController",
    "VirtualSIOController",
    "VirtualKeyboard",
    "VirtualPointingDevice",
    "VirtualMachineVideoCard",
    "VirtualMachineVMCIDevice",
    "ParaVirtualSCSIController",
    "VirtualLsiLogicController",
    "VirtualLsiLogicSASController",
    "VirtualBusLogicController",
    "VirtualAHCIController",
    "VirtualNVMEController",
    "VirtualCdrom",
    "VirtualFloppy",
    "VirtualUSBController",
    "VirtualUSBXHCIController",
];

impl Hardware {
    /// Reads a list of devices.
    pub(super) fn of(devices: &Element) -> Self {
        let mut hardware = Self::default();
        for device in &devices.children {
            match kind(device) {
                "VirtualDisk" => match VirtualDisk::of(device, devices) {
                    Some(disk) => hardware.disks.push(disk),
                    None => hardware.is_unreadable = true,
                },
                kind if CARDS.contains(&kind) => match Card::of(device) {
                    Some(card) => hardware.cards.push(card),
                    None => hardware.is_unreadable = true,
                },
                "VirtualTPM" => hardware.tpm = true,
                kind @ ("VirtualPCIPassthrough"
                | "VirtualSCSIPassthrough"
                | "VirtualSriovEthernetCard") => {
                    hardware.passed_through.push(kind.to_owned());
                }
                kind if USUAL.contains(&kind) => {}
                kind => hardware.others.push(kind.to_owned()),
            }
        }
        // Keys ascend by kind of controller (SCSI, IDE, SATA, NVMe), controller and unit.
        hardware.disks.sort_by_key(|disk| disk.key);
        hardware.cards.sort_by_key(|card| card.key);
        hardware
    }
}

/// Tells whether other VMs reach the disks of a controller.
fn shares(controller: &Element) -> bool {
    let shared = controller.text_of("sharedBus");
    shared.is_some_and(|shared| shared != "noSharing")
}

fn number(element: &Element, name: &str) -> Option<i32> {
    element.text_of(name)?.parse().ok()
}

impl VirtualDisk {
    fn of(device: &Element, devices: &Element) -> Option<Self> {
        let backing = device.child("backing");
        let text =
            |name: &str| backing.and_then(|backing| backing.text_of(name)).unwrap_or_default();
        let file = match text("fileName") {
            "" => text("descriptorFileName"),
            file => file,
        };
        let bytes = |name: &str| device.text_of(name)?.parse::<u64>().ok();
        let kilobytes = || Some(bytes("capacityInKB")?.saturating_mul(1024));
        let capacity = bytes("capacityInBytes").filter(|bytes| *bytes > 0).or_else(kilobytes);
        let backed = backing.map(kind).unwrap_or_default();
        let odd = match backed {
            "VirtualDiskRawDiskMappingVer1BackingInfo"
                if text("compatibilityMode") == "physicalMode" =>
            {
                Some("raw-device-mapping (physical mode)")
            }
            "VirtualDiskRawDiskMappingVer1BackingInfo" => Some("raw-device-mapping"),
            "VirtualDiskRawDiskVer2BackingInfo"
            | "VirtualDiskPartitionedRawDiskVer2BackingInfo" => Some("raw-device"),
            "VirtualDiskLocalPMemBackingInfo" => Some("persistent-memory"),
            "VirtualDiskFlatVer2BackingInfo"
            | "VirtualDiskSparseVer2BackingInfo"
            | "VirtualDiskSeSparseBackingInfo"
            | "VirtualDiskFlatVer1BackingInfo"
            | "VirtualDiskSparseVer1BackingInfo" => None,
            _ => Some("unknown-backing"),
        };
        let controller = number(device, "controllerKey");
        let at = devices.children.iter().find(|other| number(other, "key") == controller);
        let slot = at.map(|at| {
            let (bus, unit) = (number(at, "busNumber"), number(device, "unitNumber"));
            format!("{}{}:{}", kind(at), bus.unwrap_or_default(), unit.unwrap_or_default())
        });
        Some(Self {
            key: number(device, "key")?,
            capacity: Bytes(capacity?),
            file: file.to_owned(),
            odd,
            is_flat: matches!(
                backed,
                "VirtualDiskFlatVer2BackingInfo" | "VirtualDiskFlatVer1BackingInfo"
            ),
            is_shared: at.is_some_and(shares) || text("sharing") == "sharingMultiWriter",
            is_encrypted: backing.is_some_and(|backing| backing.child("keyId").is_some()),
            is_delta: backing.is_some_and(|backing| backing.child("parent").is_some()),
            slot: slot.unwrap_or_default(),
        })
    }
}

impl Card {
    fn of(device: &Element) -> Option<Self> {
        let backing = device.child("backing");
        let text = |name: &str| {
            let text = backing.and_then(|backing| backing.text_of(name));
            text.unwrap_or_default().to_owned()
        };
        let network = match backing.map(kind).unwrap_or_default() {
            "VirtualEthernetCardNetworkBackingInfo" => NetworkOf::Named(text("deviceName")),
            "VirtualEthernetCardDistributedVirtualPortBackingInfo" => {
                let port = backing.and_then(|backing| backing.child("port"));
                let key = port.and_then(|port| port.text_of("portgroupKey"));
                key.map_or(NetworkOf::Nothing, |key| NetworkOf::PortGroup(key.to_owned()))
            }
            "VirtualEthernetCardOpaqueNetworkBackingInfo" => {
                NetworkOf::Opaque(text("opaqueNetworkId"))
            }
            _ => NetworkOf::Nothing,
        };
        let mac = device.text_of("macAddress").map(str::to_ascii_lowercase);
        Some(Self { key: number(device, "key")?, mac, network })
    }
}
