//! The schema and the types of a kind must give every document the same verdict.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::manifest::unsupported::{self, Unsupported};

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
                Spec::CutoverWindow(spec) => written(&spec),
                Spec::Policy(spec) => written(&spec),
                Spec::Host(spec) => written(&spec),
                Spec::Provisioner(spec) => written(&spec),
                Spec::Hook(spec) => written(&spec),
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

/// A plan with every field in it, as a person writes it.
fn full_plan(pair: &Value) -> Value {
    let text = r#"
description: d
map: { network: n, storage: s }
type: cold
targetPowerState: auto
skipGuestConversion: true
shutdown: { timeout: 1h 30m, force: true }
verify: full
onFailure: delete
archived: false
window: w
select: power == 'off'
hooks: [{ hook: h, step: PreHook }]
targetNamespace: t
preserveStaticIPs: false
migrateSharedDisks: false
pvcNameTemplate: p
volumeNameTemplate: v
networkNameTemplate: n
targetLabels: { a: b }
targetNodeSelector: { a: b }
targetAffinity: { nodeAffinity: {} }
fence: { disconnectNics: true }
precopy: { interval: 30m, maxSnapshots: 3, downtimeBudget: 5m, enableCbt: true }
wave: 2
dependsOn: [other]
vms:
  - { name: a, targetName: b, targetPowerState: "on" }
  - { id: c, name: null }
  - uuid: u
    hooks: [{ hook: h, step: PostHook }]
    rootDisk: d
    luks: l
    instanceType: i
    labels: { a: b }
    cpu: 4
    memory: 8Gi
    patch: { spec: { x: [1] } }
    disks: [{ disk: d, storageClass: s, volumeMode: Filesystem, accessMode: ReadWriteOnce }]
    networks: [{ mac: m, destination: { type: multus, name: x, namespace: y } }]
"#;
    let mut plan: Value = serde_yaml::from_str(text).unwrap();
    plan["provider"] = pair.clone();
    plan
}

/// One good document of each kind with every field in it.
fn full(kind: Kind) -> Value {
    let pair = json!({ "source": "a", "destination": "b" });
    let spec = match kind {
        Kind::Provider => json!({
            "type": "ova", "ova": { "path": "/srv" }, "local": null, "url": "https://v/sdk",
            "credentials": "c", "transport": "nfc",
            "tls": { "ca": "PEM", "sha256Fingerprint": null, "insecureSkipVerify": false },
        }),
        Kind::NetworkMapping => json!({ "provider": pair, "map": [
            { "source": { "name": "n" }, "destination": { "type": "pod" } },
            { "source": { "name": "m" }, "destination": { "type": "multus", "name": "x", "namespace": "y" } },
            { "source": { "id": "network-7" }, "destination": { "type": "pod" } },
            { "source": { "vlan": 12 }, "destination": { "type": "pod" } },
            { "source": { "name": "o" }, "destination": { "type": "ignored", "name": null } },
        ] }),
        Kind::StorageMapping => json!({ "provider": pair, "map": [
            { "source": { "name": "n" }, "destination": { "storageClass": "fast" } },
            { "source": { "id": "ds-1" }, "destination": {
                "storageClass": "fast", "volumeMode": "Block", "accessMode": "ReadWriteMany",
            } },
        ] }),
        Kind::Plan => full_plan(&pair),
        Kind::Migration => json!({
            "plan": "p", "cancel": ["a"], "again": [], "rollback": ["a"], "allowRecopy": ["a"],
            "resumeConversion": ["a"], "cutover": "2026-11-28T22:00:00+01:00",
            "vmCutover": [{ "vm": "a", "cutover": "now" }, { "vm": "b", "cutover": "2026-11-28T22:00:00Z" }],
        }),
        Kind::CutoverWindow => json!({
            "allow": [{ "schedule": "0 22 * * 6", "duration": "4h", "timeZone": "Europe/Berlin", "description": "d" }],
            "deny": [{ "schedule": "0 0 24 12 *", "duration": "100h 30m", "timeZone": "UTC" }],
            "selector": { "matchLabels": { "tier": "gold" } },
        }),
        Kind::Policy => json!({
            "severity": [{ "concern": "a.b", "category": "Warning" }], "rules": ["own.rego"],
            "waivers": [{ "concern": "a.b", "vm": "p/x", "reason": "r", "expires": "2026-12-31" }],
        }),
        Kind::Host => json!({
            "provider": "v", "host": { "id": "host-9" }, "ipAddress": "192.0.2.1", "credentials": "c",
        }),
        Kind::Provisioner => json!({ "provisioner": "p", "volumeModes": [{
            "name": "Block", "priority": 1,
            "accessModes": [{ "name": "ReadOnlyMany", "priority": 2 }],
        }] }),
        Kind::Hook => json!({
            "image": "i", "playbook": "p", "serviceAccount": "s", "command": "c", "deadline": "30m",
            "retry": 2,
        }),
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

/// Checks the examples of each value that a person thinks up: no word of a list, no truth value.
fn examples(schema: &Value, path: &str) {
    let given = super::given(schema);
    let examples = schema.get("examples").and_then(Value::as_array);
    if let Some(examples) = examples {
        let validator = jsonschema::draft202012::new(schema).unwrap();
        assert!(examples.iter().all(|example| validator.is_valid(example)), "{path}: {examples:?}");
        return;
    }
    if let Some(fields) = given.get("properties").and_then(Value::as_object) {
        fields.iter().for_each(|(name, field)| self::examples(field, &format!("{path}.{name}")));
    } else if let Some(items) = given.get("items") {
        self::examples(items, path);
    } else {
        let boolean = given["type"] == "boolean" || given["type"][0] == "boolean";
        let chosen = boolean || given.get("enum").is_some() || given.get("const").is_some();
        assert!(chosen || schema.get("default").is_some(), "{path} has no example");
    }
}

#[test]
fn what_a_person_thinks_up_has_an_example_that_fits() {
    for kind in Kind::ALL {
        examples(schema(kind).pointer("/properties/spec").unwrap(), kind.as_str());
    }
}

/// Lists what has the mark of what is not honoured yet; `*` is every item of a list.
fn marked(schema: &Value, path: &str, out: &mut BTreeSet<String>) {
    let words = schema.get("x-ferry-later-words").and_then(Value::as_object);
    out.extend(words.into_iter().flatten().map(|(word, _)| format!("{path}={word}")));
    for branch in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        marked(branch, path, out);
    }
    if let Some(items) = schema.get("items") {
        marked(items, &format!("{path}/*"), out);
    }
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        let path = format!("{path}/{name}");
        if schema.get("x-ferry-later").is_some() {
            out.insert(path);
        } else {
            marked(schema, &path, out);
        }
    }
}

