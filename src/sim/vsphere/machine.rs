//! A virtual machine and its properties.

use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;

use super::device;
use super::disk::{Disk, Tracking};
use super::inventory::Object;
use super::scenario::{Connection, Firmware, NicKind, Power, Tools, VmSpec};
use super::value::{Data, Ref, Value, int, list, long, refs, time, word};

/// Its own properties, besides those of every managed entity.
pub(super) const PROPERTIES: [&str; 13] = [
    "capability",
    "config",
    "datastore",
    "guest",
    "guestHeartbeatStatus",
    "layoutEx",
    "network",
    "parentVApp",
    "resourcePool",
    "rootSnapshot",
    "runtime",
    "snapshot",
    "summary",
];

/// A virtual machine.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the API")]
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) spec: VmSpec,
    pub(super) uuid: String,
    pub(super) instance_uuid: String,
    pub(super) power: Power,
    pub(super) connection: Connection,
    pub(super) booted: Option<Timestamp>,
    pub(super) clean_power_off: bool,
    pub(super) host: Ref,
    pub(super) pool: Ref,
    pub(super) is_in_v_app: bool,
    pub(super) networks: Vec<Ref>,
    pub(super) datastores: Vec<Ref>,
    /// `[ds1] web01/`.
    pub(super) folder: String,
    pub(super) disks: Vec<Disk>,
    pub(super) nics: Vec<Nic>,
    /// The flag; it takes effect on a disk at the next stun.
    pub(super) change_tracking: bool,
    pub(super) extra_config: Vec<(String, String)>,
    pub(super) changes: u64,
    pub(super) modified: Timestamp,
    pub(super) created: Timestamp,
    /// The oldest first, each the parent of the next.
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) snapshots_made: u32,
    pub(super) question: Option<String>,
    pub(super) recent_tasks: Vec<Ref>,
    /// Counts power changes, so that a slow guest does not go off after it was started again.
    pub(super) power_changes: u64,
    pub(super) api_before_6_7: bool,
    /// The keys of custom attributes and their values.
    pub(super) custom: Vec<(u32, String)>,
}

/// A network card.
#[derive(Debug, Clone)]
pub(super) struct Nic {
    pub(super) key: u32,
    pub(super) unit: u32,
    pub(super) kind: NicKind,
    pub(super) mac: String,
    pub(super) generated: bool,
    pub(super) connected: bool,
    pub(super) network_name: String,
    pub(super) backing: Data,
}

/// A snapshot, and the disks as they were.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) me: Ref,
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) created: Timestamp,
    pub(super) quiesced: bool,
    pub(super) power: Power,
    pub(super) disks: Vec<Disk>,
    /// It is gone for people, and its files wait to be consolidated.
    pub(super) removed: bool,
}

impl Machine {
    /// Notes that its configuration changed.
    pub(super) fn reconfigured(&mut self, now: Timestamp) {
        self.changes += 1;
        self.modified = now;
    }

    pub(super) fn change_version(&self) -> String {
        format!("{}.{}", self.created.as_second(), self.changes)
    }

    pub(super) fn tools_run(&self) -> bool {
        self.power == Power::On && self.spec.tools == Tools::Running
    }

    /// Begins to track the disks that can be and are not; it takes a stun of the VM.
    pub(super) fn begin_tracking(&mut self, uuid: impl Fn(u32) -> String) {
        for disk in &mut self.disks {
            if !self.change_tracking {
                disk.tracking = None;
            } else if disk.tracking.is_none() && disk.can_be_tracked() {
                disk.tracking = Some(Tracking::begin(uuid(disk.key)));
            }
        }
    }

    /// Returns a property of its own; `None` = it has no such one.
    pub(super) fn property(&self, object: &Object, name: &str) -> Option<Value> {
        Some(match name {
            "capability" => self.capability().into(),
            "config" => self.config(object, &self.disks).into(),
            "datastore" => refs(&self.datastores),
            "guest" => self.guest().into(),
            "guestHeartbeatStatus" => {
                word("ManagedEntityStatus", if self.tools_run() { "green" } else { "gray" })
            }
            "layoutEx" => self.layout().into(),
            "network" => refs(&self.networks),
            "parentVApp" => self.is_in_v_app.then_some(&self.pool).into(),
            "resourcePool" if self.spec.template => Value::Unset,
            "resourcePool" => (&self.pool).into(),
            "rootSnapshot" => refs(self.visible().next().map(|snapshot| &snapshot.me)),
            "runtime" => self.runtime().into(),
            "snapshot" => self.snapshot_info(&object.me),
            "summary" => self.summary(object).into(),
            _ => return None,
        })
    }

