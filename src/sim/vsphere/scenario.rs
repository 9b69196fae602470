//! What a simulated vCenter holds and how it behaves, as a document of YAML.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::methods::{METHODS, PRIVILEGES};

/// The scenario that stands where none is given: two small VMs.
const DEMO: &str = include_str!("demo.yaml");

/// Guests that write more often would leave no time for anything else.
const WRITES_MIN: Duration = Duration::from_millis(10);

/// More VMs than any vCenter holds.
const VMS_MAX: u32 = 100_000;

/// A simulated vCenter, or a host where `esxi` is set.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Scenario {
    /// Makes all ids and contents; same seed, same bytes.
    pub(super) seed: u64,
    /// A single host (`HostAgent`) instead of a vCenter.
    pub(super) esxi: bool,
    /// `about.version`.
    pub(super) version: String,
    /// The newest version of the API, four numbers.
    pub(super) api_version: String,
    pub(super) instance_uuid: Option<String>,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) sessions: Sessions,
    /// Added to every request.
    pub(super) latency: Span,
    pub(super) tasks: Tasks,
    pub(super) pages: Pages,
    pub(super) lease: LeaseSpec,
    pub(super) snapshots: SnapshotRules,
    /// Privileges that the user lacks.
    pub(super) denied: Vec<Denied>,
    pub(super) faults: Vec<FaultSpec>,
    pub(super) datacenters: Vec<DatacenterSpec>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            esxi: false,
            version: "8.0.2".to_owned(),
            api_version: "8.0.2.0".to_owned(),
            instance_uuid: None,
            username: "user".to_owned(),
            password: "pass".to_owned(),
            sessions: Sessions::default(),
            latency: Span::default(),
            tasks: Tasks::default(),
            pages: Pages::default(),
            lease: LeaseSpec::default(),
            snapshots: SnapshotRules::default(),
            denied: Vec::new(),
            faults: Vec::new(),
            datacenters: Vec::new(),
        }
    }
}

/// Why a document is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not written as a scenario is.
    #[error("{place}:{line}:{column}: {what}")]
    Syntax {
        /// The file.
        place: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// Its parts do not fit together.
    #[error("the scenario {place}: {what}")]
    Sense {
        /// The file.
        place: String,
        /// What does not fit, by name.
        what: String,
    },
}

impl Scenario {
    /// Returns the one that stands where none is given.
    pub fn demo() -> Self {
        Self::parse("demo", DEMO).expect("a test reads it")
    }

    /// Reads a file. Images that it names stand relative to it.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        let mut scenario = Self::parse(&path.display().to_string(), &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for datacenter in &mut scenario.datacenters {
            for disk in datacenter.vms.iter_mut().flat_map(|vm| &mut vm.disks) {
                if let Some(image) = &mut disk.image {
                    *image = folder.join(&*image);
                }
            }
        }
        Ok(scenario)
    }

    /// Reads a text; `place` names it in errors.
    pub fn parse(place: &str, text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = serde_yaml::from_str(text).map_err(|error| {
            let (line, column) =
                error.location().map_or((1, 1), |place| (place.line(), place.column()));
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default().to_owned();
            ScenarioError::Syntax { place: place.to_owned(), line, column, what }
        })?;
        scenario.sense().map_err(|what| ScenarioError::Sense { place: place.to_owned(), what })?;
        Ok(scenario)
    }

    /// Says what does not fit together by itself; references are resolved when the inventory is built.
    fn sense(&self) -> Result<(), String> {
        let hosts = |datacenter: &DatacenterSpec| {
            datacenter.hosts.len()
                + datacenter.clusters.iter().map(|cluster| cluster.hosts.len()).sum::<usize>()
        };
        if self.esxi && (self.datacenters.len() != 1 || hosts(&self.datacenters[0]) != 1) {
            return Err("`esxi` needs one datacenter with one host".to_owned());
        }
        let vms = self.datacenters.iter().flat_map(|datacenter| &datacenter.vms);
        if vms.map(|vm| u64::from(vm.count.unwrap_or(1))).sum::<u64>() > VMS_MAX.into() {
            return Err(format!("there are more than {VMS_MAX} VMs"));
        }
        if [self.pages.retrieve, self.pages.updates, self.pages.areas].contains(&0) {
            return Err("a page of nothing never ends".to_owned());
        }
        let version = self.api_version.split('.').map(str::parse::<u32>);
        if version.clone().count() < 2 || version.clone().any(|part| part.is_err()) {
            return Err(format!("apiVersion: {} is no version", self.api_version));
        }
        let mut disks = self.datacenters.iter().flat_map(|d| &d.vms).flat_map(|vm| &vm.disks);
        if disks.any(|disk| disk.writes.is_some_and(|every| every.0 < WRITES_MIN)) {
            return Err(format!("a guest writes every {WRITES_MIN:?} at most"));
        }
        for method in self.tasks.methods.keys() {
            if !starts_task(method) {
                return Err(format!("tasks.methods: {method} is no method that starts a task"));
            }
        }
        for Denied { privilege, on: _ } in &self.denied {
            if !PRIVILEGES.contains(&privilege.as_str()) {
                return Err(format!("denied: {privilege} is no privilege that the server knows"));
            }
        }
        for fault in &self.faults {
            fault.sense()?;
        }
        Ok(())
    }
}