/// Safety rule 7: whatever has the mark is found where somebody writes it, and nothing else is.
#[test]
fn what_is_not_honoured_yet_is_found_wherever_it_is_written() {
    for kind in Kind::ALL {
        let mut expected = BTreeSet::new();
        marked(schema(kind), "", &mut expected);
        let mut documents = vec![full(kind)];
        for word in ["vsphere", "kubevirt"].into_iter().filter(|_| kind == Kind::Provider) {
            let mut document = full(kind);
            document["spec"]["type"] = word.into();
            documents.push(document);
        }
        let found: BTreeSet<String> = documents
            .iter()
            .flat_map(|document| {
                unsupported::find(schema(kind), document).into_iter().map(|what| match what {
                    Unsupported::Kind => "/spec".to_owned(),
                    Unsupported::Field(at, _) => general(&at),
                    Unsupported::Value(at, _) => {
                        format!("{at}={}", document.pointer(&at).and_then(Value::as_str).unwrap())
                    }
                })
            })
            .collect();
        assert_eq!(found, expected, "{kind:?}");
    }
}

/// Writes `*` for every position in a list.
fn general(pointer: &str) -> String {
    let number = |step: &&str| step.parse::<usize>().is_ok();
    let steps = pointer.split('/');
    steps.map(|step| if number(&step) { "*" } else { step }).collect::<Vec<_>>().join("/")
}

/// Words that mean something in one place or another, and some that nearly do.
const WORDS: [&str; 38] = [
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
    "now",
    "never",
    "2026-11-28T22:00:00Z",
    "2026-11-28T22:00:00.5Z",
    "2026-99-99T99:99:99-99:99",
    "2026-11-28T22:00:00",
    "2026-12-31",
    "Critical",
];

/// Values that a person, or an enemy, may put anywhere.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        3 => Just(Value::Null),
        3 => Just(Value::from("")),
        1 => any::<bool>().prop_map(Value::from),
        1 => (-2..3_i64).prop_map(Value::from),
        1 => Just(json!(1.5)),
        4 => prop::sample::select(WORDS.to_vec()).prop_map(Value::from),
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