    /// Returns the snapshots that people see, the oldest first.
    pub(super) fn visible(&self) -> impl DoubleEndedIterator<Item = &Snapshot> {
        self.snapshots.iter().filter(|snapshot| !snapshot.removed)
    }

    pub(super) fn consolidation_needed(&self) -> bool {
        self.snapshots.iter().any(|snapshot| snapshot.removed)
    }

    /// Returns `config` with the disks of now, or of a snapshot.
    pub(super) fn config(&self, object: &Object, disks: &[Disk]) -> Data {
        let spec = &self.spec;
        let extra = self
            .extra_config
            .iter()
            .map(|(key, value)| Data::new("OptionValue").with("key", key).sub("value", value));
        let files = Data::new("VirtualMachineFileInfo")
            .with("vmPathName", self.vmx(object))
            .with("snapshotDirectory", self.folder.clone())
            .with("suspendDirectory", self.folder.clone())
            .with("logDirectory", self.folder.clone());
        let boot = Data::new("VirtualMachineBootOptions")
            .with("bootDelay", long(0))
            .with("enterBIOSSetup", false)
            .with("efiSecureBootEnabled", spec.secure_boot)
            .with("bootRetryEnabled", false)
            .with("bootRetryDelay", long(10_000));
        let affinity = (!spec.cpu_affinity.is_empty()).then(|| {
            let cpus = spec.cpu_affinity.iter().map(|cpu| int(*cpu));
            Data::new("VirtualMachineAffinityInfo").with("affinitySet", list("xsd:int", cpus))
        });
        Data::new("VirtualMachineConfigInfo")
            .with("changeVersion", self.change_version())
            .with("modified", time(self.modified))
            .with("name", escaped_name(&object.name))
            .with("guestFullName", &spec.guest_full_name)
            .with("version", &spec.hardware)
            .with("uuid", &self.uuid)
            .with("createDate", time(self.created))
            .with("instanceUuid", Some(&self.instance_uuid).filter(|uuid| !uuid.is_empty()))
            .with("template", spec.template)
            .with("guestId", &spec.guest_id)
            .with("alternateGuestName", "")
            .with("annotation", spec.annotation.as_ref())
            .with("files", files)
            .with("tools", self.tools_config())
            .with("flags", Data::new("VirtualMachineFlagInfo").with("diskUuidEnabled", false))
            .with("defaultPowerOps", power_operations())
            .with("hardware", self.hardware(disks))
            .with("memoryHotAddEnabled", spec.memory_hot_add)
            .with("cpuHotAddEnabled", spec.cpu_hot_add)
            .with("cpuHotRemoveEnabled", false)
            .with("cpuAffinity", affinity)
            .with("extraConfig", list("OptionValue", extra))
            .with("bootOptions", boot)
            .with("ftInfo", self.fault_tolerance())
            .with("changeTrackingEnabled", self.change_tracking)
            .with("firmware", spec.firmware.wire())
            .with("nestedHVEnabled", spec.nested)
            .without(&["managedBy", "keyId", "memoryAffinity", "vAppConfig"])
    }

    fn hardware(&self, disks: &[Disk]) -> Data {
        Data::new("VirtualHardware")
            .with("numCPU", int(self.spec.cpus))
            .with("numCoresPerSocket", int(self.spec.cores_per_socket))
            .with("memoryMB", int(self.memory_mib()))
            .with("device", list("VirtualDevice", device::devices(self, disks)))
    }

    fn memory_mib(&self) -> i64 {
        i64::try_from(self.spec.memory.0 >> 20).unwrap_or(i64::MAX)
    }

    fn vmx(&self, object: &Object) -> String {
        format!("{}{}.vmx", self.folder, object.name)
    }

    fn fault_tolerance(&self) -> Option<Data> {
        self.spec.fault_tolerant.then(|| {
            Data::new("FaultToleranceConfigInfo")
                .with("role", int(1))
                .with("instanceUuids", list("xsd:string", [self.instance_uuid.clone()]))
                .with("configPaths", list("xsd:string", [self.folder.clone()]))
        })
    }

