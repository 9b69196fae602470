//! One document is judged by the schema of its kind; each error is told at the place of the key or value that has to change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jsonschema::JsonType;
use jsonschema::error::{TypeKind, ValidationError, ValidationErrorKind};
use serde_json::Value;

use crate::manifest::diagnostic::{Finding, Place};
use crate::manifest::document::{API_VERSION, Kind, Manifest, Metadata, Spec};
use crate::manifest::parse::Broken;
use crate::manifest::tree::{Tree, below};
use crate::manifest::unsupported::Unsupported;
use crate::manifest::{message, schema, suggest, unsupported};

/// A document as far as it could be made out.
pub(crate) enum Judged {
    /// It is typed; what it asks for in vain stands in its findings.
    Good(Box<Manifest>),
    /// It cannot be used.
    Broken(Broken),
}

/// Judges one document.
pub(crate) fn judge(file: &str, tree: Tree, digest: String) -> Judged {
    let mut judge = Judge {
        file,
        tree: &tree,
        findings: Vec::new(),
        said: BTreeSet::new(),
        unsupported: Vec::new(),
    };
    let read = judge.read();
    let Judge { findings, unsupported, .. } = judge;
    let named = |pointer: &str| tree.value.pointer(pointer).and_then(Value::as_str);
    match read {
        Some((metadata, spec)) if tree.findings.is_empty() => {
            let shared: Arc<str> = file.into();
            let at = |(line, column)| Place { file: shared.clone(), line, column };
            let places = tree.spots.iter().map(|(path, spot)| (path.clone(), at(spot.value)));
            let places: BTreeMap<String, Place> = places.collect();
            let findings = unsupported.into_iter().zip(findings).collect();
            let Metadata { name, labels, annotations: _ } = metadata;
            Judged::Good(Box::new(Manifest {
                name,
                labels,
                spec,
                place: at(tree.start),
                places,
                digest,
                findings,
            }))
        }
        _ => Judged::Broken(Broken {
            kind: named("/kind").map(str::to_owned),
            name: named("/metadata/name").map(str::to_owned),
            place: Place { file: file.into(), line: tree.start.0, column: tree.start.1 },
            findings: tree.findings.into_iter().chain(findings).collect(),
        }),
    }
}

struct Judge<'a> {
    file: &'a str,
    tree: &'a Tree,
    findings: Vec<Finding>,
    /// Values that were spoken of already: what else is wrong with them follows from that.
    said: BTreeSet<String>,
    /// The fields that are not supported yet. Where the document can be used there are no other findings.
    unsupported: Vec<String>,
}

