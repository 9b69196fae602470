//! What the design gives a meaning and this version does not honour: kinds, fields and values with the mark [`LATER`] in
//! their schema. A person who writes one is told so, and it blocks; nothing that is written is ignored. The mark goes when
//! what it marks is honoured.

use serde_json::Value;

use crate::manifest::schema::given;
use crate::manifest::tree::below;

/// The mark, in the schema of what is not honoured yet.
const LATER: &str = "x-ferry-later";

/// What to write instead of a value that is not honoured yet, beside its mark.
const INSTEAD: &str = "x-ferry-instead";

/// The words that are not honoured yet, each with what to write instead.
pub(crate) const LATER_WORDS: &str = "x-ferry-later-words";

/// Something that a document asks for in vain, and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsupported<'a> {
    /// The document itself.
    Kind,
    /// A field, and what to write instead.
    Field(String, &'a str),
    /// A word, and what to write instead.
    Value(String, &'a str),
}

/// Lists what a document asks for in vain, in the order in which it stands there.
pub(crate) fn find<'a>(schema: &'a Value, document: &'a Value) -> Vec<Unsupported<'a>> {
    let mut found = Vec::new();
    if schema.pointer("/properties/spec").is_some_and(is_later) {
        found.push(Unsupported::Kind);
    } else {
        walk(schema, document, String::new(), &mut found);
    }
    found
}

fn walk<'a>(
    schema: &'a Value,
    value: &'a Value,
    pointer: String,
    found: &mut Vec<Unsupported<'a>>,
) {
    let schema = given(schema);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let Some(schema) = schema.get("properties").and_then(|all| all.get(name)) else {
                    continue;
                };
                let pointer = below(&pointer, name);
                match instead(schema) {
                    None => walk(schema, value, pointer, found),
                    Some(instead) if asks(value) => {
                        found.push(Unsupported::Field(pointer, instead));
                    }
                    Some(_) => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter().enumerate() {
                walk(schema, item, format!("{pointer}/{index}"), found);
            }
        }
        Value::String(word) => {
            let later = schema.get(LATER_WORDS).and_then(|words| words.get(word));
            if let Some(instead) = later.and_then(Value::as_str) {
                found.push(Unsupported::Value(pointer, instead));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_later(schema: &Value) -> bool {
    schema.get(LATER) == Some(&Value::Bool(true))
}

/// Returns what to write instead of what has the mark; `None` where it has none.
pub(crate) fn instead(schema: &Value) -> Option<&str> {
    let instead = schema.get(INSTEAD).and_then(Value::as_str).unwrap_or("remove it");
    is_later(schema).then_some(instead)
}

/// Tells whether a value asks for anything: nothing and emptiness do not.
fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// Lets each description say that what it describes is not honoured yet.
pub(crate) fn announce(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get(LATER) == Some(&Value::Bool(true))
                && let Some(Value::String(text)) = fields.get_mut("description")
            {
                *text = format!("(Not supported yet) {text}");
            }
            fields.values_mut().for_each(announce);
        }
        Value::Array(items) => items.iter_mut().for_each(announce),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