    fn tools_config(&self) -> Data {
        let version = if self.spec.tools == Tools::NotInstalled { 0 } else { 12_352 };
        Data::new("ToolsConfigInfo")
            .with("toolsVersion", int(version))
            .with("afterPowerOn", true)
            .with("afterResume", true)
            .with("beforeGuestStandby", true)
            .with("beforeGuestShutdown", true)
    }

    fn capability(&self) -> Data {
        let supported = [
            "snapshotOperationsSupported",
            "multipleSnapshotsSupported",
            "snapshotConfigSupported",
            "poweredOffSnapshotsSupported",
            "memorySnapshotsSupported",
            "revertToSnapshotSupported",
            "quiescedSnapshotsSupported",
            "bootOptionsSupported",
        ];
        let tracked = hardware_number(&self.spec.hardware) >= 7;
        supported
            .into_iter()
            .fold(Data::new("VirtualMachineCapability"), |data, name| data.with(name, true))
            .with("changeTrackingSupported", tracked)
            .with("secureBootSupported", self.spec.firmware == Firmware::Efi)
    }

    fn runtime(&self) -> Data {
        let tolerant = self.spec.fault_tolerant;
        let question = self.question.as_ref().map(|text| {
            let choice = Data::new("ElementDescription")
                .with("label", "Cancel")
                .with("summary", "Cancel")
                .with("key", "0");
            let choices = Data::new("ChoiceOption")
                .with("valueIsReadonly", true)
                .with("choiceInfo", list("ElementDescription", [choice]))
                .with("defaultIndex", int(0));
            Data::new("VirtualMachineQuestionInfo")
                .with("id", "1")
                .with("text", text)
                .with("choice", choices)
        });
        Data::new("VirtualMachineRuntimeInfo")
            .with("host", &self.host)
            .with("connectionState", word("VirtualMachineConnectionState", self.connection.wire()))
            .with("powerState", power_state(self.power))
            .with(
                "faultToleranceState",
                word(
                    "VirtualMachineFaultToleranceState",
                    if tolerant { "running" } else { "notConfigured" },
                ),
            )
            .with("toolsInstallerMounted", false)
            .with("bootTime", self.booted.map(time))
            .with("question", question)
            .with("numMksConnections", int(0))
            .with("recordReplayState", word("VirtualMachineRecordReplayState", "inactive"))
            .with("cleanPowerOff", (self.power == Power::Off).then_some(self.clean_power_off))
            .with("onlineStandby", false)
            .with("consolidationNeeded", self.consolidation_needed())
            .without(&["suspendTime", "cryptoState", "minRequiredEVCModeKey"])
    }

    fn tools_words(&self) -> [&'static str; 3] {
        let running = match self.power {
            Power::On => self.spec.tools.wire(),
            Power::Off | Power::Suspended => Tools::NotRunning.wire(),
        };
        match (self.spec.tools, self.tools_run()) {
            (Tools::NotInstalled, _) => ["toolsNotInstalled", "guestToolsNotInstalled", running],
            (_, true) => ["toolsOk", "guestToolsCurrent", running],
            (_, false) => ["toolsNotRunning", "guestToolsCurrent", running],
        }
    }