impl Judge<'_> {
    fn read(&mut self) -> Option<(Metadata, Spec)> {
        let value = &self.tree.value;
        if !value.is_object() {
            let found = kind_of(value);
            self.findings.push(message::root(self.at(self.tree.start), found));
            return None;
        }
        self.secrets(value, "");
        let kind = self.kind()?;
        let mut usable = self.said.is_empty();
        for unsupported in unsupported::find(schema::schema(kind), value) {
            self.unsupported(kind, value, unsupported);
        }
        for error in schema::validator(kind).iter_errors(value) {
            usable = false;
            let before = self.findings.len();
            self.explain(kind, &error);
            let page = page(kind, error.instance_path().as_str());
            let new = self.findings.iter_mut().skip(before);
            new.filter(|finding| finding.hint.is_none()).for_each(|finding| {
                finding.hint = Some(format!("`ferry explain {page}` says what belongs here"));
            });
        }
        if !usable {
            if self.findings.is_empty() && self.tree.findings.is_empty() {
                let place = self.at(self.tree.start);
                self.findings.push(message::format(place, "the document", "its schema says"));
            }
            return None;
        }
        match schema::typed(kind, value.clone()) {
            Ok(read) => Some(read),
            Err(error) => {
                let place = self.at(self.tree.start);
                self.findings.push(message::unreadable(place, &error.to_string()));
                None
            }
        }
    }

    fn unsupported(&mut self, kind: Kind, document: &Value, unsupported: Unsupported<'_>) {
        let (pointer, finding) = match unsupported {
            Unsupported::Kind => {
                let finding = message::kind_unsupported(self.place("/kind"), kind.as_str());
                ("/kind".to_owned(), finding)
            }
            Unsupported::Field(pointer, instead) => {
                let finding =
                    message::field_unsupported(self.key_place(&pointer), &last(&pointer), instead);
                (pointer, finding)
            }
            Unsupported::Value(pointer, instead) => {
                let word = document.pointer(&pointer).and_then(Value::as_str).unwrap_or_default();
                let owner = owner(&pointer);
                let place = self.place(&pointer);
                let finding = message::value_unsupported(place, &owner, word, instead);
                (pointer, finding)
            }
        };
        self.findings.push(finding);
        self.unsupported.push(pointer);
    }

    /// Returns the kind, where it is one that is honoured.
    fn kind(&mut self) -> Option<Kind> {
        let version = self.tree.value.get("apiVersion");
        let kind = self.tree.value.get("kind");
        let mut refused = false;
        match version.and_then(Value::as_str) {
            Some(API_VERSION) => {}
            Some(other) if other.starts_with("forklift.konveyor.io/") => {
                self.findings.push(message::forklift(self.place("/apiVersion"), other));
                return None;
            }
            other => {
                let other = other.or(version.map(kind_of));
                self.findings.push(message::api_version(self.place("/apiVersion"), other));
                refused = true;
            }
        }
        let Some(kind) = kind.and_then(Value::as_str) else {
            self.findings.push(message::kind_missing(self.place("/kind")));
            return None;
        };
        if let Some(kind) = Kind::find(kind) {
            return (!refused).then_some(kind);
        }
        let place = self.place("/kind");
        self.findings.push(message::kind_unknown(place, kind, nearest_kind(kind)));
        None
    }

    /// Looks for secrets everywhere. Depth is bounded by the limit of the tree.
    fn secrets(&mut self, value: &Value, pointer: &str) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let pointer = below(pointer, key);
                    let scalar = !matches!(value, Value::Object(_) | Value::Array(_) | Value::Null);
                    let in_url = value.as_str().is_some_and(has_password);
                    if (scalar && is_secret(key)) || in_url {
                        self.findings.push(message::secret(self.key_place(&pointer), key));
                        self.said.insert(pointer);
                    } else {
                        self.secrets(value, &pointer);
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.secrets(item, &format!("{pointer}/{index}"));
                }
            }
            Value::String(text) if has_password(text) => {
                self.findings.push(message::secret(self.place(pointer), &last(pointer)));
                self.said.insert(pointer.to_owned());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn explain(&mut self, kind: Kind, error: &ValidationError<'_>) {
        let pointer = error.instance_path().as_str();
        let place = self.place(pointer);
        // A value that is no value already: what its schema says of it follows from that.
        if self.said.contains(pointer) || self.tree.findings.iter().any(|f| f.place == place) {
            return;
        }
        let owner = owner(pointer);
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                self.unknown_fields(kind, pointer, error.schema_path().as_str(), unexpected);
            }
            ValidationErrorKind::Required { property } => {
                self.missing(pointer, property.as_str().unwrap_or_default());
            }
            ValidationErrorKind::Type { kind: expected } => {
                self.said.insert(pointer.to_owned());
                let place = self.place(pointer);
                let found = kind_of(error.instance());
                self.findings.push(match expected_types(expected) {
                    expected if expected.is_empty() => {
                        message::out_of_place(self.key_place(pointer), &owner)
                    }
                    expected => message::wrong_type(place, &owner, &expected, found),
                });
            }
            ValidationErrorKind::AnyOf { context }
            | ValidationErrorKind::OneOfNotValid { context } => {
                self.alternatives(kind, pointer, context);
            }
            ValidationErrorKind::Enum { options } => {
                let words = options.as_array().into_iter().flatten().filter_map(Value::as_str);
                self.choices(pointer, error.instance(), &words.collect::<Vec<_>>());
            }
            ValidationErrorKind::OneOfMultipleValid { .. } => {
                let fields = schema::schema(kind).pointer(error.schema_path().as_str());
                let fields = required_fields(fields);
                let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
                let place = self.place(pointer);
                self.findings.push(message::exactly_one(place, &owner, &fields));
            }
            ValidationErrorKind::Pattern { pattern } => {
                self.said.insert(pointer.to_owned());
                let place = self.place(pointer);
                self.findings.push(message::format(place, &owner, pattern_words(pattern)));
            }
            ValidationErrorKind::MinLength { .. }
            | ValidationErrorKind::MaxLength { .. }
            | ValidationErrorKind::Minimum { .. }
            | ValidationErrorKind::Maximum { .. } => {
                if self.said.insert(pointer.to_owned()) {
                    let place = self.place(pointer);
                    self.findings.push(bound(error.kind(), place, &owner));
                }
            }
            _ => {
                let place = self.place(pointer);
                let rule = format!("its schema's `{}` says", error.kind().keyword());
                self.findings.push(message::format(place, &owner, &rule));
            }
        }
    }

    fn missing(&mut self, pointer: &str, field: &str) {
        if self.said.insert(below(pointer, field)) {
            let place = self.key_place(pointer);
            self.findings.push(message::field_missing(place, field, &owner(pointer)));
        }
    }

    fn unknown_fields(&mut self, kind: Kind, pointer: &str, schema_path: &str, names: &[String]) {
        let parent = schema_path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let known = schema::schema(kind).pointer(&format!("{parent}/properties"));
        let known: Vec<&str> = match known {
            Some(Value::Object(fields)) => fields.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        for name in names {
            let at = below(pointer, name);
            if self.said.insert(at.clone()) {
                let near = suggest::nearest(name, known.iter().copied());
                let place = self.key_place(&at);
                let owner = owner(pointer);
                self.findings.push(message::field_unknown(place, name, &owner, near, &known));
            }
        }
    }

    /// Tells what is wrong where a value fits none of several shapes.
    fn alternatives(&mut self, kind: Kind, pointer: &str, context: &[Vec<ValidationError<'_>>]) {
        let here = |error: &ValidationError<'_>| error.instance_path().as_str() == pointer;
        // A branch that another `type` selects is not what was meant, nor is the one of a field that was left out.
        let branches: Vec<&Vec<ValidationError<'_>>> = context
            .iter()
            .filter(|branch| !branch.iter().any(|error| constant(error, |_| true).is_some()))
            .filter(|branch| !branch.iter().any(|error| here(error) && only_null(error)))
            .collect();
        match branches.as_slice() {
            [branch] => branch.iter().for_each(|error| self.explain(kind, error)),
            [] => {}
            branches => {
                let needed: Option<Vec<&str>> = branches
                    .iter()
                    .map(|branch| branch.iter().find_map(|error| required(error, here)))
                    .collect();
                match needed.as_deref() {
                    Some([field, others @ ..]) if others.iter().all(|other| other == field) => {
                        self.missing(pointer, field);
                    }
                    Some(fields) => {
                        let place = self.place(pointer);
                        self.findings.push(message::exactly_one(place, &owner(pointer), fields));
                    }
                    None => {}
                }
            }
        }
    }

    fn choices(&mut self, pointer: &str, found: &Value, choices: &[&str]) {
        if !self.said.insert(pointer.to_owned()) {
            return;
        }
        let (place, owner) = (self.place(pointer), owner(pointer));
        self.findings.push(match found.as_str() {
            Some(word) => {
                let near = suggest::nearest(word, choices.iter().copied());
                message::choice(place, &owner, &message::shown(word), near, choices)
            }
            None => message::choice(place, &owner, kind_of(found), None, choices),
        });
    }

    fn at(&self, (line, column): (u32, u32)) -> Place {
        Place { file: self.file.into(), line, column }
    }

    /// Returns where a value stands, or what it would stand in.
    fn place(&self, pointer: &str) -> Place {
        self.spot(pointer, |spot| spot.value)
    }

    /// Returns where the key of a value stands.
    fn key_place(&self, pointer: &str) -> Place {
        self.spot(pointer, |spot| spot.key.unwrap_or(spot.value))
    }

    fn spot(&self, pointer: &str, of: fn(&crate::manifest::tree::Spot) -> (u32, u32)) -> Place {
        let mut pointer = pointer;
        loop {
            if let Some(spot) = self.tree.spots.get(pointer) {
                return self.at(of(spot));
            }
            match pointer.rsplit_once('/') {
                Some((parent, _)) => pointer = parent,
                None => return self.at(self.tree.start),
            }
        }
    }
}

/// Returns the kind that a word nearly means.
pub(crate) fn nearest_kind(word: &str) -> Option<&'static str> {
    suggest::nearest(word, Kind::ALL.map(Kind::as_str))
}

