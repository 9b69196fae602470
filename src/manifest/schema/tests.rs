//! The schema and the types of a kind must give every document the same verdict.

use std::path::Path;

use proptest::prelude::*;
use serde::Serialize;

use super::*;

#[test]
fn the_committed_schemas_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    for (name, text) in files() {
        let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(committed == text, "{name} is out of date: `cargo run -- schema --write schemas`");
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), Kind::ALL.len());
}

#[test]
fn the_schemas_are_schemas() {
    for kind in Kind::ALL {
        assert!(jsonschema::meta::is_valid(schema(kind)), "{kind:?}");
        assert!(!schema(kind).to_string().contains("$ref"), "{kind:?}");
    }
}

/// Reads a document by its types alone. Serde also takes lists for structs and mappings for words; what it takes so does
/// not come out again as it went in, and counts as refused.
fn types_accept(kind: Kind, value: &Value) -> bool {
    let Ok((metadata, spec)) = typed(kind, value.clone()) else { return false };
    let said = (value.get("apiVersion"), value.get("kind"));
    if said != (Some(&API_VERSION.into()), Some(&kind.as_str().into())) {
        return false;
    }
    let part = |pointer: &str| value.get(pointer).unwrap_or(&Value::Null);
    comes_back(part("metadata"), &written(&metadata))
        && comes_back(
            part("spec"),
            &match spec {
                Spec::Provider(spec) => written(&spec),
                Spec::NetworkMapping(spec) => written(&spec),
                Spec::StorageMapping(spec) => written(&spec),
                Spec::Plan(spec) => written(&spec),
                Spec::Migration(spec) => written(&spec),
            },
        )
}

fn written(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap()
}

/// Tells whether everything that was written is there again. Nothing and emptiness may be left out.
fn comes_back(value: &Value, again: &Value) -> bool {
    match (value, again) {
        (Value::Object(fields), Value::Object(again)) => fields.iter().all(|(name, value)| {
            let empty = match value {
                Value::Null => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
            };
            again.get(name).map_or(empty, |again| comes_back(value, again))
        }),
        (Value::Array(items), Value::Array(again)) => {
            items.len() == again.len()
                && items.iter().zip(again).all(|(item, again)| comes_back(item, again))
        }
        (value, again) => value == again,
    }
}

fn document(kind: Kind, name: String, spec: Value) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": kind.as_str(),
        "metadata": { "name": name, "labels": { "a": "b" } },
        "spec": spec,
    })
}

/// One good document of each kind with every field in it.
fn full(kind: Kind) -> Value {
    let pair = json!({ "source": "a", "destination": "b" });
    let spec = match kind {
        Kind::Provider => json!({ "type": "ova", "ova": { "path": "/srv" }, "local": null }),
        Kind::NetworkMapping => json!({ "provider": pair, "map": [
            { "source": { "name": "n" }, "destination": { "type": "pod" } },
            { "source": { "name": "m" }, "destination": { "type": "multus", "name": "x" } },
            { "source": { "name": "o" }, "destination": { "type": "ignored", "name": null } },
        ] }),
        Kind::StorageMapping => json!({ "provider": pair, "map": [
            { "source": { "name": "n" }, "destination": { "storageClass": "fast" } },
        ] }),
        Kind::Plan => json!({
            "description": "d", "provider": pair, "map": { "network": "n", "storage": "s" },
            "type": "cold", "targetPowerState": "auto", "skipGuestConversion": true,
            "shutdown": { "timeout": "1h 30m", "force": true }, "verify": "full",
            "onFailure": "delete", "archived": false,
            "vms": [
                { "name": "a", "targetName": "b", "targetPowerState": "on" },
                { "id": "c", "name": null },
            ],
        }),
        Kind::Migration => json!({ "plan": "p", "cancel": ["a"], "again": [] }),
    };
    document(kind, "x".to_owned(), spec)
}

#[test]
fn full_documents_are_good() {
    for kind in Kind::ALL {
        let document = full(kind);
        let errors: Vec<String> =
            validator(kind).iter_errors(&document).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{kind:?}");
        assert!(types_accept(kind, &document), "{kind:?}: {:?}", typed(kind, document.clone()));
    }
}

/// Values that a person, or an enemy, may put anywhere.
fn any_value() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "a",
        "on",
        "ova",
        "local",
        "pod",
        "multus",
        "ignored",
        "cold",
        "warm",
        "10m",
        "1h 30m",
        "1h  30m",
        "10",
        "m",
        "9999h9999h9999h9999h",
        "99999s",
        "1h ",
        " 1h",
        "1h30m 5s",
        "A",
        "a-",
        "-",
        "auto",
        "none",
        "keep",
        API_VERSION,
        "Plan",
        "ä",
        "x\n",
    ];
    let leaf = prop_oneof![
        3 => Just(Value::Null),
        3 => Just(Value::from("")),
        1 => any::<bool>().prop_map(Value::from),
        1 => (-2..3_i64).prop_map(Value::from),
        1 => Just(json!(1.5)),
        4 => prop::sample::select(words.to_vec()).prop_map(Value::from),
        1 => "[0-9hms ]{0,7}".prop_map(Value::from),
        1 => "[a-zA-Z0-9-]{0,70}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        let name = prop::sample::select(vec![
            "name",
            "id",
            "type",
            "path",
            "ova",
            "local",
            "source",
            "destination",
            "x",
            "timeout",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..3).prop_map(|fields| {
                Value::Object(
                    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
                )
            }),
        ]
    })
}

/// Lists every value of a document.
fn pointers(value: &Value, pointer: &str, out: &mut Vec<String>) {
    out.push(pointer.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                pointers(value, &crate::manifest::tree::below(pointer, name), out);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, &format!("{pointer}/{index}"), out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Changes a document at one place: a value replaced, a field taken away or added, an item doubled.
fn mutate(value: &mut Value, at: usize, how: u8, new: Value) {
    let mut places = Vec::new();
    pointers(value, "", &mut places);
    let node = value.pointer_mut(&places[at % places.len()]).unwrap();
    let at = at / places.len();
    match (how, node) {
        (0, Value::Object(fields)) if !fields.is_empty() => {
            let name = fields.keys().nth(at % fields.len()).unwrap().clone();
            fields.shift_remove(&name);
        }
        (1, Value::Object(fields)) => {
            let names = ["name", "id", "local", "ova", "type", "force", "x", "network", "cancel"];
            fields.insert(names[at % names.len()].to_owned(), new);
        }
        (2, Value::Array(items)) => items.push(new),
        (_, node) => *node = new,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn schema_and_types_agree(
        edits in prop::collection::vec((any::<usize>(), 0..5_u8, any_value()), 1..4),
    ) {
        for kind in Kind::ALL {
            let mut document = full(kind);
            for (at, how, new) in &edits {
                mutate(&mut document, *at, *how, new.clone());
            }
            let schema = validator(kind).is_valid(&document);
            let types = types_accept(kind, &document);
            prop_assert_eq!(schema, types, "schema {} types {}: {}", schema, types, document);
        }
    }
}