    fn guest(&self) -> Data {
        let [status, version, running] = self.tools_words();
        let spec = &self.spec;
        let seen = self.tools_run();
        let nets = self.nics.iter().filter(|_| seen).map(|nic| {
            Data::new("GuestNicInfo")
                .with("network", &nic.network_name)
                .with("ipAddress", list("xsd:string", spec.ip.clone()))
                .with("macAddress", &nic.mac)
                .with("connected", nic.connected)
                .with("deviceConfigId", super::value::int(nic.key))
        });
        let system = self.disks.first().filter(|_| seen).map(|disk| {
            Data::new("GuestDiskInfo")
                .with("diskPath", "/")
                .with("capacity", long(disk.capacity))
                .with("freeSpace", long(disk.capacity / 2))
                .with("filesystemType", "ext4")
        });
        let stack = (seen && spec.ip.is_some()).then(|| {
            let dns = Data::new("NetDnsConfigInfo")
                .with("dhcp", true)
                .with("hostName", spec.host_name.clone().unwrap_or_default())
                .with("domainName", "");
            Data::new("GuestStackInfo").with("dnsConfig", dns).without(&["ipRouteConfig"])
        });
        Data::new("GuestInfo")
            .with("toolsStatus", word("VirtualMachineToolsStatus", status))
            .with("toolsVersionStatus", version)
            .with("toolsVersionStatus2", version)
            .with("toolsRunningStatus", running)
            .with("guestId", seen.then_some(&spec.guest_id))
            .with("guestFamily", seen.then_some("linuxGuest"))
            .with("guestFullName", seen.then_some(&spec.guest_full_name))
            .with("hostName", spec.host_name.as_ref().filter(|_| seen))
            .with("ipAddress", spec.ip.as_ref().filter(|_| seen))
            .with("net", list("GuestNicInfo", nets))
            .with("ipStack", list("GuestStackInfo", stack))
            .with("disk", list("GuestDiskInfo", system))
            .with("guestState", if seen { "running" } else { "notRunning" })
            .with("guestOperationsReady", seen)
            .with("guestStateChangeSupported", seen)
    }

    /// Returns the bytes that its disks take on datastores.
    fn committed(&self) -> u64 {
        let live = self.disks.iter();
        live.chain(self.snapshots.iter().flat_map(|snapshot| &snapshot.disks)).map(allocated).sum()
    }

    fn summary(&self, object: &Object) -> Data {
        let spec = &self.spec;
        let [status, version, running] = self.tools_words();
        let seen = self.tools_run();
        let capacity: u64 = self.disks.iter().map(|disk| disk.capacity).sum();
        let committed = self.committed();
        let count = |length: usize| int(i64::try_from(length).unwrap_or(i64::MAX));
        let guest = Data::new("VirtualMachineGuestSummary")
            .with("guestId", seen.then_some(&spec.guest_id))
            .with("guestFullName", seen.then_some(&spec.guest_full_name))
            .with("toolsStatus", word("VirtualMachineToolsStatus", status))
            .with("toolsVersionStatus", version)
            .with("toolsVersionStatus2", version)
            .with("toolsRunningStatus", running)
            .with("hostName", spec.host_name.as_ref().filter(|_| seen))
            .with("ipAddress", spec.ip.as_ref().filter(|_| seen));
        let mut config = Data::new("VirtualMachineConfigSummary")
            .with("name", escaped_name(&object.name))
            .with("template", spec.template)
            .with("vmPathName", self.vmx(object))
            .with("memorySizeMB", int(self.memory_mib()))
            .with("numCpu", int(spec.cpus))
            .with("numEthernetCards", count(self.nics.len()))
            .with("numVirtualDisks", count(self.disks.len()))
            .with("uuid", &self.uuid)
            .with("instanceUuid", Some(&self.instance_uuid).filter(|uuid| !uuid.is_empty()))
            .with("guestId", &spec.guest_id)
            .with("guestFullName", &spec.guest_full_name)
            .with("annotation", spec.annotation.as_ref());
        if !self.api_before_6_7 {
            config = config.with("tpmPresent", spec.tpm);
        }
        let storage = Data::new("VirtualMachineStorageSummary")
            .with("committed", long(committed))
            .with("uncommitted", long(capacity.saturating_sub(committed)))
            .with("unshared", long(committed))
            .with("timestamp", time(self.modified));
        let quick = Data::new("VirtualMachineQuickStats")
            .with("overallCpuUsage", int(0))
            .with("guestMemoryUsage", int(0))
            .with(
                "hostMemoryUsage",
                int(if self.power == Power::On { self.memory_mib() } else { 0 }),
            )
            .with(
                "guestHeartbeatStatus",
                word("ManagedEntityStatus", if seen { "green" } else { "gray" }),
            )
            .with("balloonedMemory", int(0));
        Data::new("VirtualMachineSummary")
            .with("vm", &object.me)
            .with("runtime", self.runtime())
            .with("guest", guest)
            .with("config", config)
            .with("storage", storage)
            .with("quickStats", quick)
            .with("overallStatus", word("ManagedEntityStatus", "green"))
    }

