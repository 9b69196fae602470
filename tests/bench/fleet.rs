//! A repository of many plans and a source of as many VMs as they name, in memory: what a pass costs besides the disks, the
//! network and git.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ferry::collect::recorded::Recorded;
use ferry::controller::Config;
use ferry::copy::protocol::{ConvertTools, Job, WorkerEvent};
use ferry::decide::{CutoverLimits, Limits};
use ferry::desired::Site;
use ferry::domain::id::{
    CommitId, DiskKey, Instance, ProviderName, RunId, SourceVm, TargetName, Token,
};
use ferry::domain::unit::Bytes;
use ferry::domain::vm::{
    Checksum, Claim, Disk, DiskFormat, Firmware, Hosted, Nic, Power, SourceDisk, TargetDisk, Vm,
};
use ferry::execute::WorkerMeans;
use ferry::journal::record::Mend;
use ferry::manifest::parse;
use ferry::observed::{Observed, Seen, SourceState, TargetState, TargetVm, WorkerState};
use ferry::port::{
    Ancestry, Blueprint, Clock, Hold, PlanRepo, PortError, PoweredOn, Source, Target, Tree,
    TreeFile, Workers, World,
};
use jiff::{SignedDuration, Timestamp};

/// The folder of the source, as its `Provider` names it.
const SOURCE_PATH: &str = "/srv/ova";

/// The folder of the target, as its `Provider` names it.
const TARGET_PATH: &str = "/srv/vms";

/// When this world begins.
const BEGIN: Timestamp = Timestamp::constant(1_767_571_200, 0);

/// Plans, VMs, and nothing that moves.
#[derive(Debug)]
pub(crate) struct Fleet {
    /// Seconds since this world began.
    age: AtomicI64,
    blobs: BTreeMap<String, Vec<u8>>,
    tree: Tree,
    source: SourceState,
}

impl Fleet {
    /// Makes so many plans of so many VMs each.
    pub(crate) fn new(plans: usize, vms_per_plan: usize) -> Self {
        let mut files = vec![("providers.yaml".to_owned(), providers())];
        let mut vms = Vec::with_capacity(plans * vms_per_plan);
        for plan in 0..plans {
            let names: Vec<String> =
                (0..vms_per_plan).map(|vm| format!("vm-{plan:04}-{vm:02}")).collect();
            files.push((format!("plans/plan-{plan:04}.yaml"), plan_manifest(plan, &names)));
            vms.extend(names.iter().map(|name| archived(name)));
        }
        let blob = |path: &str| format!("blob of {path}");
        let tree = Tree {
            files: files.iter().map(|(path, _)| file(path, blob(path))).collect(),
            refused: Vec::new(),
        };
        let blobs = files.into_iter().map(|(path, text)| (blob(&path), text.into())).collect();
        Self {
            age: AtomicI64::new(0),
            blobs,
            tree,
            source: SourceState {
                vms: vms.into_iter().map(Arc::new).collect(),
                gaps: Vec::new(),
                clock: None,
            },
        }
    }

    /// Returns the ports, as the controller wants them.
    pub(crate) fn world(&self) -> World<'_> {
        World { clock: self, repo: self, source: self, target: self, workers: self, hold: self }
    }

    /// Returns the manifests, by path.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let text = |file: &TreeFile| self.blobs.get(&file.blob).unwrap().as_slice();
        self.tree.files.iter().map(move |file| (file.path.as_str(), text(file)))
    }

    /// Records both providers, as `ferry inventory refresh` does.
    pub(crate) fn recorded(&self) -> Recorded {
        let at = self.now();
        let sites = [
            ("archives", Site::Ova { path: SOURCE_PATH.into() }),
            ("here", Site::folder(TARGET_PATH)),
        ];
        let sites = sites.map(|(name, site)| (ProviderName::new(name), site)).into();
        let mut observed = Observed::default();
        let [source, target] = ["archives", "here"].map(ProviderName::new);
        observed.sources.insert(source, Seen { at, state: Ok(self.source.clone()) });
        observed.targets.insert(target, Seen { at, state: Ok(room()) });
        Recorded::new(observed, &sites, at)
    }

    /// Lets a minute pass.
    pub(crate) fn wait(&self) {
        self.age.fetch_add(60, Ordering::Relaxed);
    }

    /// Returns how many VMs there are.
    pub(crate) fn vms(&self) -> usize {
        self.source.vms.len()
    }
}

