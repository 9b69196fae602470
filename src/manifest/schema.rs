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
    API_VERSION, Document, Kind, Lawful, Metadata, Migration, NetworkMapping, Plan, Provider, Spec,
    StorageMapping,
};

/// Returns the schema of a kind (draft 2020-12, without references).
pub fn schema(kind: Kind) -> &'static Value {
    &judge(kind).schema
}

/// Returns the validator of a kind, compiled once.
pub(crate) fn validator(kind: Kind) -> &'static Validator {
    &judge(kind).validator
}

/// Returns the files of `schemas/`, each with its name and its text.
pub fn files() -> Vec<(String, String)> {
    Kind::ALL
        .into_iter()
        .map(|kind| {
            let text = serde_json::to_string_pretty(schema(kind)).expect("a value always prints");
            (format!("{}.json", kind.as_str()), text + "\n")
        })
        .collect()
}

/// Reads a document that its schema let through.
pub(crate) fn typed(kind: Kind, value: Value) -> Result<(Metadata, Spec), serde_json::Error> {
    match kind {
        Kind::Provider => read::<Provider>(value, Spec::Provider),
        Kind::NetworkMapping => read::<NetworkMapping>(value, Spec::NetworkMapping),
        Kind::StorageMapping => read::<StorageMapping>(value, Spec::StorageMapping),
        Kind::Plan => read::<Plan>(value, Spec::Plan),
        Kind::Migration => read::<Migration>(value, Spec::Migration),
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
    static JUDGES: [OnceLock<Judge>; 5] = [const { OnceLock::new() }; 5];
    let (cell, make): (usize, fn(Kind) -> Judge) = match kind {
        Kind::Provider => (0, compile::<Provider>),
        Kind::NetworkMapping => (1, compile::<NetworkMapping>),
        Kind::StorageMapping => (2, compile::<StorageMapping>),
        Kind::Plan => (3, compile::<Plan>),
        Kind::Migration => (4, compile::<Migration>),
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
    let mut schema = settings.into_generator().into_root_schema_for::<Document<S>>().to_value();
    let of = |description: &str, value: &str| json!({ "description": description, "const": value });
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("apiVersion".into(), of("The group and version.", API_VERSION));
        properties.insert("kind".into(), of("What the document is.", kind.as_str()));
    }
    let mut ordered = json!({ "$schema": schema["$schema"], "title": kind.as_str() });
    ordered["description"] = schema["properties"]["spec"]["description"].clone();
    for field in ["type", "additionalProperties", "required", "properties"] {
        ordered[field] = schema[field].take();
    }
    ordered
}

#[cfg(test)]
mod tests;
