//! `ferry.yaml` as it is written: every key that it may hold, nothing of what it means.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser};
use serde::{Deserialize, Deserializer};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct File {
    pub(super) repository: Repository,
    pub(super) status: Status,
    pub(super) instance: Option<Text>,
    pub(super) state_dir: Option<Text>,
    pub(super) allow_paths: Option<Vec<String>>,
    pub(super) limits: Limits,
    pub(super) credentials: BTreeMap<String, Credential>,
    hooks: Later,
    pub(super) cutover: Cutover,
    precopy: Later,
    pub(super) libvirt: Libvirt,
    pub(super) convert: Convert,
    pub(super) vddk: Vddk,
    listen: Later,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Repository {
    pub(super) url: Option<Text>,
    pub(super) branch: Option<Text>,
    pub(super) path: Option<Text>,
    pub(super) poll_interval: Option<Text>,
    pub(super) timeout: Option<Text>,
    pub(super) credentials: Option<Text>,
    pub(super) verify: Verify,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Verify {
    pub(super) mode: Option<Text>,
    pub(super) allowed_signers: Option<Text>,
}

/// What Ferry logs in with. Secrets stand in files; a literal one is no field.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Credential {
    pub(super) hosts: Vec<String>,
    pub(super) username: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) token_file: Option<String>,
    pub(super) ssh_key_file: Option<String>,
    pub(super) passphrase_file: Option<String>,
    pub(super) known_hosts_file: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) provider_tls: Vec<ProviderTls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Status {
    pub(super) branch: Option<Text>,
    pub(super) author: Option<Text>,
    pub(super) min_interval: Option<Text>,
    directory: Later,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Limits {
    pub(super) vms_in_flight: Option<Text>,
    pub(super) copy_memory: Option<Text>,
    pub(super) checkpoint_every: Option<Text>,
    pub(super) manifest_bytes: Option<Text>,
    pub(super) documents_per_file: Option<Text>,
    disks_per_host: Later,
    host_in_flight: Later,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Cutover {
    pub(super) require_window: Option<Text>,
    pub(super) lateness: Option<Text>,
    pub(super) rollback_reserve: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Convert {
    pub(super) path: Option<Text>,
    pub(super) tmp_dir: Option<Text>,
    pub(super) virtio_win: Option<Text>,
    pub(super) parallel: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Libvirt {
    pub(super) uri: Option<Text>,
}

/// A field of a Provider's `tls` that counts with a credential.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ProviderTls {
    Ca,
    Sha256Fingerprint,
    InsecureSkipVerify,
}

impl ProviderTls {
    /// Returns the field's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Sha256Fingerprint => "sha256Fingerprint",
            Self::InsecureSkipVerify => "insecureSkipVerify",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Vddk {
    pub(super) lib_dir: Option<Text>,
}

/// A setting that has its place and is not honoured yet.
type Later = Option<serde_yaml::Value>;

impl File {
    /// Names the settings that are written and not honoured yet.
    pub(super) fn unsupported(&self) -> Vec<&'static str> {
        let Self { status, limits, .. } = self;
        let all = [
            ("status.directory", &status.directory),
            ("hooks", &self.hooks),
            ("limits.disksPerHost", &limits.disks_per_host),
            ("limits.hostInFlight", &limits.host_in_flight),
            ("precopy", &self.precopy),
            ("listen", &self.listen),
        ];
        all.into_iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key).collect()
    }
}

/// A scalar as its text: `20` and `256MiB` are judged by one parser, wherever they come from.
#[derive(Debug)]
pub(super) struct Text(pub(super) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text, a number or a truth value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Text, E> {
                Ok(Text(truth.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Returns the line of every key of the mappings in a file, by its path with dots.
pub(super) fn lines(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    let mut parser = Parser::new_from_str(text);
    // For each open collection: the path above, and for a mapping whose key was read the path of its value.
    let mut open: Vec<(String, Option<String>, bool)> = Vec::new();
    let value_begins = |open: &mut Vec<(String, Option<String>, bool)>| {
        open.last_mut().and_then(|(_, key, _)| key.take()).unwrap_or_default()
    };
    while let Some(Ok((event, span))) = parser.next_event() {
        match event {
            Event::MappingStart(..) => {
                let path = value_begins(&mut open);
                open.push((path, None, true));
            }
            Event::SequenceStart(..) => {
                value_begins(&mut open);
                open.push((String::new(), None, false));
            }
            Event::MappingEnd | Event::SequenceEnd => drop(open.pop()),
            Event::Scalar(key, ..) => match open.last_mut() {
                Some((path, pending @ None, true)) => {
                    let path =
                        if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
                    lines.entry(path.clone()).or_insert(span.start.line());
                    *pending = Some(path);
                }
                _ => drop(value_begins(&mut open)),
            },
            Event::Alias(_) => drop(value_begins(&mut open)),
            // Comments stand anywhere, also between a key and its value.
            _ => {}
        }
    }
    lines
}
