//! What properties, results and faults are made of: a tree of typed values, and how it is written as XML.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;

/// A reference to a managed object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ref {
    /// The managed type.
    pub(super) kind: &'static str,
    pub(super) id: Arc<str>,
}

impl Ref {
    pub(super) fn new(kind: &'static str, id: &str) -> Self {
        Self { kind, id: id.into() }
    }
}

/// A value of the API's type system.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A property that the type has and this object has not.
    Unset,
    /// The name of a simple type (`xsd:string`, an enumeration) and the text.
    Plain(&'static str, Cow<'static, str>),
    Ref(Ref),
    Data(Data),
    /// The declared type of the elements, and they.
    List(&'static str, Vec<Value>),
}

/// A data object. Fields stand in the order of the wire.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Data {
    pub(super) kind: &'static str,
    fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq)]
struct Field {
    name: &'static str,
    value: Value,
    /// Whether the declared type is a base type or any, so that the type must be said.
    typed: bool,
}

impl Data {
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, fields: Vec::new() }
    }

    /// Adds a field whose declared type is the value's.
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push(Field { name, value: value.into(), typed: false });
        self
    }

    /// Adds a field whose declared type is a base of the value's.
    #[must_use]
    pub(super) fn sub(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push(Field { name, value: value.into(), typed: true });
        self
    }

    /// Adds a field of any type.
    #[must_use]
    pub(super) fn any(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push(Field { name, value, typed: true });
        self
    }

    /// Notes fields that the type has and this object has not.
    #[must_use]
    pub(super) fn without(mut self, names: &[&'static str]) -> Self {
        for name in names {
            self.fields.push(Field { name, value: Value::Unset, typed: false });
        }
        self
    }

    /// Adds a field before the first of some others, or at the end where none of them is there.
    #[must_use]
    pub(super) fn insert_before(
        mut self,
        others: &[&str],
        name: &'static str,
        value: impl Into<Value>,
    ) -> Self {
        let place = self.fields.iter().position(|field| others.contains(&field.name));
        let field = Field { name, value: value.into(), typed: false };
        self.fields.insert(place.unwrap_or(self.fields.len()), field);
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|field| field.name == name).map(|field| &field.value)
    }
}

/// A path names what the type does not have.
#[derive(Debug)]
pub(super) struct NoSuchProperty;

impl Value {
    /// Follows a path into data objects, and into lists by `[key]`.
    pub(super) fn at(&self, path: &str) -> Result<&Self, NoSuchProperty> {
        let mut value = self;
        for step in path.split('.').filter(|step| !step.is_empty()) {
            let (name, key) = match step.split_once('[') {
                Some((name, key)) => (name, Some(key.strip_suffix(']').ok_or(NoSuchProperty)?)),
                None => (step, None),
            };
            value = value.field(name)?;
            if let Some(key) = key {
                value = value.element(key)?;
            }
        }
        Ok(value)
    }

    fn field(&self, name: &str) -> Result<&Self, NoSuchProperty> {
        match self {
            Self::Unset => Ok(self),
            Self::Data(data) => data.get(name).ok_or(NoSuchProperty),
            Self::Plain(..) | Self::Ref(_) | Self::List(..) => Err(NoSuchProperty),
        }
    }

    /// Finds the element of a list whose `key` it is; the key of a text may stand in quotes.
    pub(super) fn element(&self, key: &str) -> Result<&Self, NoSuchProperty> {
        let Self::List(_, elements) = self else { return Err(NoSuchProperty) };
        let key = key.trim_matches('"');
        let found = elements.iter().find(|element| match element {
            Self::Data(data) => {
                matches!(data.get("key"), Some(Self::Plain(_, text)) if *text == key)
            }
            Self::Unset | Self::Plain(..) | Self::Ref(_) | Self::List(..) => false,
        });
        Ok(found.unwrap_or(&Self::Unset))
    }

    /// Returns the references that it is made of.
    pub(super) fn refs(&self) -> Vec<Ref> {
        match self {
            Self::Ref(to) => vec![to.clone()],
            Self::List(_, elements) => elements.iter().flat_map(Self::refs).collect(),
            Self::Unset | Self::Plain(..) | Self::Data(_) => Vec::new(),
        }
    }

    /// Writes it as an element; an unset one is left out. `typed` says the type, as for a value of any type.
    pub(super) fn write(&self, out: &mut String, name: &str, typed: bool) {
        match self {
            Self::Unset => {}
            Self::Plain(kind, text) => {
                open(out, name, typed.then_some(*kind));
                escape(out, text);
                close(out, name);
            }
            Self::Ref(to) => {
                let _ = write!(out, "<{name} type=\"{}\"", to.kind);
                if typed {
                    out.push_str(" xsi:type=\"ManagedObjectReference\"");
                }
                out.push('>');
                escape(out, &to.id);
                close(out, name);
            }
            Self::Data(data) => {
                open(out, name, typed.then_some(data.kind));
                data.write_fields(out);
                close(out, name);
            }
            Self::List(kind, elements) if typed => {
                let bare = kind.trim_start_matches("xsd:");
                let first = bare.chars().next().map(|c| c.to_ascii_uppercase());
                let _ = write!(out, "<{name} xsi:type=\"ArrayOf");
                out.extend(first);
                let _ = write!(out, "{}\">", bare.get(1..).unwrap_or_default());
                for element in elements {
                    element.write(out, bare, element.is_sub_of(kind));
                }
                close(out, name);
            }
            Self::List(kind, elements) => {
                for element in elements {
                    element.write(out, name, element.is_sub_of(kind));
                }
            }
        }
    }

