//! `kind: Provider`: a place where VMs come from or go to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::document::{Lawful, Tls, Transport, not_empty};

/// A place where VMs come from or go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("oneOf" = [
    {
        "required": ["type", "ova"],
        "properties": {
            "type": { "const": "ova" }, "ova": { "type": "object" }, "local": { "type": "null" }
        }
    },
    {
        "required": ["type", "local"],
        "properties": {
            "type": { "const": "local" }, "local": { "type": "object" }, "ova": { "type": "null" }
        }
    },
    {
        "required": ["type", "url", "credentials"],
        "properties": {
            "type": { "const": "vsphere" }, "url": { "type": "string" },
            "credentials": { "type": "string" }, "ova": { "type": "null" }, "local": { "type": "null" }
        }
    },
    {
        "required": ["type"],
        "properties": {
            "type": { "const": "kubevirt" }, "ova": { "type": "null" }, "local": { "type": "null" }
        }
    }
]))]
pub struct Provider {
    /// What kind of place it is.
    #[serde(rename = "type")]
    pub kind: ProviderType,
    /// For `type: ova`: where the archives are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ova: Option<OvaProvider>,
    /// For `type: local`: where disks and domains are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalProvider>,
    /// For `type: vsphere` and `type: kubevirt`: the address of a vCenter, an ESXi host or a Kubernetes API; the cluster that
    /// Ferry runs in where `kubevirt` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true, "examples" = ["https://vcenter.example.org/sdk"]))]
    pub url: Option<String>,
    /// Names a credential of the controller's settings, which bind it to hosts. Secrets never stand in git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    #[schemars(extend("examples" = ["vcenter-prod"]))]
    pub credentials: Option<String>,
    /// How the server is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true))]
    pub tls: Option<Tls>,
    /// For `type: vsphere`: how disks are read; chosen, and the reason told, where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ferry-later" = true, "default" = "auto"))]
    pub transport: Option<Transport>,
}

/// The kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderType {
    /// OVA files, or OVF files with their disks, in a folder. A source.
    Ova,
    /// A folder of disks with libvirt domain files. A target.
    Local,
    /// A vCenter or an ESXi host. A source.
    #[schemars(extend("x-ferry-later" = true, "x-ferry-instead" = "write `type: ova` and export the VMs as OVA files"))]
    Vsphere,
    /// A Kubernetes cluster with KubeVirt. A target.
    #[schemars(extend("x-ferry-later" = true, "x-ferry-instead" = "write `type: local`"))]
    Kubevirt,
}

/// Where OVA files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OvaProvider {
    /// An `.ova` file, an `.ovf` file with its disks beside it, or a folder of both; its sub-folders are searched for `.ovf`
    /// files, one level deep. Below one of the settings' `allowPaths`.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["/srv/exports"]))]
    pub path: String,
}

/// Where disks and domains are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LocalProvider {
    /// The folder; each VM gets one of its own below it. Below one of the settings' `allowPaths`.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = ["/srv/vms"]))]
    pub path: String,
    /// How the disks are stored. Changing it changes nothing about VMs that were moved; what was partly copied in the other
    /// format is deleted and copied again.
    #[serde(default)]
    pub disk_format: ImageFormat,
}

/// How disks are stored on a target.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Byte by byte as the guest sees them, in sparse files.
    #[default]
    Raw,
    /// QEMU's format, which keeps its holes wherever the file goes. At most 8 TiB a disk.
    Qcow2,
}

impl ImageFormat {
    /// Returns its name, as manifests, QEMU and libvirt write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// The two ends of a plan or a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProviderPair {
    /// Names the source `Provider`.
    #[schemars(extend("examples" = ["archive"]))]
    pub source: String,
    /// Names the target `Provider`.
    #[schemars(extend("examples" = ["rack"]))]
    pub destination: String,
}

impl Lawful for Provider {
    fn check(&self) -> Result<(), String> {
        match (self.kind, &self.ova, &self.local) {
            (ProviderType::Ova, Some(OvaProvider { path }), None)
            | (ProviderType::Local, None, Some(LocalProvider { path, disk_format: _ })) => {
                not_empty(Some(path), "path")
            }
            (ProviderType::Vsphere, None, None) => match (&self.url, &self.credentials) {
                (Some(_), Some(_)) => Ok(()),
                (_, _) => Err("`vsphere` needs `url` and `credentials`".to_owned()),
            },
            (ProviderType::Kubevirt, None, None) => Ok(()),
            (_, _, _) => Err("the block that belongs to `type` is needed, and no other".to_owned()),
        }
    }
}
