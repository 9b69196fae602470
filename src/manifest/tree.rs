//! YAML text becomes values with the place of every key and value.
//!
//! Scalars follow the core schema of YAML 1.2 (`no` and `1_000` are text). Duplicate keys, anchors, aliases, tags and keys
//! that are no text are findings. After a syntax error the next document is read. Never panics, never recurses.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};
use serde_json::{Map, Number, Value};

use crate::manifest::diagnostic::{Finding, Place};
use crate::manifest::message;
use crate::manifest::parse::Limits;

/// Where a value stands, and the key that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) key: Option<(u32, u32)>,
    pub(crate) value: (u32, u32),
}

/// One document.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) value: Value,
    pub(crate) spots: HashMap<String, Spot>,
    pub(crate) start: (u32, u32),
    /// The bytes of its root value.
    pub(crate) text: Range<usize>,
    /// What is wrong with it already: it cannot be trusted to mean what it says.
    pub(crate) findings: Vec<Finding>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    pub(crate) documents: Vec<Tree>,
    /// Syntax errors and exceeded limits: something of the file was not read.
    pub(crate) unread: Vec<Finding>,
}

/// Reads all documents of a file.
pub(crate) fn read(file: &str, text: &str, limits: &Limits) -> Trees {
    let options = granit_parser::options! { emit_comments: false, emit_unresolved_aliases: true };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut trees = Trees::default();
    let mut seen = Seen::default();
    loop {
        let failure = match document(file, &mut parser, limits, &mut seen) {
            Ok(Some(tree)) => {
                trees.documents.push(tree);
                continue;
            }
            Ok(None) => return trees,
            Err(failure) => failure,
        };
        trees.unread.push(failure.finding);
        // Every recovery counts as a document, so that a hostile file ends.
        if failure.fatal || !matches!(parser.proceed_next_document(), Ok(true)) {
            return trees;
        }
    }
}

/// Counts over the whole file.
#[derive(Default)]
struct Seen {
    documents: usize,
    nodes: usize,
}

struct Failure {
    finding: Finding,
    /// The rest of the file is not read.
    fatal: bool,
}

/// Reads one document; `None` at the end of the file.
fn document<'input>(
    file: &str,
    parser: &mut Parser<'input, StrInput<'input>>,
    limits: &Limits,
    seen: &mut Seen,
) -> Result<Option<Tree>, Failure> {
    let mut builder = Builder::new(file);
    seen.documents += 1;
    loop {
        let (event, span) = match parser.next_event() {
            None => return Ok(None),
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                let place = builder.place(position(error.marker()));
                let fatal = seen.documents >= limits.documents;
                return Err(Failure { finding: message::syntax(place, &error.info()), fatal });
            }
        };
        let at = position(&span.start);
        match event {
            Event::StreamEnd => return Ok(None),
            Event::DocumentStart(..) if seen.documents > limits.documents => {
                let finding = message::too_many_documents(builder.place(at), limits.documents);
                return Err(Failure { finding, fatal: true });
            }
            Event::DocumentStart(..) => builder.tree.start = at,
            Event::DocumentEnd => return Ok(Some(builder.tree)),
            event => {
                seen.nodes += 1;
                if seen.nodes > limits.nodes {
                    let finding = message::too_many_nodes(builder.place(at), limits.nodes);
                    return Err(Failure { finding, fatal: true });
                }
                builder.take(event, &span);
                if builder.frames.len() > limits.depth {
                    let finding = message::too_deep(builder.place(at), limits.depth);
                    let fatal = seen.documents >= limits.documents;
                    return Err(Failure { finding, fatal });
                }
            }
        }
    }
}

fn position(marker: &Marker) -> (u32, u32) {
    let line = u32::try_from(marker.line()).unwrap_or(u32::MAX);
    let column = u32::try_from(marker.col()).unwrap_or(u32::MAX - 1) + 1;
    (line, column)
}