    /// Returns the files on its datastores: a descriptor and an extent for each disk of the chain.
    fn layout(&self) -> Data {
        let (mut files, mut layouts) = (Vec::new(), Vec::new());
        let mut key = 0;
        for disk in &self.disks {
            let kept = self.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
            let mut chain: Vec<&Disk> = kept.filter(|kept| kept.key == disk.key).collect();
            chain.push(disk);
            chain.dedup_by_key(|disk| disk.delta);
            let mut units = Vec::new();
            for disk in chain {
                let flat = disk
                    .file_name()
                    .replace(".vmdk", if disk.delta == 0 { "-flat.vmdk" } else { "-delta.vmdk" });
                for (name, kind, size) in [
                    (disk.file_name(), "diskDescriptor", 512),
                    (flat, "diskExtent", allocated(disk)),
                ] {
                    let size = if disk.thin || disk.delta > 0 || size == 512 {
                        size
                    } else {
                        disk.capacity
                    };
                    files.push(
                        Data::new("VirtualMachineFileLayoutExFileInfo")
                            .with("key", int(key))
                            .with("name", name)
                            .with("type", kind)
                            .with("size", long(size))
                            .with("uniqueSize", long(size))
                            .with("accessible", true),
                    );
                    key += 1;
                }
                units.push(
                    Data::new("VirtualMachineFileLayoutExDiskUnit")
                        .with("fileKey", list("xsd:int", [int(key - 2), int(key - 1)])),
                );
            }
            layouts.push(
                Data::new("VirtualMachineFileLayoutExDiskLayout")
                    .with("key", int(disk.key))
                    .with("chain", list("VirtualMachineFileLayoutExDiskUnit", units)),
            );
        }
        Data::new("VirtualMachineFileLayoutEx")
            .with("file", list("VirtualMachineFileLayoutExFileInfo", files))
            .with("disk", list("VirtualMachineFileLayoutExDiskLayout", layouts))
            .with("timestamp", time(self.modified))
    }

    fn snapshot_info(&self, me: &Ref) -> Value {
        let tree = self.visible().rev().fold(None, |child: Option<Data>, snapshot| {
            Some(
                Data::new("VirtualMachineSnapshotTree")
                    .with("snapshot", &snapshot.me)
                    .with("vm", me)
                    .with("name", &snapshot.name)
                    .with("description", &snapshot.description)
                    .with("id", int(snapshot.id))
                    .with("createTime", time(snapshot.created))
                    .with("state", power_state(snapshot.power))
                    .with("quiesced", snapshot.quiesced)
                    .with("childSnapshotList", list("VirtualMachineSnapshotTree", child)),
            )
        });
        tree.map(|tree| {
            Data::new("VirtualMachineSnapshotInfo")
                .with("currentSnapshot", self.visible().next_back().map(|snapshot| &snapshot.me))
                .with("rootSnapshotList", list("VirtualMachineSnapshotTree", [tree]))
        })
        .into()
    }

    /// Returns a property of one of its snapshots.
    pub(super) fn snapshot_property(
        &self,
        object: &Object,
        snapshot: &Snapshot,
        name: &str,
    ) -> Option<Value> {
        Some(match name {
            "config" => self.config(object, &snapshot.disks).into(),
            "childSnapshot" => {
                let mut later = self.visible().skip_while(|other| other.me != snapshot.me).skip(1);
                refs(later.next().map(|child| &child.me))
            }
            "vm" => (&object.me).into(),
            _ => return None,
        })
    }
}

/// Returns the bytes that a disk's file takes.
fn allocated(disk: &Disk) -> u64 {
    disk.content.file.metadata().map_or(0, |metadata| metadata.blocks() * 512)
}

fn power_operations() -> Data {
    Data::new("VirtualMachineDefaultPowerOpInfo")
        .with("powerOffType", "soft")
        .with("suspendType", "hard")
        .with("resetType", "soft")
        .with("defaultPowerOffType", "soft")
        .with("defaultSuspendType", "hard")
        .with("defaultResetType", "soft")
        .with("standbyAction", "checkpoint")
}

pub(super) fn power_state(power: Power) -> Value {
    word("VirtualMachinePowerState", power.wire())
}

/// Returns the number of a hardware version, `vmx-19`.
pub(super) fn hardware_number(version: &str) -> u32 {
    version.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Names of inventory objects escape what paths and URLs are made of.
pub(super) fn escaped_name(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}
