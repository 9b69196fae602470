//! `kind: Provider`: a place where VMs come from or go to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::document::{Lawful, not_empty};

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
    #[schemars(pattern(r"^https://[^/@?#\s]+(/[^?#\s]*)?$"))]
    #[schemars(extend("examples" = ["https://vcenter.example.org/sdk"]))]
    pub url: Option<String>,
    /// Names a credential of the controller's settings, which bind it to hosts. Secrets never stand in git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["vcenter-prod"]))]
    pub credentials: Option<String>,
    /// How the server is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// For `type: vsphere`: how disks are read; chosen, and the reason told, where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
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
    Vsphere,
    /// A Kubernetes cluster with KubeVirt. A target.
    #[schemars(extend("x-ferry-later" = true, "x-ferry-instead" = "write `type: local`"))]
    Kubevirt,
}

/// How disks of vSphere are read.
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
pub enum Transport {
    /// `vddk` where the settings name the library, else `https` where all disks of the VM are flat files without snapshots,
    /// else `nfc`.
    #[default]
    Auto,
    /// VMware's library.
    Vddk,
    /// Files of a datastore.
    Https,
    /// An export.
    Nfc,
}

/// How a server is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("not" = { "type": "object", "anyOf": [
    {
        "required": ["ca", "sha256Fingerprint"],
        "properties": { "ca": { "type": "string" }, "sha256Fingerprint": { "type": "string" } }
    },
    {
        "required": ["ca", "insecureSkipVerify"],
        "properties": { "ca": { "type": "string" }, "insecureSkipVerify": { "const": true } }
    },
    {
        "required": ["sha256Fingerprint", "insecureSkipVerify"],
        "properties": { "sha256Fingerprint": { "type": "string" }, "insecureSkipVerify": { "const": true } }
    }
] }))]
pub struct Tls {
    /// The authorities, in PEM, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n"]))]
    pub ca: Option<String>,
    /// The SHA-256 fingerprint of its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(pattern(r"^[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}$"))]
    #[schemars(extend("examples" = ["6B:0C:3D:58:C2:80:EA:08:A0:67:53:79:A8:D5:3B:7C:77:6A:8A:40:EE:D1:80:4E:17:26:39:5B:D7:07:23:D4"]))]
    pub sha256_fingerprint: Option<String>,
    /// Trusts whoever answers; every report says so.
    #[serde(default)]
    pub insecure_skip_verify: bool,
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

impl Tls {
    fn check(&self) -> Result<(), String> {
        let Self { ca, sha256_fingerprint, insecure_skip_verify } = self;
        let said = [ca.is_some(), sha256_fingerprint.is_some(), *insecure_skip_verify];
        if said.into_iter().filter(|said| *said).count() > 1 {
            return Err(
                "`tls` takes one of `ca`, `sha256Fingerprint` and `insecureSkipVerify`".to_owned()
            );
        }
        if sha256_fingerprint.as_ref().is_some_and(|text| !is_sha256(text)) {
            return Err(
                "`sha256Fingerprint` is no SHA-256 hash: 32 pairs of hexadecimal digits".to_owned()
            );
        }
        Ok(())
    }
}

/// Tells whether a text is 32 pairs of hexadecimal digits, with colons between them or not.
fn is_sha256(text: &str) -> bool {
    let mut rest = text;
    for pair in 0..32 {
        rest = rest.strip_prefix(':').filter(|_| pair > 0).unwrap_or(rest);
        let digits = rest.get(..2).filter(|two| two.bytes().all(|it| it.is_ascii_hexdigit()));
        let Some(digits) = digits else { return false };
        rest = &rest[digits.len()..];
    }
    rest.is_empty()
}

/// An address is encrypted, and a login stands elsewhere.
fn address(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("https://").ok_or("`url` begins with `https://`")?;
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Err("`url` holds a login, which belongs to the settings' `credentials`".to_owned());
    }
    if host.is_empty() || rest.contains(['?', '#']) || rest.contains(char::is_whitespace) {
        return Err("`url` is `https://HOST/sdk`, with a port where it is not 443".to_owned());
    }
    Ok(())
}

impl Lawful for Provider {
    fn check(&self) -> Result<(), String> {
        self.url.as_deref().map_or(Ok(()), address)?;
        self.tls.as_ref().map_or(Ok(()), Tls::check)?;
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