/// A collection that is not complete yet.
struct Frame {
    pointer: String,
    /// It stands where a key belongs.
    is_key: bool,
    /// Nothing below it is kept: it belongs to a key that does not count.
    dropped: bool,
    content: Content,
}

enum Content {
    List(Vec<Value>),
    Mapping { map: Map<String, Value>, key: Slot },
}

/// The key that the next value belongs to.
enum Slot {
    Empty,
    Key { text: String, at: (u32, u32) },
    Refused,
}

struct Builder<'a> {
    file: &'a str,
    frames: Vec<Frame>,
    tree: Tree,
}

impl<'a> Builder<'a> {
    fn new(file: &'a str) -> Self {
        let tree = Tree {
            value: Value::Null,
            spots: HashMap::new(),
            start: (1, 1),
            text: 0..0,
            findings: Vec::new(),
        };
        Self { file, frames: Vec::new(), tree }
    }

    fn place(&self, (line, column): (u32, u32)) -> Place {
        Place { file: self.file.into(), line, column }
    }

    fn take(&mut self, event: Event<'_>, span: &Span) {
        let at = position(&span.start);
        if self.frames.is_empty() {
            let start = span.start.byte_offset().unwrap_or(0);
            self.tree.text = start..span.end.byte_offset().unwrap_or(start);
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.properties(anchor, tag.is_some(), at);
                if self.awaits_key() {
                    self.key(&text, at);
                } else {
                    let value = self.scalar(&text, style, at);
                    self.value(value, at);
                }
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                let place = self.place(at);
                self.tree.findings.push(message::anchor(place));
                if self.awaits_key() { self.refuse_key() } else { self.value(Value::Null, at) }
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.properties(anchor, tag.is_some(), at);
                self.open(Content::List(Vec::new()), at);
            }
            Event::MappingStart(_, anchor, tag) => {
                self.properties(anchor, tag.is_some(), at);
                self.open(Content::Mapping { map: Map::new(), key: Slot::Empty }, at);
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            // Neither nodes nor asked for in the parser's options.
            _ => {}
        }
    }

    fn properties(&mut self, anchor: usize, tagged: bool, at: (u32, u32)) {
        if anchor != 0 {
            let place = self.place(at);
            self.tree.findings.push(message::anchor(place));
        }
        if tagged {
            let place = self.place(at);
            self.tree.findings.push(message::tag(place));
        }
    }

    fn awaits_key(&self) -> bool {
        matches!(
            self.frames.last(),
            Some(Frame { content: Content::Mapping { key: Slot::Empty, .. }, .. })
        )
    }

    fn key(&mut self, text: &str, at: (u32, u32)) {
        let Some(Frame { pointer, content: Content::Mapping { map, key }, .. }) =
            self.frames.last_mut()
        else {
            return;
        };
        if !map.contains_key(text) {
            *key = Slot::Key { text: text.to_owned(), at };
            return;
        }
        *key = Slot::Refused;
        let first = self.tree.spots.get(&below(pointer, text)).and_then(|spot| spot.key);
        let place = self.place(at);
        self.tree.findings.push(message::duplicate_key(place, text, first.map(|(line, _)| line)));
    }