/// Logins and how long they hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Sessions {
    pub(super) idle: Span,
    pub(super) maximum: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { idle: Span(Duration::from_mins(30)), maximum: 100 }
    }
}

/// How long tasks take.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Tasks {
    /// Before it runs.
    pub(super) queued: Span,
    pub(super) running: Span,
    /// By method, instead of `running`.
    pub(super) methods: BTreeMap<String, Span>,
    /// How long a done one can still be asked about.
    pub(super) keep: Span,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            queued: Span(Duration::from_millis(20)),
            running: Span(Duration::from_millis(80)),
            methods: BTreeMap::new(),
            keep: Span(Duration::from_mins(10)),
        }
    }
}

/// How much an answer holds where the request leaves it open, and at most.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Pages {
    pub(super) retrieve: usize,
    pub(super) updates: usize,
    /// Changed areas in one answer.
    pub(super) areas: usize,
    /// How much of a disk one answer about them covers.
    pub(super) window: Size,
}

impl Default for Pages {
    fn default() -> Self {
        Self { retrieve: 1000, updates: 100, areas: 2000, window: Size(u64::MAX) }
    }
}

/// How exports behave.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LeaseSpec {
    /// Before it is ready.
    pub(super) initializing: Span,
    /// Without progress it ends.
    pub(super) timeout: Span,
    /// What stands as the host of its URLs; `*` means the one that was asked.
    pub(super) host: String,
}

impl Default for LeaseSpec {
    fn default() -> Self {
        Self {
            initializing: Span(Duration::from_millis(50)),
            timeout: Span(Duration::from_mins(5)),
            host: "*".to_owned(),
        }
    }
}

/// How snapshots behave.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct SnapshotRules {
    /// In a chain.
    pub(super) maximum: usize,
    /// Each removal of this number leaves the disks to be consolidated; 0 = none does.
    pub(super) unmerged_every: u32,
}

impl Default for SnapshotRules {
    fn default() -> Self {
        Self { maximum: 32, unmerged_every: 0 }
    }
}

/// A privilege that the user lacks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Denied {
    pub(super) privilege: String,
    /// The object by name; everywhere unless given.
    pub(super) on: Option<String>,
}

