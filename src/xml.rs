//! A small tree of XML elements: names without their prefixes, no document type, no entities but the five of XML, bounded.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Deeper than any descriptor nests; the tree is walked by recursion.
const DEPTH_MAX: usize = 64;
/// More elements than the descriptor of 1,000 VMs has.
const ELEMENTS_MAX: usize = 200_000;

/// Each is compared with those before it, so their number bounds the time.
const ATTRIBUTES_MAX: usize = 128;

/// Why a text is no tree.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// It is not written in UTF-8.
    #[error("it is no UTF-8 text")]
    Encoding,
    /// It is not well-formed.
    #[error("it is no well-formed XML at byte {at}")]
    Form {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It does what no descriptor needs.
    #[error("it {0}")]
    Refused(&'static str),
}

/// One element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    /// Its name without prefix.
    pub(crate) name: String,
    attributes: Vec<(String, String)>,
    text: String,
    /// The elements within.
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// Reads a document and returns its outermost element.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        let text = str::from_utf8(bytes).map_err(|_| XmlError::Encoding)?;
        let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
        // The outermost element becomes the child of a nameless one.
        let mut open = vec![Self::default()];
        let mut count = 0;
        loop {
            let at = reader.buffer_position();
            let event = reader
                .read_event()
                .map_err(|error| XmlError::Form { at, source: Box::new(error) })?;
            count += usize::from(matches!(event, Event::Start(_) | Event::Empty(_)));
            if open.len() > DEPTH_MAX || count > ELEMENTS_MAX {
                return Err(XmlError::Refused("has too many elements"));
            }
            let top = open.last_mut().expect("the nameless element is never closed");
            match event {
                Event::Start(start) => open.push(element(&start, at)?),
                Event::Empty(start) => top.children.push(element(&start, at)?),
                Event::End(_) => {
                    let closed = open.pop().expect("just looked at");
                    let Some(above) = open.last_mut() else {
                        return Err(XmlError::Refused("closes what it never opened"));
                    };
                    above.children.push(closed);
                }
                Event::Text(text) => top.text.push_str(&text.xml10_content()),
                Event::CData(text) => top.text.push_str(&text.xml10_content()),
                Event::GeneralRef(reference) => {
                    let char = reference
                        .resolve_char_ref()
                        .map_err(|error| XmlError::Form { at, source: Box::new(error) })?;
                    match (char, quick_xml::escape::resolve_predefined_entity(&reference)) {
                        (Some(char), _) => top.text.push(char),
                        (None, Some(text)) => top.text.push_str(text),
                        (None, None) => return Err(XmlError::Refused("uses an entity")),
                    }
                }
                Event::DocType(_) => return Err(XmlError::Refused("has a document type (DTD)")),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        let mut nameless = open.pop().filter(|_| open.is_empty()).unwrap_or_default();
        match (nameless.children.pop(), nameless.children.is_empty()) {
            (Some(root), true) => Ok(root),
            _ => Err(XmlError::Refused("ends before its elements do, or has no single one")),
        }
    }

    /// Returns an attribute, whatever its prefix.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns all attributes of a name, whatever their prefixes, in their order.
    pub(crate) fn attributes<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.attributes.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the elements of a name directly within.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Returns the first of them.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Returns its own text, without space around it.
    pub(crate) fn text(&self) -> &str {
        self.text.trim()
    }

    /// Returns the text of the first child of a name, without space around it; `None` where that leaves nothing.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(Self::text).filter(|text| !text.is_empty())
    }
}

fn element(start: &BytesStart<'_>, at: u64) -> Result<Element, XmlError> {
    let form = |source: Box<dyn std::error::Error + Send + Sync>| XmlError::Form { at, source };
    let mut attributes = Vec::new();
    for (number, attribute) in start.attributes().enumerate() {
        if number == ATTRIBUTES_MAX {
            return Err(XmlError::Refused("has an element with too many attributes"));
        }
        let attribute = attribute.map_err(|error| form(Box::new(error)))?;
        let value = attribute
            .normalized_value(quick_xml::XmlVersion::Implicit1_0)
            .map_err(|error| form(Box::new(error)))?;
        // A declaration of a prefix would shadow an attribute of the same name.
        if !attribute.key.0.starts_with("xmlns") {
            attributes.push((local(attribute.key.0), value.into_owned()));
        }
    }
    let name = local(start.name().0);
    Ok(Element { name, attributes, ..Element::default() })
}

fn local(name: &str) -> String {
    name.rsplit(':').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_keeps_text_and_attributes() {
        let root = Element::parse(
            "\u{feff}<?xml version=\"1.0\"?><o:A xmlns:o='u' o:x='1 &amp; &#50;'><!-- c -->\
             <o:B> a &lt;<![CDATA[<b>]]> </o:B><B/></o:A>"
                .as_bytes(),
        )
        .unwrap();
        assert_eq!((root.name.as_str(), root.attribute("x")), ("A", Some("1 & 2")));
        assert_eq!(root.text_of("B"), Some("a <<b>"));
        assert_eq!(root.all("B").count(), 2);
    }

    #[test]
    fn hostile_texts_are_refused() {
        let deep = "<a>".repeat(100) + &"</a>".repeat(100);
        let many: String = (0..1000).map(|at| format!(" a{at}=''")).collect::<Vec<_>>().concat();
        let many = format!("<a{many}/>");
        let wide = format!("<a>{}</a>", "<b/>".repeat(ELEMENTS_MAX));
        let cases = [
            ("too many", many.as_str()),
            ("too many", wide.as_str()),
            ("DTD", "<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><a>&x;</a>"),
            ("entity", "<a>&x;</a>"),
            ("well-formed", "<a b='&x;'/>"),
            ("well-formed", "<a></b>"),
            ("ends before", "<a><b></b>"),
            ("ends before", ""),
            ("ends before", "<a/><b/>"),
            ("too many", deep.as_str()),
            ("well-formed", "<a x='1' x='2'/>"),
            ("well-formed", "<a x='1"),
        ];
        for (expected, text) in cases {
            let error = Element::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        assert!(Element::parse(b"\xff\xfe<\0a\0").unwrap_err().to_string().contains("UTF-8"));
    }
}
