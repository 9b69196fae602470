//! What the design gives a meaning and this version does not honour: kinds, fields and values. A person who writes one is
//! told so, and it blocks; nothing that is written is ignored. A row goes when its field joins the types.

use serde_json::Value;

use crate::manifest::document::Kind;
use crate::manifest::tree::below;

/// Kinds of the design.
pub(crate) const KINDS: [&str; 5] = ["Host", "Provisioner", "Hook", "CutoverWindow", "Policy"];

/// Fields of the design: the kind, where they stand (`*` is every item of a list), their names.
const FIELDS: &[(Kind, &[&str], &[&str])] = &[
    (
        Kind::Provider,
        &["spec"],
        &["transport", "url", "credentials", "tls", "vsphere", "kubevirt", "settings"],
    ),
    (Kind::NetworkMapping, &["spec", "map", "*", "source"], &["id", "vlan"]),
    (Kind::NetworkMapping, &["spec", "map", "*", "destination"], &["namespace"]),
    (Kind::StorageMapping, &["spec", "map", "*", "source"], &["id"]),
    (Kind::StorageMapping, &["spec", "map", "*", "destination"], &["volumeMode", "accessMode"]),
    (
        Kind::Plan,
        &["spec"],
        &[
            "select",
            "hooks",
            "targetNamespace",
            "preserveStaticIPs",
            "migrateSharedDisks",
            "pvcNameTemplate",
            "volumeNameTemplate",
            "networkNameTemplate",
            "targetLabels",
            "targetNodeSelector",
            "targetAffinity",
            "precopy",
            "fence",
            "window",
            "wave",
            "dependsOn",
            "warm",
        ],
    ),
    (
        Kind::Plan,
        &["spec", "vms", "*"],
        &[
            "uuid",
            "hooks",
            "rootDisk",
            "luks",
            "instanceType",
            "disks",
            "networks",
            "labels",
            "cpu",
            "memory",
            "patch",
        ],
    ),
    (
        Kind::Migration,
        &["spec"],
        &["cutover", "vmCutover", "rollback", "allowRecopy", "resumeConversion"],
    ),
];

/// Values of the design: the kind, the pointer, the value, what to write instead.
const VALUES: &[(Kind, &str, &str, &str)] = &[
    (Kind::Provider, "/spec/type", "vsphere", "write `type: ova` and export the VMs as OVA files"),
    (Kind::Provider, "/spec/type", "kubevirt", "write `type: local`"),
];

/// Takes the fields that are not honoured yet out of a document and returns their pointers.
pub(crate) fn take(kind: Kind, document: &mut Value) -> Vec<String> {
    let mut taken = Vec::new();
    for (_, path, names) in FIELDS.iter().filter(|(owner, ..)| *owner == kind) {
        take_below(document, "", path, names, &mut taken);
    }
    taken
}

/// Returns what to write instead of a value that is not honoured yet.
pub(crate) fn instead(kind: Kind, pointer: &str, value: &str) -> Option<&'static str> {
    VALUES
        .iter()
        .find(|(owner, at, word, _)| *owner == kind && *at == pointer && *word == value)
        .map(|(.., instead)| *instead)
}

fn take_below(
    value: &mut Value,
    pointer: &str,
    path: &[&str],
    names: &[&str],
    taken: &mut Vec<String>,
) {
    match path.split_first() {
        None => {
            let Value::Object(fields) = value else { return };
            for name in names {
                if fields.shift_remove(*name).is_some() {
                    taken.push(below(pointer, name));
                }
            }
        }
        Some((&"*", rest)) => {
            let Value::Array(items) = value else { return };
            for (index, item) in items.iter_mut().enumerate() {
                take_below(item, &format!("{pointer}/{index}"), rest, names, taken);
            }
        }
        Some((segment, rest)) => {
            if let Some(value) = value.get_mut(*segment) {
                take_below(value, &below(pointer, segment), rest, names, taken);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::schema::schema;

    #[test]
    fn what_the_schema_knows_is_not_called_unsupported() {
        for (kind, path, names) in FIELDS {
            let steps = path.iter().map(|step| match *step {
                "*" => "/items".to_owned(),
                step => format!("/properties/{step}"),
            });
            let pointer: String = steps.collect();
            let fields = schema(*kind).pointer(&format!("{pointer}/properties"));
            let fields = fields.unwrap_or_else(|| panic!("{kind:?} has no {path:?}"));
            for name in *names {
                assert!(fields.get(name).is_none(), "{kind:?} {path:?} honours {name}");
            }
        }
        assert!(KINDS.into_iter().all(|kind| Kind::find(kind).is_none()));
    }
}
