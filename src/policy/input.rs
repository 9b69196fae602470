//! What rules and checks may read: the one value that the digest is made of as well.
//!
//! # Guarantees
//!
//! Every field is always written (an absent field would silence a rule). What the source does not say holds the type's empty
//! value, and its path stands in `unknown`. What is not in here cannot change a verdict: places, ages, power state, marks and
//! where a reader finds a disk.

use serde::Serialize;

use crate::desired::{Desired, Network, Site};
use crate::domain::id::{Digest, DiskKey, SourceVm, TargetName};
use crate::domain::vm::{Checksum, Disk, DiskFormat, Firmware, Hosted, Nic, Vm};
use crate::manifest::document::{NetworkType, OnFailure, PlanType, TargetPowerState, Verify};

/// Counts the changes of the checks written in Rust and of this input: a verdict of another version is another verdict.
const ENGINE: u32 = 4;

/// One VM with what is wanted of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Input<'a> {
    pub plan: PlanInput<'a>,
    pub vm: VmInput<'a>,
    pub target: TargetInput<'a>,
    pub unknown: Vec<&'static str>,
}

/// What the manifests say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanInput<'a> {
    #[serde(rename = "type")]
    pub kind: PlanType,
    pub source: &'a Site,
    pub target_name: &'a str,
    pub network_mapping: bool,
    pub target_power_state: TargetPowerState,
    pub skip_guest_conversion: bool,
    pub shutdown_timeout_seconds: u32,
    pub shutdown_force: bool,
    pub verify: Verify,
    pub on_failure: OnFailure,
}

/// What the source says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that a server tells")]
pub(super) struct VmInput<'a> {
    pub id: &'a SourceVm,
    pub name: &'a str,
    pub firmware: &'static str,
    pub secure_boot: bool,
    pub tpm: bool,
    pub cpus: u32,
    pub cores_per_socket: u32,
    pub memory: u64,
    pub os: &'a str,
    pub disks: Vec<DiskInput<'a>>,
    pub nics: Vec<NicInput<'a>>,
    pub reading: &'a str,
    pub suspended: bool,
    pub deaf: bool,
    pub question: &'a str,
    pub snapshots: u32,
    pub encrypted: bool,
    pub fault_tolerant: bool,
    pub pinned: bool,
    pub hot_plug: bool,
    pub shared_disks: &'a [DiskKey],
    pub passed_through: &'a [String],
    pub devices: &'a [String],
}

/// One disk.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DiskInput<'a> {
    pub key: &'a DiskKey,
    pub capacity: u64,
    pub format: &'a str,
    pub checksum: &'static str,
    pub checksum_method: &'a str,
}

/// One network card and what the plan's mapping makes of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NicInput<'a> {
    pub network: &'a str,
    pub mac: &'a str,
    pub mapping: &'static str,
    pub mapping_name: &'a str,
}

/// Where it goes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TargetInput<'a> {
    pub site: &'a Site,
    pub name: &'a str,
}

impl<'a> Input<'a> {
    /// Takes what may be read of a VM and of what is wanted.
    pub(super) fn new(
        desired: &'a Desired,
        vm: &'a Vm,
        target_name: Option<&'a TargetName>,
    ) -> Self {
        let Desired {
            key: _,
            place: _,
            source: _,
            source_site,
            // Selects the VM, whose identity is part of the input.
            selector: _,
            target: _,
            target_site,
            target_name: wanted_name,
            kind,
            networks,
            power,
            skip_guest_conversion,
            shutdown_timeout_s,
            shutdown_force,
            verify,
            on_failure,
        } = desired;
        let mut unknown = Vec::new();
        let plan = PlanInput {
            kind: *kind,
            source: source_site,
            target_name: wanted_name.as_ref().map_or("", TargetName::as_str),
            network_mapping: networks.is_some(),
            target_power_state: *power,
            skip_guest_conversion: *skip_guest_conversion,
            shutdown_timeout_seconds: *shutdown_timeout_s,
            shutdown_force: *shutdown_force,
            verify: *verify,
            on_failure: *on_failure,
        };
        let name = target_name.map_or("", TargetName::as_str);
        let target = TargetInput { site: target_site, name };
        let vm = VmInput::new(vm, desired, &mut unknown);
        Self { plan, vm, target, unknown }
    }

    /// Writes it as the rules read it.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists always become JSON")
    }
}