fn file(path: &str, blob: String) -> TreeFile {
    TreeFile { path: path.to_owned(), blob }
}

fn providers() -> String {
    format!(
        "apiVersion: ferry.dev/v1alpha1\nkind: Provider\nmetadata: {{ name: archives }}\n\
         spec: {{ type: ova, ova: {{ path: {SOURCE_PATH} }} }}\n---\n\
         apiVersion: ferry.dev/v1alpha1\nkind: Provider\nmetadata: {{ name: here }}\n\
         spec: {{ type: local, local: {{ path: {TARGET_PATH} }} }}\n---\n\
         apiVersion: ferry.dev/v1alpha1\nkind: NetworkMapping\nmetadata: {{ name: networks }}\n\
         spec:\n  provider: {{ source: archives, destination: here }}\n  \
         map:\n    - {{ source: {{ name: VM Network }}, destination: {{ type: pod }} }}\n"
    )
}

fn plan_manifest(plan: usize, names: &[String]) -> String {
    let mut text = format!(
        "apiVersion: ferry.dev/v1alpha1\nkind: Plan\nmetadata: {{ name: plan-{plan:04} }}\n\
         spec:\n  provider: {{ source: archives, destination: here }}\n  \
         map: {{ network: networks }}\n  skipGuestConversion: true\n  vms:\n"
    );
    for name in names {
        let _ = writeln!(text, "    - name: {name}");
    }
    text
}

/// A VM with two disks and a network card, as an archive describes it.
fn archived(name: &str) -> Vm {
    let archive = blake3::hash(name.as_bytes()).to_hex().to_string();
    let disk = |number: u32| Disk {
        key: DiskKey::new(format!("vmdisk{number}")),
        capacity: Bytes::mib(40 << 10),
        stored: Some(Bytes::mib(9 << 10)),
        format: DiskFormat::StreamOptimized,
        checksum: Checksum::Sha256(archive.clone()),
        source: SourceDisk(format!("{SOURCE_PATH}/{name}.ova#{number}")),
    };
    Vm {
        id: SourceVm::Ova { archive: archive.as_str().into(), system: name.into() },
        name: name.to_owned(),
        path: format!("{name}.ova/{name}"),
        power: Power::Off,
        firmware: Some(Firmware::Bios),
        secure_boot: false,
        tpm: false,
        cpus: Some(2),
        cores_per_socket: None,
        memory: Some(Bytes::mib(4096)),
        os: Some("debian12_64Guest".to_owned()),
        disks: vec![disk(1), disk(2)],
        nics: vec![Nic { network: "VM Network".to_owned(), mac: None }],
        claim: Claim::Impossible,
        hosted: Hosted::default(),
    }
}

fn room() -> TargetState {
    TargetState { free: Bytes::mib(1 << 30), starts: true, ..TargetState::default() }
}

/// Nothing moves here: what moves something is never called.
fn still() -> PortError {
    PortError::lasting("this world only stands still", "give it no Migration", Mend::Person)
}

impl Clock for Fleet {
    fn now(&self) -> Timestamp {
        BEGIN + self.elapsed()
    }

    fn elapsed(&self) -> SignedDuration {
        SignedDuration::from_secs(self.age.load(Ordering::Relaxed))
    }
}

