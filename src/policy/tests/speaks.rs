//! What each rule and check says, and what makes it speak.

use super::*;
use crate::desired::{Trust, VsphereSite};
use crate::manifest::document::Transport;

fn vcenter(trust: Trust) -> Site {
    let (url, credentials) = ("https://vc/sdk".into(), "vc".into());
    Site::Vsphere(Arc::new(VsphereSite { url, credentials, trust, transport: Transport::Auto }))
}

fn stored_as_qcow2(desired: &mut Desired) {
    desired.target_site = Site::Local { path: "/vms".into(), disk_format: ImageFormat::Qcow2 };
}

pub(super) type Change = fn(&mut Desired, &mut Vm);

/// For each rule and check: what makes it speak, and what it says. `the_table_covers_every_page` keeps it whole.
pub(super) const SPEAKS: &[(&str, Change, &str)] = &[
    (
        "guest.addresses.unkept",
        |desired, _| desired.skip_guest_conversion = false,
        "it is converted, and static addresses bound to the names of its network cards may be lost",
    ),
    (
        "guest.legacy_windows",
        |_, vm| vm.os = Some("windows7_64Guest".into()),
        "the guest is an old Windows (`windows7_64Guest`)",
    ),
    (
        "guest.windows.unconverted",
        |_, vm| vm.os = Some("Windows2019srv_64Guest".into()),
        "the guest is Windows (`Windows2019srv_64Guest`) and the plan installs no drivers",
    ),
    (
        "ova.disk.capacity.invalid",
        |_, vm| vm.disks[0].capacity = Bytes(0),
        "disk `vmdisk1` has a capacity of 0 bytes",
    ),
    (
        "ova.disk.checksum.absent",
        |_, vm| vm.disks[0].checksum = Checksum::Absent,
        "disk `vmdisk1` has no checksum",
    ),
    (
        "ova.disk.checksum.unchecked",
        |_, vm| vm.disks[0].checksum = Checksum::Unchecked("SHA512".into()),
        "the checksum of disk `vmdisk1` (SHA512) is not checked",
    ),
    (
        "ova.disk.format.unsupported",
        |_, vm| vm.disks[0].format = DiskFormat::Unsupported("qcow2".into()),
        "disk `vmdisk1` is stored as `qcow2`, which is not supported",
    ),
    (
        "ova.disk.format.unsupported",
        |_, vm| vm.disks[0].format = DiskFormat::Unsupported("empty".into()),
        "disk `vmdisk1` is stored as `unsupported`, which is not supported",
    ),
    (
        "ova.name.invalid",
        |_, vm| vm.name = "Web_01".into(),
        "`Web_01` is called `web-01` on the target",
    ),
    ("vm.cpu.unknown", |_, vm| vm.cpus = None, "the source does not say how many CPUs it has"),
    ("vm.cpu.unknown", |_, vm| vm.cpus = Some(0), "the source gives it no CPU"),
    (
        "vm.disk.capacity.unaligned",
        |_, vm| vm.disks[0].capacity = Bytes(1_000_001),
        "disk `vmdisk1` has 1000001 bytes, no multiple of 512",
    ),
    ("vm.disks.none", |_, vm| vm.disks.clear(), "it has no disks"),
    (
        "vm.firmware.unknown",
        |_, vm| vm.firmware = None,
        "the source does not say whether it boots by BIOS or UEFI",
    ),
    (
        "vm.memory.unknown",
        |_, vm| vm.memory = None,
        "the source does not say how much memory it has",
    ),
    ("vm.memory.unknown", |_, vm| vm.memory = Some(Bytes(0)), "the source gives it no memory"),
    (
        "vm.nic.mac.duplicate",
        |_, vm| {
            let mac = Some("00-50-56-00-00-01".to_owned());
            vm.nics.push(Nic { network: "VM Network".into(), mac });
        },
        "network cards 1 and 2 both have the address 00:50:56:00:00:01",
    ),
    ("vm.tpm.content.lost", |_, vm| vm.tpm = true, "its virtual TPM is replaced by an empty one"),
    (
        "plan.network.unmapped",
        |_, vm| vm.nics[0].network = "DMZ".into(),
        "network `DMZ` is not mapped",
    ),
    (
        "plan.network.mapping.missing",
        |desired, _| desired.networks = None,
        "it has 1 network cards and no network mapping",
    ),
    (
        "plan.network.ignored",
        |desired, _| network(desired, NetworkType::Ignored),
        "its network card in `VM Network` is left out",
    ),
    (
        "plan.network.nameless",
        |desired, _| network(desired, NetworkType::Multus),
        "network `VM Network` is mapped to a network without a name",
    ),
    (
        "plan.type.unsupported",
        |desired, _| desired.kind = PlanType::Warm,
        "`type: warm` is not supported yet",
    ),
    (
        "target.name.invalid",
        |_, vm| vm.name = "日本".into(),
        "no name on the target can be made of `日本`",
    ),
    (
        "vm.device.lost",
        |_, vm| vm.hosted.devices.push("VirtualSerialPort".into()),
        "its device `VirtualSerialPort` is not carried over",
    ),
    (
        "vm.device.passthrough",
        |_, vm| vm.hosted.passed_through.push("VirtualPCIPassthrough".into()),
        "a device of the host is passed through (`VirtualPCIPassthrough`)",
    ),
    (
        "vm.disk.shared",
        |_, vm| vm.hosted.shared_disks.push(vm.disks[0].key.clone()),
        "disk `vmdisk1` is shared with other VMs",
    ),
    (
        "vm.disk.unreadable",
        |desired, vm| {
            desired.source_site = vcenter(Trust::System);
            vm.disks[0].format = DiskFormat::Unsupported("raw-device-mapping".into());
        },
        "disk `vmdisk1` is a `raw-device-mapping`, which cannot be read",
    ),
    ("vm.encrypted", |_, vm| vm.hosted.encrypted = true, "its disks are encrypted by the source"),
    (
        "vm.fault_tolerance",
        |_, vm| vm.hosted.fault_tolerant = true,
        "a second copy of it runs in step (Fault Tolerance)",
    ),
    (
        "vm.hot_plug.lost",
        |_, vm| vm.hosted.hot_plug = true,
        "CPUs or memory may be added while it runs",
    ),
    (
        "vm.placement.lost",
        |_, vm| vm.hosted.pinned = true,
        "it is bound to certain CPUs or NUMA nodes",
    ),
    (
        "vm.question.open",
        |_, vm| vm.hosted.question = Some("Moved or copied?".into()),
        "it waits for an answer: Moved or copied?",
    ),
    (
        "vm.shutdown.deaf",
        |_, vm| vm.hosted.deaf = true,
        "nobody in the guest hears a request to shut down",
    ),
    ("vm.snapshots.present", |_, vm| vm.hosted.snapshots = 2, "it has 2 snapshots"),
    ("vm.suspended", |_, vm| vm.hosted.suspended = true, "it is suspended"),
    (
        "source.tls.unchecked",
        |desired, _| desired.source_site = vcenter(Trust::Anyone),
        "whoever answers at https://vc/sdk is believed (`tls.insecureSkipVerify`)",
    ),
    (
        "vm.transport.chosen",
        |_, vm| vm.hosted.reading = Some("https".into()),
        "its disks are read by https",
    ),
    (
        "target.disk.format.unfit",
        |desired, vm| {
            stored_as_qcow2(desired);
            vm.disks[0].capacity = Bytes((8 << 40) + 512);
        },
        "disk `vmdisk1` has 8796093022720 bytes, and a qcow2 holds 8 TiB (8796093022208)",
    ),
    (
        "target.disk.format.unfit",
        |desired, vm| {
            stored_as_qcow2(desired);
            vm.disks[0].capacity = Bytes(1_000_001);
        },
        "disk `vmdisk1` has 1000001 bytes, and a qcow2 holds whole sectors of 512 bytes",
    ),
];

#[test]
fn what_fits_into_the_format_of_the_target_is_no_concern() {
    for (format, capacity) in [(ImageFormat::Raw, 9 << 40), (ImageFormat::Qcow2, 8 << 40)] {
        let (mut desired, mut vm) = (desired("web", "web-01"), vm("web-01"));
        desired.target_site = Site::Local { path: "/vms".into(), disk_format: format };
        vm.disks[0].capacity = Bytes(capacity);
        assert_eq!(judge(desired, vm).findings, []);
    }
}