    fn is_sub_of(&self, declared: &str) -> bool {
        match self {
            Self::Data(data) => data.kind != declared,
            Self::Plain(kind, _) => declared == "xsd:anyType" && *kind != declared,
            Self::Ref(_) | Self::Unset | Self::List(..) => false,
        }
    }
}

impl Data {
    pub(super) fn write_fields(&self, out: &mut String) {
        for Field { name, value, typed } in &self.fields {
            value.write(out, name, *typed);
        }
    }
}

fn open(out: &mut String, name: &str, kind: Option<&str>) {
    out.push('<');
    out.push_str(name);
    if let Some(kind) = kind {
        out.push_str(" xsi:type=\"");
        out.push_str(kind);
        out.push('"');
    }
    out.push('>');
}

fn close(out: &mut String, name: &str) {
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

/// Writes text so that XML reads it back; what XML 1.0 cannot say becomes a question mark.
pub(super) fn escape(out: &mut String, text: &str) {
    // Nearly all texts are made of letters and digits.
    let plain =
        |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'&' | b'<' | b'>' | b'"');
    if text.bytes().all(plain) {
        out.push_str(text);
        return;
    }
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\t' | '\n' => out.push(char),
            char if char < ' ' || char == '\u{fffe}' || char == '\u{ffff}' => out.push('?'),
            char => out.push(char),
        }
    }
}

pub(super) fn int(number: impl Into<i64>) -> Value {
    Value::Plain("xsd:int", number.into().to_string().into())
}

pub(super) fn short(number: impl Into<i64>) -> Value {
    Value::Plain("xsd:short", number.into().to_string().into())
}

pub(super) fn long(number: u64) -> Value {
    Value::Plain("xsd:long", number.to_string().into())
}

pub(super) fn time(at: Timestamp) -> Value {
    Value::Plain("xsd:dateTime", at.to_string().into())
}

/// A value of an enumeration.
pub(super) fn word(kind: &'static str, word: &'static str) -> Value {
    Value::Plain(kind, word.into())
}

pub(super) fn list(
    kind: &'static str,
    elements: impl IntoIterator<Item = impl Into<Value>>,
) -> Value {
    Value::List(kind, elements.into_iter().map(Into::into).collect())
}

pub(super) fn refs<'a>(to: impl IntoIterator<Item = &'a Ref>) -> Value {
    list("ManagedObjectReference", to.into_iter().cloned())
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Plain("xsd:boolean", if value { "true" } else { "false" }.into())
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Plain("xsd:string", text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Plain("xsd:string", text.into())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

impl From<Ref> for Value {
    fn from(to: Ref) -> Self {
        Self::Ref(to)
    }
}

impl From<&Ref> for Value {
    fn from(to: &Ref) -> Self {
        Self::Ref(to.clone())
    }
}

impl From<Data> for Value {
    fn from(data: Data) -> Self {
        Self::Data(data)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unset, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value, typed: bool) -> String {
        let mut out = String::new();
        value.write(&mut out, "val", typed);
        out
    }

    #[test]
    fn types_are_said_where_the_declared_one_is_another() {
        let disk = Data::new("VirtualDisk")
            .with("key", int(2000))
            .sub("backing", Data::new("VirtualDiskFlatVer2BackingInfo").with("fileName", "a<b>"))
            .without(&["connectable"]);
        let mut odd = String::new();
        escape(&mut odd, "a\u{1}\r\n\"é'&");
        assert_eq!(odd, "a?&#13;\n&quot;é'&amp;");
        let devices = list("VirtualDevice", [disk]);
        let expected = "<val xsi:type=\"ArrayOfVirtualDevice\"><VirtualDevice xsi:type=\"VirtualDisk\">\
            <key>2000</key><backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\"><fileName>a&lt;b&gt;</fileName>\
            </backing></VirtualDevice></val>";
        assert_eq!(written(&devices, true), expected);
        let hardware = Value::from(Data::new("VirtualHardware").with("device", devices));
        assert!(
            written(&hardware, false).starts_with("<val><device xsi:type=\"VirtualDisk\"><key>")
        );
        assert_eq!(
            written(&list("xsd:string", ["x"]), true),
            "<val xsi:type=\"ArrayOfString\"><string>x</string></val>"
        );
        assert_eq!(
            written(&hardware.at("device[2000].key").unwrap().clone(), true),
            "<val xsi:type=\"xsd:int\">2000</val>"
        );
        assert_eq!(*hardware.at("device[7].key").unwrap(), Value::Unset);
        assert_eq!(*hardware.at("device[2000].connectable.connected").unwrap(), Value::Unset);
        assert!(hardware.at("device.key").is_err());
        assert!(hardware.at("devices").is_err());
    }
}