impl PlanRepo for Fleet {
    fn branch(&self) -> &'static str {
        "main"
    }

    fn head(&self) -> Result<Option<CommitId>, PortError> {
        Ok(Some(CommitId::new("a".repeat(40))))
    }

    fn resolve(&self, _revision: &str) -> Result<CommitId, PortError> {
        Ok(CommitId::new("a".repeat(40)))
    }

    fn tree(&self, _commit: &CommitId) -> Result<Tree, PortError> {
        Ok(self.tree.clone())
    }

    fn blob(&self, blob: &str, _limit: u64) -> Result<Vec<u8>, PortError> {
        self.blobs.get(blob).cloned().ok_or_else(still)
    }

    fn ancestry(&self, _older: &CommitId, _newer: &CommitId) -> Result<Ancestry, PortError> {
        Ok(Ancestry::Forward)
    }

    fn distrust(&self, _commit: &CommitId) -> Result<Option<String>, PortError> {
        Ok(None)
    }

    fn report(&self, _folder: &str) -> Result<BTreeMap<String, Vec<u8>>, PortError> {
        Ok(BTreeMap::new())
    }

    fn publish(
        &self,
        _folder: &str,
        _files: &BTreeMap<String, Vec<u8>>,
        _message: &str,
    ) -> Result<bool, PortError> {
        Ok(false)
    }
}

impl Source for Fleet {
    fn observe(&self, _site: &Site) -> Result<SourceState, PortError> {
        Ok(self.source.clone())
    }

    fn look(&self, _site: &Site, vm: &SourceVm) -> Result<Option<Vm>, PortError> {
        Ok(self.source.vm(vm).cloned().map(Arc::unwrap_or_clone))
    }

    fn claim(&self, _: &Site, _: &SourceVm, _: &Token) -> Result<(), PortError> {
        Err(still())
    }

    fn release(&self, _: &Site, _: &SourceVm, _: &Token) -> Result<(), PortError> {
        Err(still())
    }

    fn mark_migrated(&self, _: &Site, _: &SourceVm, _: &Token) -> Result<(), PortError> {
        Err(still())
    }

    fn shut_down(&self, _: &Site, _: &SourceVm) -> Result<(), PortError> {
        Err(still())
    }

    fn power_off(&self, _: &Site, _: &SourceVm) -> Result<(), PortError> {
        Err(still())
    }

    fn power_on(&self, _: &Site, _: &SourceVm) -> Result<(), PortError> {
        Err(still())
    }

    fn powered_on_since(
        &self,
        _: &Site,
        _: &SourceVm,
        _: Timestamp,
    ) -> Result<PoweredOn, PortError> {
        Ok(PoweredOn::Never)
    }
}

impl Target for Fleet {
    fn observe(&self, _site: &Site) -> Result<TargetState, PortError> {
        Ok(room())
    }

    fn look(&self, _: &Site, _: &TargetName) -> Result<Option<TargetVm>, PortError> {
        Ok(None)
    }

    fn create_disks(
        &self,
        _: &Site,
        _: &Token,
        _: &TargetName,
        _: &Vm,
    ) -> Result<Vec<(DiskKey, TargetDisk)>, PortError> {
        Err(still())
    }

    fn create_vm(&self, _: &Site, _: &Token, _: &Blueprint<'_>) -> Result<(), PortError> {
        Err(still())
    }

    fn start(&self, _: &Site, _: &Token, _: &TargetName) -> Result<Power, PortError> {
        Err(still())
    }

    fn remove(&self, _: &Site, _: &Token, _: &TargetName) -> Result<(), PortError> {
        Err(still())
    }
}

impl Workers for Fleet {
    fn start(&self, _job: Job) -> Result<(), PortError> {
        Err(still())
    }

    fn states(&self) -> BTreeMap<RunId, WorkerState> {
        BTreeMap::new()
    }

    fn take(&self) -> Vec<WorkerEvent> {
        Vec::new()
    }

    fn acknowledge(&self, _run: &RunId, _number: u64) {}

    fn stop(&self, _run: &RunId) -> Result<(), PortError> {
        Ok(())
    }
}

impl Hold for Fleet {
    fn engaged(&self) -> bool {
        false
    }
}

/// The settings of a controller, as by default.
pub(crate) fn config() -> Config {
    Config {
        instance: Instance::new("bench"),
        limits: Limits { vms_in_flight: 20, converting: 1, cutover: CutoverLimits::default() },
        manifests: parse::Limits::default(),
        copy: WorkerMeans {
            allow_paths: vec!["/srv".to_owned()],
            memory: Bytes::mib(256),
            checkpoint_every: Bytes::mib(128),
            convert: ConvertTools::default(),
        },
        report_interval: SignedDuration::from_mins(1),
    }
}
