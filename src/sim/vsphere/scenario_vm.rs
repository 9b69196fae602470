//! The VMs of a scenario.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::scenario::{Size, Span, scalar};

/// A VM, or `count` of them.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the API")]
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct VmSpec {
    /// With `count`, the names are this and five digits.
    pub(super) name: String,
    pub(super) count: Option<u32>,
    /// The folder below the datacenter's, `prod/web`; it is made.
    pub(super) folder: String,
    /// A host by name; the first one unless given, with `count` all in turn.
    pub(super) host: Option<String>,
    /// A resource pool or vApp by name.
    pub(super) pool: Option<String>,
    pub(super) uuid: Option<String>,
    /// Empty = it has none.
    pub(super) instance_uuid: Option<String>,
    pub(super) power: Power,
    /// `connected`, `disconnected`, `orphaned`, `inaccessible`, `invalid`.
    pub(super) connection: Connection,
    pub(super) template: bool,
    pub(super) tools: Tools,
    /// What the guest does when it is asked to shut down.
    pub(super) shutdown: ShutdownAnswer,
    pub(super) host_name: Option<String>,
    pub(super) ip: Option<String>,
    pub(super) guest_id: String,
    pub(super) guest_full_name: String,
    /// `bios`, `efi`.
    pub(super) firmware: Firmware,
    pub(super) secure_boot: bool,
    pub(super) tpm: bool,
    pub(super) cpus: u32,
    pub(super) cores_per_socket: u32,
    pub(super) memory: Size,
    pub(super) cpu_hot_add: bool,
    pub(super) memory_hot_add: bool,
    pub(super) nested: bool,
    pub(super) cpu_affinity: Vec<u32>,
    /// `vmx-19`.
    pub(super) hardware: String,
    pub(super) change_tracking: bool,
    pub(super) annotation: Option<String>,
    pub(super) datastore: Option<String>,
    pub(super) disks: Vec<DiskSpec>,
    pub(super) nics: Vec<NicSpec>,
    /// Names, the oldest first, each the parent of the next.
    pub(super) snapshots: Vec<String>,
    pub(super) extra_config: BTreeMap<String, String>,
    pub(super) custom_attributes: BTreeMap<String, String>,
    pub(super) tags: Vec<String>,
    /// It waits for an answer to this.
    pub(super) question: Option<String>,
    pub(super) fault_tolerant: bool,
}

impl Default for VmSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            count: None,
            folder: String::new(),
            host: None,
            pool: None,
            uuid: None,
            instance_uuid: None,
            power: Power::On,
            connection: Connection::Connected,
            template: false,
            tools: Tools::Running,
            shutdown: ShutdownAnswer::After(Span::default()),
            host_name: None,
            ip: None,
            guest_id: "debian12_64Guest".to_owned(),
            guest_full_name: "Debian GNU/Linux 12 (64-bit)".to_owned(),
            firmware: Firmware::Bios,
            secure_boot: false,
            tpm: false,
            cpus: 1,
            cores_per_socket: 1,
            memory: Size(1 << 30),
            cpu_hot_add: false,
            memory_hot_add: false,
            nested: false,
            cpu_affinity: Vec::new(),
            hardware: "vmx-19".to_owned(),
            change_tracking: false,
            annotation: None,
            datastore: None,
            disks: Vec::new(),
            nics: Vec::new(),
            snapshots: Vec::new(),
            extra_config: BTreeMap::new(),
            custom_attributes: BTreeMap::new(),
            tags: Vec::new(),
            question: None,
            fault_tolerant: false,
        }
    }
}

/// Defines an enumeration with its words, in the scenario and on the wire.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $given:literal, $wire:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        pub(super) enum $name {
            $(#[serde(rename = $given)] $variant,)+
        }

        impl $name {
            /// Returns the word of the API.
            pub(super) const fn wire(self) -> &'static str {
                match self {
                    $(Self::$variant => $wire,)+
                }
            }
        }
    };
}

