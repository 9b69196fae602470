//! Manifests become what is wanted of each VM: references followed, defaults filled in, mappings attached.
//!
//! # Guarantees
//!
//! All of the input is judged. Every entry of every plan that can be read is in the answer; what is wrong with it, or with
//! anything that it refers to, stands in its own findings, so that only it is blocked. Entries have unique keys. Pure, and
//! linear in the input.

mod memo;
mod refer;
mod resolve;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::domain::id::{Digest, MigrationName, PlanName, ProviderName, TargetName, VmKey, VmName};
use crate::domain::window::{Calendar, Window};
use crate::manifest::diagnostic::{Finding, Place, Severity};
use crate::manifest::document::{
    ImageFormat, NetworkType, OnFailure, PlanType, TargetPowerState, Transport, Verify,
};

pub use memo::Memo;
pub use resolve::{FileVersions, load, load_with, target_name};

/// Everything that the manifests ask for, and everything that was found wrong with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The providers, by name.
    pub providers: BTreeMap<ProviderName, Site>,
    /// The plans, by name.
    pub plans: BTreeMap<PlanName, Arc<PlanWanted>>,
    /// The migrations, in the order of their names.
    pub requests: Vec<Request>,
    /// The cutover windows that can be used, by name.
    pub windows: BTreeMap<String, Window>,
    /// Why nothing may be taken down, and no cold migration may begin, whatever a plan says: files that hold a window or held
    /// one, and are broken now (safety rule 12).
    pub closed: Vec<String>,
    /// How much concerns weigh.
    pub weights: Vec<WeightWanted>,
    /// The concerns that somebody answers for.
    pub waivers: Vec<WaiverWanted>,
    /// What is wrong, over all manifests; what concerns one VM stands in its entry as well.
    pub findings: Vec<Finding>,
}

/// A plan and its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanWanted {
    /// What it is for.
    pub description: Option<String>,
    /// The source's and the target's names, as written.
    pub source: String,
    /// See `source`.
    pub target: String,
    /// Cold or warm.
    pub kind: PlanType,
    /// Whether it is out of use.
    pub archived: bool,
    /// The windows that bound it.
    pub calendar: Arc<Calendar>,
    /// Where it stands.
    pub place: Place,
    /// Its VMs, in the order of the manifest.
    pub vms: Vec<VmWanted>,
}

/// One entry of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct VmWanted {
    /// Its name.
    pub key: VmKey,
    /// Where it stands.
    pub place: Place,
    /// The digest of the entry's own fields: another entry may mean another VM.
    pub entry: Digest,
    /// What is wanted; `None` where a finding keeps it from being made out.
    pub desired: Option<Arc<Desired>>,
    /// What is wrong with it, or with what it refers to.
    pub findings: Vec<Finding>,
}

/// What is wanted of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Desired {
    /// Its plan and name.
    pub key: VmKey,
    /// Where its entry stands.
    pub place: Place,
    /// Names the source.
    pub source: ProviderName,
    /// Where the source is.
    pub source_site: Site,
    /// Which VM of the source.
    pub selector: Selector,
    /// Names the target.
    pub target: ProviderName,
    /// Where the target is.
    pub target_site: Site,
    /// What it is called there; made from its own name where left out.
    pub target_name: Option<TargetName>,
    /// Cold or warm.
    pub kind: PlanType,
    /// What becomes of the networks, by their names at the source; `None` where the plan names no mapping.
    pub networks: Option<Arc<BTreeMap<String, Network>>>,
    /// Whether it runs on the target afterwards.
    pub power: TargetPowerState,
    /// Leaves the guest as it is.
    pub skip_guest_conversion: bool,
    /// How long a guest may take to shut down, in seconds.
    pub shutdown_timeout_s: u32,
    /// Whether power is cut after that.
    pub shutdown_force: bool,
    /// How much is read again.
    pub verify: Verify,
    /// What becomes of partial disks.
    pub on_failure: OnFailure,
}

impl Desired {
    /// Tells whether it means what another one means, wherever they stand in a file.
    pub fn wishes(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || *self == Self { place: self.place.clone(), ..other.clone() }
    }
}

/// The file of a local target's VM that libvirt takes.
pub const DOMAIN_FILE: &str = "domain.xml";

/// Where a provider is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Site {
    /// An OVA file or a folder of them.
    Ova {
        /// Its path.
        path: Arc<str>,
    },
    /// A folder of disks and domains.
    Local {
        /// Its path.
        path: Arc<str>,
        /// How the disks are stored. What is written of a folder of raw disks does not say it, as it did not before there was
        /// another format: records and digests stay what they are.
        #[serde(rename = "diskFormat", default, skip_serializing_if = "is_default")]
        disk_format: ImageFormat,
    },
    /// A vCenter or an ESXi host.
    Vsphere(Arc<VsphereSite>),
}

