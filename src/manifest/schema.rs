//! The JSON Schema of each kind, generated from its type in [`document`](crate::manifest::document): what an editor
//! completes and checks, what `ferry explain` prints, and what every manifest is judged by.
//!
//! `schemas/` holds the same text for editors; a test compares the two, and `ferry schema --write schemas` writes them.

use std::sync::OnceLock;

use jsonschema::Validator;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::{Value, json};

use crate::manifest::document::{
    API_VERSION, CutoverWindow, Document, Hook, Host, Kind, Lawful, Metadata, Migration,
    NetworkMapping, Plan, Policy, Provider, Provisioner, Spec, StorageMapping,
};
use crate::manifest::unsupported;

/// Returns the schema of a kind (draft 2020-12, without references).
pub fn schema(kind: Kind) -> &'static Value {
    &judge(kind).schema
}

/// Returns the schema of any manifest, which leads to the schema of its kind in a file beside it: editors need one for files
/// that hold several kinds.
pub fn of_any_kind() -> Value {
    let of = |kind: Kind| {
        let is =
            json!({ "required": ["kind"], "properties": { "kind": { "const": kind.as_str() } } });
        json!({ "if": is, "then": { "$ref": format!("{}.json", kind.as_str()) } })
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifest",
        "description": "One document of a repository of plans.",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": { "description": "The group and version.", "const": API_VERSION },
            "kind": {
                "description": "What the document is.",
                "enum": Kind::ALL.map(Kind::as_str),
                "markdownEnumDescriptions": Kind::ALL.map(|kind| schema(kind)["description"].clone()),
            },
        },
        "allOf": Kind::ALL.map(of),
    })
}

/// Looks through "or nothing" to what a value is.
pub fn given(schema: &Value) -> &Value {
    let branches = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let something = |branch: &&Value| branch.get("type").is_none_or(|kind| kind != "null");
    branches.into_iter().find(something).unwrap_or(schema)
}

/// Returns the validator of a kind, compiled once.
pub(crate) fn validator(kind: Kind) -> &'static Validator {
    &judge(kind).validator
}

/// Reads a document that its schema let through.
pub(crate) fn typed(kind: Kind, value: Value) -> Result<(Metadata, Spec), serde_json::Error> {
    match kind {
        Kind::Provider => read::<Provider>(value, Spec::Provider),
        Kind::NetworkMapping => read::<NetworkMapping>(value, Spec::NetworkMapping),
        Kind::StorageMapping => read::<StorageMapping>(value, Spec::StorageMapping),
        Kind::Plan => read::<Plan>(value, |plan| Spec::Plan(Box::new(plan))),
        Kind::Migration => read::<Migration>(value, Spec::Migration),
        Kind::CutoverWindow => read::<CutoverWindow>(value, Spec::CutoverWindow),
        Kind::Policy => read::<Policy>(value, Spec::Policy),
        Kind::Host => read::<Host>(value, Spec::Host),
        Kind::Provisioner => read::<Provisioner>(value, Spec::Provisioner),
        Kind::Hook => read::<Hook>(value, Spec::Hook),
    }
}

fn read<S: DeserializeOwned + Lawful>(
    value: Value,
    spec_of: fn(S) -> Spec,
) -> Result<(Metadata, Spec), serde_json::Error> {
    let Document { api_version: _, kind: _, metadata, spec } = serde_json::from_value(value)?;
    let spec: S = spec;
    metadata.check().and_then(|()| spec.check()).map_err(serde_json::Error::custom)?;
    Ok((metadata, spec_of(spec)))
}

struct Judge {
    schema: Value,
    validator: Validator,
}

fn judge(kind: Kind) -> &'static Judge {
    static JUDGES: [OnceLock<Judge>; Kind::ALL.len()] =
        [const { OnceLock::new() }; Kind::ALL.len()];
    let (cell, make): (usize, fn(Kind) -> Judge) = match kind {
        Kind::Provider => (0, compile::<Provider>),
        Kind::NetworkMapping => (1, compile::<NetworkMapping>),
        Kind::StorageMapping => (2, compile::<StorageMapping>),
        Kind::Plan => (3, compile::<Plan>),
        Kind::Migration => (4, compile::<Migration>),
        Kind::CutoverWindow => (5, compile::<CutoverWindow>),
        Kind::Policy => (6, compile::<Policy>),
        Kind::Host => (7, compile::<Host>),
        Kind::Provisioner => (8, compile::<Provisioner>),
        Kind::Hook => (9, compile::<Hook>),
    };
    JUDGES[cell].get_or_init(|| make(kind))
}

fn compile<S: JsonSchema>(kind: Kind) -> Judge {
    let schema = generate::<S>(kind);
    let validator =
        jsonschema::draft202012::new(&schema).expect("a generated schema always compiles");
    Judge { schema, validator }
}

fn generate<S: JsonSchema>(kind: Kind) -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut generator = settings.into_generator();
    let mut schema = generator.root_schema_for::<Document<S>>().to_value();
    // The field says less than the type that it has.
    schema["properties"]["spec"]["description"] =
        generator.into_root_schema_for::<S>().to_value()["description"].take();
    let of = |description: &str, value: &str| json!({ "description": description, "const": value });
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("apiVersion".into(), of("The group and version.", API_VERSION));
        properties.insert("kind".into(), of("What the document is.", kind.as_str()));
    }
    let mut ordered = json!({ "$schema": schema["$schema"], "title": kind.as_str() });
    ordered["description"] = Value::Null;
    for field in ["type", "additionalProperties", "required", "properties"] {
        ordered[field] = schema[field].take();
    }
    unsupported::announce(&mut ordered);
    words(&mut ordered);
    ordered["description"] = ordered["properties"]["spec"]["description"].clone();
    ordered
}

/// Writes the words of an enum as editors read them: with one description of the field and one of each word. What marks
/// single words is gathered beside them.
fn words(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(words);
            let branches = fields.get("oneOf").and_then(Value::as_array);
            let Some(branches) = branches.filter(|all| all.iter().all(is_word)).cloned() else {
                return;
            };
            let each =
                |key: &str| branches.iter().map(|word| word[key].clone()).collect::<Vec<_>>();
            let later = branches.iter().filter_map(|word| {
                let instead = unsupported::instead(word)?;
                Some((word["const"].as_str()?.to_owned(), instead.into()))
            });
            let later: serde_json::Map<String, Value> = later.collect();
            fields.shift_remove("oneOf");
            fields.insert("enum".to_owned(), each("const").into());
            fields.insert("markdownEnumDescriptions".to_owned(), each("description").into());
            if !later.is_empty() {
                fields.insert(unsupported::LATER_WORDS.to_owned(), later.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(words),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_word(branch: &Value) -> bool {
    branch.get("const").is_some_and(Value::is_string) && branch.get("description").is_some()
}

#[cfg(test)]
mod tests;