words!(
    /// Whether a VM runs.
    Power {
        On = "on", "poweredOn";
        Off = "off", "poweredOff";
        Suspended = "suspended", "suspended";
    }
);
words!(
    /// Whether its host can be reached.
    Connection {
        Connected = "connected", "connected";
        Disconnected = "disconnected", "disconnected";
        Orphaned = "orphaned", "orphaned";
        Inaccessible = "inaccessible", "inaccessible";
        Invalid = "invalid", "invalid";
    }
);
words!(
    /// VMware Tools in the guest, while it runs.
    Tools {
        Running = "running", "guestToolsRunning";
        NotRunning = "notRunning", "guestToolsNotRunning";
        NotInstalled = "notInstalled", "guestToolsNotRunning";
    }
);
words!(
    /// What starts the guest.
    Firmware {
        Bios = "bios", "bios";
        Efi = "efi", "efi";
    }
);
words!(
    /// What a disk hangs on, and the type of the device.
    Controller {
        Pvscsi = "pvscsi", "ParaVirtualSCSIController";
        LsiLogic = "lsilogic", "VirtualLsiLogicController";
        LsiLogicSas = "lsilogicsas", "VirtualLsiLogicSASController";
        BusLogic = "buslogic", "VirtualBusLogicController";
        Sata = "sata", "VirtualAHCIController";
        Ide = "ide", "VirtualIDEController";
        Nvme = "nvme", "VirtualNVMEController";
    }
);
words!(
    /// How a disk is stored, and the type of the backing.
    DiskBacking {
        FlatVer2 = "flatVer2", "VirtualDiskFlatVer2BackingInfo";
        SeSparse = "seSparse", "VirtualDiskSeSparseBackingInfo";
        SparseVer2 = "sparseVer2", "VirtualDiskSparseVer2BackingInfo";
        FlatVer1 = "flatVer1", "VirtualDiskFlatVer1BackingInfo";
    }
);
words!(
    /// A disk that is a LUN.
    Rdm {
        Virtual = "virtual", "virtualMode";
        Physical = "physical", "physicalMode";
    }
);
words!(
    /// What snapshots and writes do with a disk.
    DiskMode {
        Persistent = "persistent", "persistent";
        NonPersistent = "nonpersistent", "nonpersistent";
        IndependentPersistent = "independent_persistent", "independent_persistent";
        IndependentNonPersistent = "independent_nonpersistent", "independent_nonpersistent";
    }
);
words!(
    /// Whether several VMs write to a bus.
    BusSharing {
        None = "none", "noSharing";
        Virtual = "virtual", "virtualSharing";
        Physical = "physical", "physicalSharing";
    }
);
words!(
    /// A network card, and the type of the device.
    NicKind {
        Vmxnet3 = "vmxnet3", "VirtualVmxnet3";
        Vmxnet2 = "vmxnet2", "VirtualVmxnet2";
        Vmxnet = "vmxnet", "VirtualVmxnet";
        E1000 = "e1000", "VirtualE1000";
        E1000e = "e1000e", "VirtualE1000e";
        PcNet32 = "pcnet32", "VirtualPCNet32";
        Sriov = "sriov", "VirtualSriovEthernetCard";
    }
);

/// What a guest does when it is asked to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShutdownAnswer {
    /// It is off after this time.
    After(Span),
    /// It stays on and says nothing.
    Ignores,
    /// The call fails.
    Refuses,
}

impl<'de> Deserialize<'de> for ShutdownAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, |text| match text {
            "ignores" => Ok(Self::Ignores),
            "refuses" => Ok(Self::Refuses),
            _ => Span::parse(text)
                .map(Self::After)
                .ok_or_else(|| format!("{text} is neither a time nor `ignores` nor `refuses`")),
        })
    }
}

/// A disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DiskSpec {
    /// The image's unless given.
    pub(super) size: Option<Size>,
    pub(super) datastore: Option<String>,
    pub(super) controller: Controller,
    pub(super) bus: u32,
    /// The next free one unless given.
    pub(super) unit: Option<u32>,
    pub(super) bus_sharing: BusSharing,
    pub(super) thin: bool,
    pub(super) mode: DiskMode,
    /// Several VMs write to it.
    pub(super) multi_writer: bool,
    pub(super) backing: DiskBacking,
    pub(super) rdm: Option<Rdm>,
    /// Content out of a seed.
    pub(super) fill: Option<Fill>,
    /// Content out of a raw file.
    pub(super) image: Option<PathBuf>,
    /// While the VM is on, its guest writes a few kibibytes somewhere this often.
    pub(super) writes: Option<Span>,
}

impl Default for DiskSpec {
    fn default() -> Self {
        Self {
            size: None,
            datastore: None,
            controller: Controller::Pvscsi,
            bus: 0,
            unit: None,
            bus_sharing: BusSharing::None,
            thin: true,
            mode: DiskMode::Persistent,
            multi_writer: false,
            backing: DiskBacking::FlatVer2,
            rdm: None,
            fill: None,
            image: None,
            writes: None,
        }
    }
}

/// Content that a seed makes: pieces of 64 KiB with holes between them.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Fill {
    pub(super) seed: u64,
    /// How many of a hundred pieces are no holes.
    #[serde(deserialize_with = "percent")]
    pub(super) allocated: u8,
}

impl Default for Fill {
    fn default() -> Self {
        Self { seed: 1, allocated: 50 }
    }
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    scalar(deserializer, |text| {
        let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
        number
            .filter(|percent| *percent <= 100)
            .ok_or_else(|| format!("{text} is no percentage such as `40%`"))
    })
}

/// A network card.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NicSpec {
    /// By name, of any kind.
    pub(super) network: String,
    pub(super) kind: NicKind,
    pub(super) mac: Option<String>,
    pub(super) connected: bool,
}

impl Default for NicSpec {
    fn default() -> Self {
        Self { network: String::new(), kind: NicKind::Vmxnet3, mac: None, connected: true }
    }
}