impl<'a> VmInput<'a> {
    fn new(vm: &'a Vm, desired: &'a Desired, unknown: &mut Vec<&'static str>) -> Self {
        let Vm {
            id,
            name,
            path: _,
            power: _,
            firmware,
            secure_boot,
            tpm,
            cpus,
            cores_per_socket,
            memory,
            os,
            disks,
            nics,
            claim: _,
            hosted,
        } = vm;
        let Hosted {
            // Selects the VM, whose identity is part of the input.
            ids: _,
            reading,
            suspended,
            deaf,
            question,
            snapshots,
            encrypted,
            fault_tolerant,
            pinned,
            hot_plug,
            shared_disks,
            passed_through,
            devices,
        } = hosted;
        let mut note = |known: bool, path: &'static str| {
            if !known {
                unknown.push(path);
            }
        };
        note(firmware.is_some(), "vm.firmware");
        note(cpus.is_some(), "vm.cpus");
        note(memory.is_some(), "vm.memory");
        note(os.is_some(), "vm.os");
        Self {
            id,
            name,
            firmware: match firmware {
                Some(Firmware::Bios) => "bios",
                Some(Firmware::Efi) => "efi",
                None => "",
            },
            secure_boot: *secure_boot,
            tpm: *tpm,
            cpus: cpus.unwrap_or_default(),
            cores_per_socket: cores_per_socket.unwrap_or_default(),
            memory: memory.unwrap_or_default().0,
            os: os.as_deref().unwrap_or_default(),
            disks: disks.iter().map(DiskInput::new).collect(),
            nics: nics.iter().map(|nic| NicInput::new(nic, desired)).collect(),
            reading: reading.as_deref().unwrap_or_default(),
            suspended: *suspended,
            deaf: *deaf,
            question: question.as_deref().unwrap_or_default(),
            snapshots: *snapshots,
            encrypted: *encrypted,
            fault_tolerant: *fault_tolerant,
            pinned: *pinned,
            hot_plug: *hot_plug,
            shared_disks,
            passed_through,
            devices,
        }
    }
}

impl<'a> DiskInput<'a> {
    fn new(disk: &'a Disk) -> Self {
        let Disk { key, capacity, stored: _, format, checksum, source: _ } = disk;
        let (checksum, checksum_method) = match checksum {
            // The hash itself is part of the VM's identity where the archive has a manifest.
            Checksum::Sha1(_) => ("sha1", "sha1"),
            Checksum::Sha256(_) => ("sha256", "sha256"),
            Checksum::Sha512(_) => ("sha512", "sha512"),
            Checksum::Unchecked(method) => ("unchecked", method.as_str()),
            Checksum::Absent => ("absent", ""),
        };
        let format = match format {
            DiskFormat::StreamOptimized => "stream-optimized",
            DiskFormat::Blocks => "blocks",
            DiskFormat::Empty => "empty",
            // An own name must not pass for a supported one.
            DiskFormat::Unsupported(name) => match name.as_str() {
                "stream-optimized" | "blocks" | "empty" => "unsupported",
                name => name,
            },
        };
        Self { key, capacity: capacity.0, format, checksum, checksum_method }
    }
}

impl<'a> NicInput<'a> {
    fn new(nic: &'a Nic, desired: &'a Desired) -> Self {
        let Nic { network, mac } = nic;
        let entry = desired.networks.as_ref().and_then(|networks| networks.get(network));
        let (mapping, mapping_name) = match entry {
            None => ("", ""),
            Some(Network { kind, name }) => {
                let kind = match kind {
                    NetworkType::Pod => "pod",
                    NetworkType::Multus => "multus",
                    NetworkType::Ignored => "ignored",
                };
                (kind, name.as_deref().unwrap_or_default())
            }
        };
        Self { network, mac: mac.as_deref().unwrap_or_default(), mapping, mapping_name }
    }
}

/// The part of a digest that all VMs share: the rules' texts and the version of the checks.
#[derive(Debug)]
pub(super) struct Basis(blake3::Hasher);

impl Basis {
    /// Hashes the rules.
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("ferry 2026 verdict digest");
        let mut part = |bytes: &[u8]| {
            hasher.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(bytes);
        };
        part(&ENGINE.to_le_bytes());
        for (file, text) in files {
            part(file.as_bytes());
            part(text.as_bytes());
        }
        Self(hasher)
    }

    /// Returns the digest of one input.
    pub(super) fn digest(&self, input_json: &str) -> Digest {
        let mut hasher = self.0.clone();
        hasher.update(input_json.as_bytes());
        Digest::new(hex::encode(&hasher.finalize().as_bytes()[..16]))
    }
}