    fn refuse_key(&mut self) {
        if let Some(Frame { content: Content::Mapping { key, .. }, .. }) = self.frames.last_mut() {
            *key = Slot::Refused;
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: (u32, u32)) -> Value {
        if style != ScalarStyle::Plain {
            return Value::String(text.to_owned());
        }
        plain(text).unwrap_or_else(|| {
            let place = self.place(at);
            self.tree.findings.push(message::number(place, text));
            Value::Null
        })
    }

    /// Returns the pointer of the value that comes next, or `None` where it is dropped.
    fn next_pointer(&mut self, at: (u32, u32)) -> Option<String> {
        let (pointer, key) = match self.frames.last() {
            None => (String::new(), None),
            Some(frame) if frame.dropped => return None,
            Some(Frame { pointer, content, .. }) => match content {
                Content::List(items) => (format!("{pointer}/{}", items.len()), None),
                Content::Mapping { key: Slot::Key { text, at }, .. } => {
                    (below(pointer, text), Some(*at))
                }
                Content::Mapping { key: Slot::Empty | Slot::Refused, .. } => return None,
            },
        };
        self.tree.spots.insert(pointer.clone(), Spot { key, value: at });
        Some(pointer)
    }

    fn value(&mut self, value: Value, at: (u32, u32)) {
        let _ = self.next_pointer(at);
        self.put(value);
    }

    fn put(&mut self, value: Value) {
        match self.frames.last_mut().map(|frame| &mut frame.content) {
            None => self.tree.value = value,
            Some(Content::List(items)) => items.push(value),
            Some(Content::Mapping { map, key }) => match std::mem::replace(key, Slot::Empty) {
                Slot::Key { text, .. } => {
                    map.insert(text, value);
                }
                Slot::Empty | Slot::Refused => {}
            },
        }
    }

    fn open(&mut self, content: Content, at: (u32, u32)) {
        let is_key = self.awaits_key();
        if is_key {
            let place = self.place(at);
            self.tree.findings.push(message::key(place));
        }
        let pointer = if is_key { None } else { self.next_pointer(at) };
        let dropped = pointer.is_none();
        self.frames.push(Frame { pointer: pointer.unwrap_or_default(), is_key, dropped, content });
    }

    fn close(&mut self, span: &Span) {
        let Some(Frame { is_key, content, .. }) = self.frames.pop() else { return };
        if is_key {
            self.refuse_key();
            return;
        }
        self.put(match content {
            Content::List(items) => Value::Array(items),
            Content::Mapping { map, .. } => Value::Object(map),
        });
        if self.frames.is_empty() {
            let start = self.tree.text.start;
            self.tree.text.end = span.end.byte_offset().unwrap_or(start).max(start);
        }
    }
}

/// Appends a segment to a JSON pointer.
pub(crate) fn below(pointer: &str, segment: &str) -> String {
    if segment.contains(['~', '/']) {
        return format!("{pointer}/{}", segment.replace('~', "~0").replace('/', "~1"));
    }
    format!("{pointer}/{segment}")
}

/// Reads a plain scalar by the core schema; `None` for infinities and what is no number.
fn plain(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return None,
        _ => match number(text) {
            Some(number) => Value::Number(number?),
            None => Value::String(text.to_owned()),
        },
    })
}

/// Reads a number: `None` where the text is none, `Some(None)` where it has no finite value.
#[expect(clippy::option_option, reason = "no number, and a number without a value, differ")]
fn number(text: &str) -> Option<Option<Number>> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Some(None);
    }
    let radix = |prefix: &str, radix: u32| {
        let digits = text.strip_prefix(prefix)?;
        let valid = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
        valid.then(|| u64::from_str_radix(digits, radix).ok().map(Number::from))
    };
    if let Some(number) = radix("0o", 8).or_else(|| radix("0x", 16)) {
        return Some(number);
    }
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let positive = text.strip_prefix('+').unwrap_or(text);
        let whole = positive.parse::<i64>().map(Number::from);
        return Some(
            whole
                .or_else(|_| positive.parse::<u64>().map(Number::from))
                .ok()
                .or_else(|| text.parse().ok().and_then(Number::from_f64)),
        );
    }
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    let fits =
        all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    (fits && exponent_fits).then(|| text.parse().ok().and_then(count_or_fraction))
}

/// Nobody who writes `4.0` or `1e3` where a count belongs means anything but a count; JSON Schema says so, too.
fn count_or_fraction(value: f64) -> Option<Number> {
    let whole = (value.fract() == 0.0).then(|| format!("{value:.0}").parse::<i64>().ok()).flatten();
    whole.map(Number::from).or_else(|| Number::from_f64(value))
}