/// What goes wrong, and when. Exactly one of the fields from `fault` on says what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FaultSpec {
    /// A method, or `GET /folder`, `GET /nfc`.
    pub(super) method: String,
    /// Which call from now on, from 1; each one unless given.
    pub(super) call: Option<u32>,
    /// The type of the fault that is answered instead of doing it.
    pub(super) fault: Option<String>,
    /// The type of the fault that the started task ends in.
    pub(super) task: Option<String>,
    /// The type of the fault that stands in `missingSet` for every property.
    pub(super) missing: Option<String>,
    /// It is done, and the connection cut before the answer.
    pub(super) lost_reply: bool,
    /// The connection is cut and nothing done.
    pub(super) cut: bool,
    /// The answer comes later.
    pub(super) delay: Option<Span>,
    /// The connection is cut after so many bytes of the answer's body.
    pub(super) truncate: Option<u64>,
    /// This status is answered instead of doing it.
    pub(super) status: Option<u16>,
}

impl FaultSpec {
    /// Says what is wrong with it.
    pub(super) fn sense(&self) -> Result<(), String> {
        let Self { method, call, fault, task, missing, lost_reply, cut, delay, truncate, status } =
            self;
        let effects = [
            fault.is_some(),
            task.is_some(),
            missing.is_some(),
            *lost_reply,
            *cut,
            delay.is_some(),
            truncate.is_some(),
            status.is_some(),
        ];
        if effects.into_iter().filter(|given| *given).count() != 1 {
            return Err(format!("faults: {method}: exactly one effect can be given"));
        }
        let is_get = matches!(method.as_str(), "GET /folder" | "GET /nfc");
        if !is_get && METHODS.iter().all(|known| known.name != method) {
            return Err(format!("faults: {method} is no method that the server knows"));
        }
        let fits = (fault.is_none() || !is_get)
            && (task.is_none() || starts_task(method))
            && (missing.is_none() || method.starts_with("RetrieveProperties"));
        if !fits {
            return Err(format!("faults: {method} has no place for this effect"));
        }
        for kind in [fault, task, missing].into_iter().flatten() {
            if super::fault::known(kind).is_none() {
                return Err(format!("faults: {method}: {kind} is no fault that the server knows"));
            }
        }
        if status.is_some_and(|status| !(400..600).contains(&status)) {
            return Err(format!("faults: {method}: the status is no error"));
        }
        if *call == Some(0) {
            return Err(format!("faults: {method}: calls are counted from 1"));
        }
        Ok(())
    }
}

/// Tells whether a method answers a task, or a lease, which has one.
fn starts_task(method: &str) -> bool {
    let is_it = method.ends_with("_Task") || method.starts_with("Export");
    is_it && METHODS.iter().any(|known| known.name == method)
}

/// A datacenter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DatacenterSpec {
    pub(super) name: String,
    pub(super) clusters: Vec<ClusterSpec>,
    /// Hosts that stand alone.
    pub(super) hosts: Vec<HostSpec>,
    pub(super) datastores: Vec<DatastoreSpec>,
    /// Standard networks.
    pub(super) networks: Vec<NetworkSpec>,
    pub(super) switches: Vec<SwitchSpec>,
    pub(super) opaque_networks: Vec<OpaqueSpec>,
    pub(super) vms: Vec<VmSpec>,
}

/// A cluster.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ClusterSpec {
    pub(super) name: String,
    pub(super) hosts: Vec<HostSpec>,
    pub(super) drs: bool,
    pub(super) ha: bool,
    pub(super) pools: Vec<PoolSpec>,
}

/// A resource pool, or a vApp.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PoolSpec {
    pub(super) name: String,
    pub(super) v_app: bool,
    pub(super) pools: Vec<PoolSpec>,
}

/// A host.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct HostSpec {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) maintenance: bool,
    pub(super) cpus: u16,
    pub(super) cores: u16,
    pub(super) memory: Size,
    pub(super) uuid: Option<String>,
}

impl Default for HostSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            version: "8.0.2".to_owned(),
            maintenance: false,
            cpus: 2,
            cores: 32,
            memory: Size(256 << 30),
            uuid: None,
        }
    }
}