/// A vCenter or an ESXi host, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VsphereSite {
    /// The address of its API: `https://HOST/sdk`.
    pub url: Arc<str>,
    /// Names the credential of the settings that it is logged in with.
    pub credentials: Arc<str>,
    /// How it is trusted.
    pub trust: Trust,
    /// How disks are read.
    pub transport: Transport,
}

/// How a server is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Trust {
    /// By the authorities that this machine trusts.
    System,
    /// By these, in PEM.
    Authorities(Arc<str>),
    /// By the SHA-256 fingerprint of its certificate.
    Fingerprint(Arc<str>),
    /// Whoever answers is believed.
    Anyone,
}

impl Trust {
    /// Returns the field of a Provider's `tls` that asks for it; `None` for what needs no field.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::System => None,
            Self::Authorities(_) => Some("ca"),
            Self::Fingerprint(_) => Some("sha256Fingerprint"),
            Self::Anyone => Some("insecureSkipVerify"),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_default(format: &ImageFormat) -> bool {
    *format == ImageFormat::default()
}

impl Site {
    /// Names a folder of raw disks and domains.
    pub fn folder(path: impl Into<Arc<str>>) -> Self {
        Self::Local { path: path.into(), disk_format: ImageFormat::Raw }
    }

    /// Returns the same place, however disks are stored there: two VMs of one name have no room in it.
    #[must_use]
    pub fn place(&self) -> Self {
        match self {
            Self::Ova { .. } | Self::Vsphere(_) => self.clone(),
            Self::Local { path, disk_format: _ } => Self::folder(path.clone()),
        }
    }

    /// Tells whether VMs come from there; else they go there.
    pub fn holds_sources(&self) -> bool {
        match self {
            Self::Ova { .. } | Self::Vsphere(_) => true,
            Self::Local { .. } => false,
        }
    }

    /// Returns the address of a server that is believed whoever answers there; `None` for every other site.
    pub fn believed(&self) -> Option<&str> {
        match self {
            Self::Vsphere(site) if site.trust == Trust::Anyone => Some(&site.url),
            Self::Vsphere(_) | Self::Ova { .. } | Self::Local { .. } => None,
        }
    }

    /// Returns the command with which a person starts a VM that stands there; `None` where no VM ever does.
    pub fn start_command(&self, name: &TargetName) -> Option<String> {
        match self {
            Self::Ova { .. } | Self::Vsphere(_) => None,
            Self::Local { path, disk_format: _ } => {
                let file = format!("{}/{name}/{DOMAIN_FILE}", path.trim_end_matches('/'));
                Some(format!("virsh -c qemu:///system create {}", shell_word(&file)))
            }
        }
    }
}

/// Writes a text so that a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// How an entry names its VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Selector {
    /// By name or path.
    Name(String),
    /// By identifier.
    Id(String),
}

/// What becomes of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Network {
    /// The kind.
    pub kind: NetworkType,
    /// Its name, for `multus`.
    pub name: Option<String>,
}

/// What a `Migration` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its name.
    pub name: MigrationName,
    /// The plan.
    pub plan: PlanName,
    /// VMs that are stopped and undone.
    pub cancel: BTreeSet<VmName>,
    /// VMs that are moved once more.
    pub again: BTreeSet<VmName>,
    /// When its VMs are cut over, but those of `vm_cutover`; `None` as soon as they can be.
    pub cutover: Option<Cutover>,
    /// When single VMs are cut over.
    pub vm_cutover: BTreeMap<VmName, Cutover>,
    /// The digest of the document's text.
    pub digest: Digest,
    /// Where it stands.
    pub place: Place,
}

impl Request {
    /// Returns when a VM is cut over.
    pub fn cutover_of(&self, vm: &VmName) -> Option<Cutover> {
        self.vm_cutover.get(vm).copied().or(self.cutover)
    }
}

/// When a VM is cut over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cutover {
    /// As soon as this version of the `Migration` is seen.
    Now,
    /// Not until another time stands there.
    Never,
    /// At a time.
    At(Timestamp),
}

/// How much a concern weighs by a `Policy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightWanted {
    /// The concern.
    pub concern: String,
    /// What it is.
    pub severity: Severity,
    /// Where that stands.
    pub place: Place,
}

/// A concern that does not block a VM by a `Policy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaiverWanted {
    /// The concern.
    pub concern: String,
    /// `PLAN/VM`, or the VM's name in any plan.
    pub vm: String,
    /// Why.
    pub reason: String,
    /// The last day on which it counts, in UTC.
    pub expires: Date,
    /// Where it stands.
    pub place: Place,
}

impl WaiverWanted {
    /// Tells whether it speaks of an entry.
    pub fn names(&self, key: &VmKey) -> bool {
        let (plan, vm) = (key.plan.as_str(), key.vm.as_str());
        let within = || self.vm.strip_prefix(plan)?.strip_prefix('/');
        self.vm == vm || within() == Some(vm)
    }

    /// Says that it waives something: the end of the text of what it waives.
    pub fn words(&self) -> String {
        format!(" (waived until {}: {})", self.expires, self.reason)
    }
}

#[cfg(test)]
mod tests;