/// Tells whether a key promises a secret.
pub(crate) fn is_secret(key: &str) -> bool {
    const ENDS: [&str; 9] = [
        "password",
        "passwd",
        "passphrase",
        "token",
        "secret",
        "secretkey",
        "apikey",
        "privatekey",
        "accesskey",
    ];
    let letters: String =
        key.chars().filter(char::is_ascii_alphanumeric).map(|l| l.to_ascii_lowercase()).collect();
    ENDS.iter().any(|end| letters.ends_with(end))
}

/// Tells whether a text is a URL with a password in it.
fn has_password(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    })
}

fn constant<'a>(
    error: &'a ValidationError<'_>,
    here: impl Fn(&ValidationError<'_>) -> bool,
) -> Option<&'a str> {
    match error.kind() {
        ValidationErrorKind::Constant { expected_value } if here(error) => expected_value.as_str(),
        _ => None,
    }
}

fn required<'a>(
    error: &'a ValidationError<'_>,
    here: impl Fn(&ValidationError<'_>) -> bool,
) -> Option<&'a str> {
    match error.kind() {
        ValidationErrorKind::Required { property } if here(error) => property.as_str(),
        _ => None,
    }
}

fn only_null(error: &ValidationError<'_>) -> bool {
    matches!(error.kind(), ValidationErrorKind::Type { kind } if expected_types(kind).is_empty())
}

