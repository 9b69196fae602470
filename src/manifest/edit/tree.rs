//! A YAML text as a tree of what it says, each node with the bytes that it stands in.

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};

use super::EditError;

/// Deeper than any manifest, and far from the end of the stack.
const DEPTH_MAX: usize = 64;

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    /// Anchor and tag, as written into the tree by the parser.
    properties: (usize, Option<String>),
    /// Whether a collection is written in brackets.
    pub(super) flow: bool,
    /// The first byte.
    pub(super) start: usize,
    /// The byte behind the last one; of a block collection somewhere behind it.
    pub(super) end: usize,
}

/// What a node says.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Scalar { text: String, plain: bool },
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
    Alias(usize),
}

impl Node {
    /// Makes a node that stands nowhere.
    pub(super) fn plain(value: Value) -> Self {
        Self { value, properties: (0, None), flow: false, start: 0, end: 0 }
    }

    pub(super) fn text(text: &str) -> Self {
        Self::plain(Value::Scalar { text: text.to_owned(), plain: false })
    }

    pub(super) fn mapping<const N: usize>(entries: [(&str, Self); N]) -> Self {
        let entries = entries.into_iter().map(|(key, value)| (Self::text(key), value));
        Self::plain(Value::Mapping(entries.collect()))
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Sequence(_) | Value::Mapping(_) | Value::Alias(_) => None,
        }
    }

    pub(super) fn items(&self) -> &[Self] {
        match &self.value {
            Value::Sequence(items) => items,
            Value::Scalar { .. } | Value::Mapping(_) | Value::Alias(_) => &[],
        }
    }

    fn entries(&self) -> &[(Self, Self)] {
        match &self.value {
            Value::Mapping(entries) => entries,
            Value::Scalar { .. } | Value::Sequence(_) | Value::Alias(_) => &[],
        }
    }

    pub(super) fn position(&self, key: &str) -> Option<usize> {
        self.entries().iter().position(|(found, _)| found.as_text() == Some(key))
    }

    pub(super) fn entry(&self, key: &str) -> Option<(&Self, &Self)> {
        let (key, value) = self.entries().get(self.position(key)?)?;
        Some((key, value))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let position = self.position(key)?;
        match &mut self.value {
            Value::Mapping(entries) => entries.get_mut(position).map(|(_, value)| value),
            Value::Scalar { .. } | Value::Sequence(_) | Value::Alias(_) => None,
        }
    }

    /// Compares what two nodes say, wherever they stand. A quoted scalar and a plain one say the same only where the plain
    /// one can be nothing but text; numbers and words such as `true` therefore differ.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        if self.properties != other.properties {
            return false;
        }
        match (&self.value, &other.value) {
            (Value::Scalar { text, plain }, Value::Scalar { text: other, plain: other_plain }) => {
                text == other && (plain == other_plain || super::quoted(text) == *text)
            }
            (Value::Sequence(items), Value::Sequence(others)) => {
                items.len() == others.len()
                    && items.iter().zip(others).all(|(item, other)| item.says_the_same(other))
            }
            (Value::Mapping(entries), Value::Mapping(others)) => {
                entries.len() == others.len()
                    && entries.iter().zip(others).all(|((key, value), (other_key, other))| {
                        key.says_the_same(other_key) && value.says_the_same(other)
                    })
            }
            (Value::Alias(anchor), Value::Alias(other)) => anchor == other,
            (
                Value::Scalar { .. } | Value::Sequence(_) | Value::Mapping(_) | Value::Alias(_),
                _,
            ) => false,
        }
    }
}

/// Parses all documents of a text.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, EditError> {
    let mut events = Events { parser: Parser::new_from_str(text) };
    let mut documents = Vec::new();
    while let Some((event, span)) = events.next()? {
        match event {
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            Event::StreamEnd => break,
            event => documents.push(node(&mut events, event, span, 0)?),
        }
    }
    Ok(documents)
}

struct Events<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
}

impl<'a> Events<'a> {
    /// Returns the next event that is no comment.
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, EditError> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(found)) => return Ok(Some(found)),
                Some(Err(error)) => {
                    let line = error.marker().line();
                    return Err(EditError::Syntax { line, text: error.info().clone() });
                }
            }
        }
    }

    /// Returns the next node of a collection; `None` at its end.
    fn child(&mut self, depth: usize) -> Result<Result<Node, usize>, EditError> {
        let unfinished = || EditError::Syntax { line: 0, text: "it ends too early".to_owned() };
        let (event, span) = self.next()?.ok_or_else(unfinished)?;
        match event {
            Event::SequenceEnd | Event::MappingEnd => Ok(Err(bytes(&span).1)),
            event => node(self, event, span, depth).map(Ok),
        }
    }
}

fn node(
    events: &mut Events<'_>,
    event: Event<'_>,
    span: Span,
    depth: usize,
) -> Result<Node, EditError> {
    if depth > DEPTH_MAX {
        return Err(EditError::TooDeep);
    }
    let (start, mut end) = bytes(&span);
    let mut flow = false;
    let mut properties = (0, None);
    let mut set = |anchor: usize, tag: Option<String>| properties = (anchor, tag);
    let value = match event {
        Event::Scalar(text, style, anchor, tag) => {
            set(anchor, tag.map(|tag| tag.original()));
            Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
        }
        Event::SequenceStart(style, anchor, tag) => {
            set(anchor, tag.map(|tag| tag.original()));
            flow = style == StructureStyle::Flow;
            let mut items = Vec::new();
            end = loop {
                match events.child(depth + 1)? {
                    Ok(item) => items.push(item),
                    Err(end) => break end,
                }
            };
            Value::Sequence(items)
        }
        Event::MappingStart(style, anchor, tag) => {
            set(anchor, tag.map(|tag| tag.original()));
            flow = style == StructureStyle::Flow;
            let mut entries = Vec::new();
            end = loop {
                match events.child(depth + 1)? {
                    Ok(key) => match events.child(depth + 1)? {
                        Ok(value) => entries.push((key, value)),
                        Err(end) => break end,
                    },
                    Err(end) => break end,
                }
            };
            Value::Mapping(entries)
        }
        Event::Alias(anchor) => Value::Alias(anchor),
        _ => {
            return Err(EditError::Syntax {
                line: span.start.line(),
                text: "unexpected".to_owned(),
            });
        }
    };
    Ok(Node { value, properties, flow, start, end })
}

fn bytes(span: &Span) -> (usize, usize) {
    let range = span.byte_range().unwrap_or_default();
    (range.start, range.end)
}