/// A datastore.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DatastoreSpec {
    pub(super) name: String,
    /// `VMFS`, `NFS`, `NFS41`, `vsan`.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) capacity: Size,
    pub(super) free: Size,
    pub(super) maintenance: bool,
}

impl Default for DatastoreSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: "VMFS".to_owned(),
            capacity: Size(1 << 40),
            free: Size(512 << 30),
            maintenance: false,
        }
    }
}

/// A standard network.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NetworkSpec {
    pub(super) name: String,
    pub(super) vlan: u16,
}

/// A distributed switch.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct SwitchSpec {
    pub(super) name: String,
    pub(super) port_groups: Vec<NetworkSpec>,
}

/// A network of NSX.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct OpaqueSpec {
    pub(super) name: String,
    pub(super) id: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

impl Default for OpaqueSpec {
    fn default() -> Self {
        Self { name: String::new(), id: None, kind: "nsx.LogicalSwitch".to_owned() }
    }
}

pub(super) use super::scenario_vm::{
    BusSharing, Connection, Controller, DiskBacking, DiskMode, DiskSpec, Fill, Firmware, NicKind,
    NicSpec, Power, Rdm, ShutdownAnswer, Tools, VmSpec,
};

/// A number of bytes: a number, or one with a unit (`KiB`, `MiB`, `GiB`, `TiB`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const UNITS: [(&str, u32); 5] =
            [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("", 0)];
        scalar(deserializer, |text| {
            let size = UNITS.into_iter().find_map(|(unit, power)| {
                let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
                number.checked_mul(1 << power).map(Self)
            });
            size.ok_or_else(|| format!("{text} is no size such as `40GiB`"))
        })
    }
}

/// A length of time: `100ms`, `2s`, `30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl Span {
    pub(super) fn parse(text: &str) -> Option<Self> {
        const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
        UNITS.into_iter().find_map(|(unit, length)| {
            let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(length).map(|milliseconds| Self(Duration::from_millis(milliseconds)))
        })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, |text| {
            Self::parse(text).ok_or_else(|| format!("{text} is no time such as `100ms` or `2s`"))
        })
    }
}

/// Reads a word or a number by its text. What is wrong with it is said inside the visitor, so that it has a place.
pub(super) fn scalar<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Scalar<F>(F);
    impl<T, F: Fn(&str) -> Result<T, String>> de::Visitor<'_> for Scalar<F> {
        type Value = T;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a word or a number")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.0)(text).map_err(E::custom)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }
    deserializer.deserialize_any(Scalar(parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_have_a_place() {
        let says = |text: &str| Scenario::parse("s.yaml", text).unwrap_err().to_string();
        assert_eq!(
            says("datacenters:\n  - name: DC1\n    colour: red\n").split("expected").next(),
            Some("s.yaml:3:5: datacenters[0]: unknown field `colour`, ")
        );
        assert_eq!(
            says("latency: soon\n"),
            "s.yaml:1:10: latency: soon is no time such as `100ms` or `2s`"
        );
        let senses = [
            ("faults: [{ method: Login }]", "faults: Login: exactly one effect can be given"),
            (
                "faults: [{ method: Logon, cut: true }]",
                "faults: Logon is no method that the server knows",
            ),
            (
                "faults: [{ method: Login, task: FileFault }]",
                "faults: Login has no place for this effect",
            ),
            (
                "denied: [{ privilege: System.Reed }]",
                "denied: System.Reed is no privilege that the server knows",
            ),
            (
                "tasks: { methods: { Login: 1s } }",
                "tasks.methods: Login is no method that starts a task",
            ),
        ];
        for (text, told) in senses {
            assert_eq!(says(text), format!("the scenario s.yaml: {told}"));
        }
    }

    #[test]
    fn the_demo_can_be_read() {
        let demo = Scenario::demo();
        assert_eq!((demo.username.as_str(), demo.password.as_str()), ("user", "pass"));
        assert_eq!(demo.datacenters[0].vms.len(), 2);
    }
}