fn required_fields(alternatives: Option<&Value>) -> Vec<String> {
    let alternatives = alternatives.and_then(Value::as_array).into_iter().flatten();
    let lists = alternatives.filter_map(|branch| branch.get("required")?.as_array());
    lists.flatten().filter_map(|field| field.as_str().map(str::to_owned)).collect()
}

/// Names the types that fit, without "nothing"; empty where only that fits.
fn expected_types(expected: &TypeKind) -> String {
    let name = |kind: JsonType| match kind {
        JsonType::Null => None,
        JsonType::Boolean => Some("`true` or `false`"),
        JsonType::Integer | JsonType::Number => Some("a number"),
        JsonType::String => Some("text"),
        JsonType::Array => Some("a list"),
        JsonType::Object => Some("a mapping"),
    };
    match expected {
        TypeKind::Single(kind) => name(*kind).unwrap_or_default().to_owned(),
        TypeKind::Multiple(kinds) => kinds.iter().filter_map(name).collect::<Vec<_>>().join(" or "),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn pattern_words(pattern: &str) -> &'static str {
    if pattern.contains("[hms]") {
        "a time such as `10m` or `1h 30m`"
    } else if pattern.contains("now|") {
        "`now`, `never` or a time with its offset such as `2026-11-28T22:00:00+01:00`"
    } else if pattern.contains("{4}-") {
        "a day such as `2026-12-31`"
    } else {
        "an RFC 1123 label: lower-case letters, digits and `-`, with a letter or digit at both ends"
    }
}

fn bound(kind: &ValidationErrorKind, place: Place, owner: &str) -> Finding {
    match kind {
        ValidationErrorKind::MinLength { limit: 1 } => message::empty(place, owner),
        ValidationErrorKind::MinLength { limit } => {
            message::format(place, owner, &format!("at least {limit} characters"))
        }
        ValidationErrorKind::MaxLength { limit } => {
            message::format(place, owner, &format!("at most {limit} characters"))
        }
        ValidationErrorKind::Minimum { limit } => {
            message::format(place, owner, &format!("a number of at least {limit}"))
        }
        ValidationErrorKind::Maximum { limit } => {
            message::format(place, owner, &format!("a number of at most {limit}"))
        }
        kind => message::format(place, owner, &format!("its schema's `{}` says", kind.keyword())),
    }
}

fn last(pointer: &str) -> String {
    let mut segments = pointer.rsplit('/');
    let name = segments.find(|segment| segment.parse::<usize>().is_err()).unwrap_or_default();
    name.replace("~1", "/").replace("~0", "~")
}

/// Names the page that explains the value at a pointer: `Plan.vms.name`.
fn page(kind: Kind, pointer: &str) -> String {
    let pointer = pointer.strip_prefix("/spec").unwrap_or(pointer);
    let is_field = |step: &&str| step.chars().all(|letter| letter.is_ascii_alphabetic());
    let steps = pointer.split('/').filter(|step| !step.is_empty()).filter(is_field);
    std::iter::once(kind.as_str()).chain(steps).collect::<Vec<_>>().join(".")
}

/// Names the value at a pointer as a person would: `spec.vms[0].name`.
fn owner(pointer: &str) -> String {
    if pointer.is_empty() {
        return "the document".to_owned();
    }
    let mut path = String::new();
    for segment in pointer.split('/').skip(1) {
        if segment.parse::<usize>().is_ok() {
            path.push_str(&format!("[{segment}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&segment.replace("~1", "/").replace("~0", "~"));
        }
    }
    message::shown(&path)
}
