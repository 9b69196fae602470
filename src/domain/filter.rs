//! The expression language over VMs: `name ~ "web*" and disks > 1 and memory >= 8GiB`.
//!
//! ```text
//! expression = term { "or" term }
//! term       = factor { "and" factor }
//! factor     = "not" factor | "(" expression ")" | comparison
//! comparison = field ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) value
//! value      = "quoted text" | word | number [unit]
//! ```
//!
//! `~` compares with a pattern in which `*` stands for anything and `?` for one character. What a VM does not say matches
//! nothing but `!=`.

use std::fmt;

use crate::domain::unit::Bytes;
use crate::domain::vm::{Firmware, Power, Vm};

/// Longer expressions are refused.
pub const LENGTH_MAX: usize = 4096;

/// How deep parentheses and `not` may be nested.
const DEPTH_MAX: usize = 64;

/// An expression that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Node);

/// Why an expression was not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {text}")]
pub struct FilterError {
    /// Where, in characters from 1.
    pub column: usize,
    /// What is wrong and what was expected.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Or(Vec<Node>),
    And(Vec<Node>),
    Not(Box<Node>),
    Is { field: Field, compare: Compare, value: Value },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
    Like,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
}

/// The fields, each with its name, what it is, and how it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Path,
    Id,
    Power,
    Firmware,
    Os,
    Network,
    Cpus,
    Memory,
    Disks,
    Nics,
    Capacity,
    Stored,
}

/// Names of the fields, for texts and for `--help`.
const FIELDS: [(&str, Field); 13] = [
    ("name", Field::Name),
    ("path", Field::Path),
    ("id", Field::Id),
    ("power", Field::Power),
    ("firmware", Field::Firmware),
    ("os", Field::Os),
    ("network", Field::Network),
    ("cpus", Field::Cpus),
    ("memory", Field::Memory),
    ("disks", Field::Disks),
    ("nics", Field::Nics),
    ("capacity", Field::Capacity),
    ("stored", Field::Stored),
];

/// What a VM says of a field.
enum Said {
    Texts(Vec<String>),
    Number(Option<u64>),
}

impl Field {
    fn of(self, vm: &Vm) -> Said {
        let text = |text: &str| Said::Texts(vec![text.to_owned()]);
        let count = |count: usize| Said::Number(u64::try_from(count).ok());
        match self {
            Self::Name => text(&vm.name),
            Self::Path => text(&vm.path),
            Self::Id => text(&vm.id.to_string()),
            Self::Power => text(match vm.power {
                Power::On => "on",
                Power::Off => "off",
            }),
            Self::Firmware => Said::Texts(
                vm.firmware
                    .map(|firmware| match firmware {
                        Firmware::Bios => "bios".to_owned(),
                        Firmware::Efi => "efi".to_owned(),
                    })
                    .into_iter()
                    .collect(),
            ),
            Self::Os => Said::Texts(vm.os.iter().cloned().collect()),
            Self::Network => Said::Texts(vm.nics.iter().map(|nic| nic.network.clone()).collect()),
            Self::Cpus => Said::Number(vm.cpus.map(u64::from)),
            Self::Memory => Said::Number(vm.memory.map(|memory| memory.0)),
            Self::Disks => count(vm.disks.len()),
            Self::Nics => count(vm.nics.len()),
            Self::Capacity => Said::Number(Some(vm.capacity().0)),
            Self::Stored => {
                let stored: Option<Bytes> = vm.disks.iter().map(|disk| disk.stored).sum();
                Said::Number(stored.map(|stored| stored.0))
            }
        }
    }

    fn is_number(self) -> bool {
        match self {
            Self::Cpus
            | Self::Memory
            | Self::Disks
            | Self::Nics
            | Self::Capacity
            | Self::Stored => true,
            Self::Name
            | Self::Path
            | Self::Id
            | Self::Power
            | Self::Firmware
            | Self::Os
            | Self::Network => false,
        }
    }
}

impl Filter {
    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > LENGTH_MAX {
            let text = format!("the expression is longer than {LENGTH_MAX} bytes");
            return Err(FilterError { column: 1, text });
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
        let node = parser.expression()?;
        match parser.peek() {
            Some((column, token)) => Err(FilterError {
                column,
                text: format!("expected `and`, `or` or the end, found {token}"),
            }),
            None => Ok(Self(node)),
        }
    }

    /// Tells whether a VM is meant.
    pub fn matches(&self, vm: &Vm) -> bool {
        self.0.matches(vm)
    }

    /// Lists the fields.
    pub fn fields() -> String {
        FIELDS.map(|(name, _)| name).join(", ")
    }
}

impl Node {
    fn matches(&self, vm: &Vm) -> bool {
        match self {
            Self::Or(nodes) => nodes.iter().any(|node| node.matches(vm)),
            Self::And(nodes) => nodes.iter().all(|node| node.matches(vm)),
            Self::Not(node) => !node.matches(vm),
            Self::Is { field, compare, value } => match (field.of(vm), value) {
                (Said::Number(None), _) => *compare == Compare::Unequal,
                (Said::Number(Some(found)), Value::Number(wanted)) => match compare {
                    Compare::Equal | Compare::Like => found == *wanted,
                    Compare::Unequal => found != *wanted,
                    Compare::Less => found < *wanted,
                    Compare::AtMost => found <= *wanted,
                    Compare::More => found > *wanted,
                    Compare::AtLeast => found >= *wanted,
                },
                (Said::Texts(found), Value::Text(wanted)) => match compare {
                    Compare::Equal => found.contains(wanted),
                    Compare::Unequal => !found.contains(wanted),
                    Compare::Like => found.iter().any(|found| like(wanted, found)),
                    // The parser lets only numbers be ordered.
                    Compare::Less | Compare::AtMost | Compare::More | Compare::AtLeast => false,
                },
                (Said::Number(_), Value::Text(_)) | (Said::Texts(_), Value::Number(_)) => false,
            },
        }
    }
}

/// Compares with a pattern, in time that is at most the product of both lengths.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(letter) if *letter == '?' || *letter == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == '*')
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "`{word}`"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Sign(sign) => write!(f, "`{sign}`"),
        }
    }
}

/// The signs, longer ones first.
const SIGNS: [&str; 9] = ["==", "!=", "<=", ">=", "<", ">", "~", "(", ")"];

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let mut tokens = Vec::new();
    let letters: Vec<char> = text.chars().collect();
    let mut at = 0;
    while let Some(letter) = letters.get(at) {
        let column = at + 1;
        let is_word = |letter: &char| letter.is_alphanumeric() || "-_./:*?".contains(*letter);
        if letter.is_whitespace() {
            at += 1;
        } else if matches!(letter, '"' | '\'') {
            let rest = &letters[at + 1..];
            let Some(length) = rest.iter().position(|other| other == letter) else {
                let text = format!("the text that begins here does not end: {letter} is missing");
                return Err(FilterError { column, text });
            };
            tokens.push((column, Token::Text(rest[..length].iter().collect())));
            at += length + 2;
        } else if is_word(letter) {
            let length = letters[at..].iter().take_while(|letter| is_word(letter)).count();
            tokens.push((column, Token::Word(letters[at..at + length].iter().collect())));
            at += length;
        } else {
            let rest: String = letters[at..].iter().take(2).collect();
            let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) else {
                let text = format!("{letter:?} means nothing here; put quotes around text");
                return Err(FilterError { column, text });
            };
            tokens.push((column, Token::Sign(sign)));
            at += sign.len();
        }
    }
    Ok(tokens)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<(usize, &Token)> {
        self.tokens.get(self.at).map(|(column, token)| (*column, token))
    }

    fn next(&mut self, expected: &str) -> Result<(usize, Token), FilterError> {
        let found = self.tokens.get(self.at).cloned();
        self.at += 1;
        found.ok_or_else(|| {
            let column = self.tokens.last().map_or(1, |(column, _)| column + 1);
            FilterError { column, text: format!("the expression ends, expected {expected}") }
        })
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some((_, Token::Word(found))) if found.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn expression(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.term()?];
        while self.takes("or") {
            nodes.push(self.term()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Or(nodes) })
    }

    fn term(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.factor()?];
        while self.takes("and") {
            nodes.push(self.factor()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::And(nodes) })
    }

    fn factor(&mut self) -> Result<Node, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let column = self.peek().map_or(1, |(column, _)| column);
            let text = format!("nested more than {DEPTH_MAX} levels deep");
            return Err(FilterError { column, text });
        }
        let node = if self.takes("not") {
            Node::Not(Box::new(self.factor()?))
        } else if matches!(self.peek(), Some((_, Token::Sign("(")))) {
            self.at += 1;
            let node = self.expression()?;
            let (column, token) = self.next("`)`")?;
            if token != Token::Sign(")") {
                return Err(FilterError { column, text: format!("expected `)`, found {token}") });
            }
            node
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn comparison(&mut self) -> Result<Node, FilterError> {
        let (column, token) = self.next("a field")?;
        let named = |(name, _): &&(&str, Field)| token == Token::Word((*name).to_owned());
        let Some((name, field)) = FIELDS.iter().find(named) else {
            let text = format!("{token} is no field: {}", Filter::fields());
            return Err(FilterError { column, text });
        };
        let (column, token) = self.next("a comparison such as `==` or `~`")?;
        let compare = match &token {
            Token::Sign("==") => Compare::Equal,
            Token::Sign("!=") => Compare::Unequal,
            Token::Sign("<") => Compare::Less,
            Token::Sign("<=") => Compare::AtMost,
            Token::Sign(">") => Compare::More,
            Token::Sign(">=") => Compare::AtLeast,
            Token::Sign("~") => Compare::Like,
            Token::Sign(_) | Token::Word(_) | Token::Text(_) => {
                let text = format!("expected a comparison such as `==` or `~`, found {token}");
                return Err(FilterError { column, text });
            }
        };
        let orders =
            matches!(compare, Compare::Less | Compare::AtMost | Compare::More | Compare::AtLeast);
        let wrong = if field.is_number() { compare == Compare::Like } else { orders };
        if wrong {
            let kind = if field.is_number() { "a number" } else { "text" };
            return Err(FilterError {
                column,
                text: format!("`{name}` is {kind}, {token} does not fit"),
            });
        }
        let (column, token) = self.next("a value")?;
        let value = match token {
            Token::Word(word) if field.is_number() => match number(&word) {
                Some(number) => Value::Number(number),
                None => {
                    let text = format!("`{word}` is no number; sizes are written as `8GiB`");
                    return Err(FilterError { column, text });
                }
            },
            Token::Word(word) | Token::Text(word) if !field.is_number() => Value::Text(word),
            token => {
                return Err(FilterError {
                    column,
                    text: format!("expected a value, found {token}"),
                });
            }
        };
        Ok(Node::Is { field: *field, compare, value })
    }
}

/// Reads a number with a binary unit.
fn number(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (digits, unit) = text.split_at(digits);
    let power = match unit {
        "" | "B" => 0,
        "KiB" | "Ki" => 10,
        "MiB" | "Mi" => 20,
        "GiB" | "Gi" => 30,
        "TiB" | "Ti" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << power)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::id::{DiskKey, SourceVm};
    use crate::domain::vm::{Checksum, Claim, Disk, DiskFormat, Nic, SourceDisk};

    fn vm() -> Vm {
        let disk = |capacity| Disk {
            key: DiskKey::new("d"),
            capacity: Bytes::mib(capacity),
            stored: None,
            format: DiskFormat::Empty,
            checksum: Checksum::Absent,
            source: SourceDisk(String::new()),
        };
        Vm {
            id: SourceVm::Ova { archive: "a".into(), system: "web-01".into() },
            name: "web-01".to_owned(),
            path: "web.ova/web-01".to_owned(),
            power: Power::Off,
            firmware: Some(Firmware::Efi),
            secure_boot: false,
            tpm: false,
            cpus: Some(4),
            cores_per_socket: None,
            memory: Some(Bytes::mib(8192)),
            os: None,
            disks: vec![disk(1024), disk(2048)],
            nics: vec![Nic { network: "VM Network".to_owned(), mac: None }],
            claim: Claim::Impossible,
            hosted: crate::domain::vm::Hosted::default(),
        }
    }

    #[test]
    fn expressions_say_which_vms_are_meant() {
        for meant in [
            "name == web-01",
            "name ~ 'web*' and disks > 1 and memory >= 8GiB",
            "name ~ web-0? and not power == on",
            "(cpus < 2 or cpus == 4) and firmware == efi",
            "network == \"VM Network\" and capacity == 3GiB",
            "os != windows and stored != 5",
            "NOT os == windows OR name == x",
        ] {
            assert!(Filter::parse(meant).unwrap().matches(&vm()), "{meant}");
        }
        for other in ["os ~ '*'", "stored < 1TiB", "memory > 8GiB", "name ~ 'web'", "nics == 2"] {
            assert!(!Filter::parse(other).unwrap().matches(&vm()), "{other}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told_with_its_column() {
        let texts = [
            "",
            "nam == x",
            "name = x",
            "name == x y",
            "(name == x",
            "memory > lots",
            "name > a",
            "cpus ~ 4",
            "name == 'x",
            "name ==",
            "memory > 99999999999TiB",
            "not",
            "name == (",
        ];
        let told = texts.map(|text| Filter::parse(text).unwrap_err().to_string() + "\n");
        expect![[r#"
            column 1: the expression ends, expected a field
            column 1: `nam` is no field: name, path, id, power, firmware, os, network, cpus, memory, disks, nics, capacity, stored
            column 6: '=' means nothing here; put quotes around text
            column 11: expected `and`, `or` or the end, found `y`
            column 11: the expression ends, expected `)`
            column 10: `lots` is no number; sizes are written as `8GiB`
            column 6: `name` is text, `>` does not fit
            column 6: `cpus` is a number, `~` does not fit
            column 9: the text that begins here does not end: ' is missing
            column 7: the expression ends, expected a value
            column 10: `99999999999TiB` is no number; sizes are written as `8GiB`
            column 2: the expression ends, expected a field
            column 9: expected a value, found `(`
        "#]].assert_eq(&told.concat());
        let deep = "not ".repeat(100) + "name == x";
        assert!(Filter::parse(&deep).unwrap_err().text.contains("deep"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,60}", words in "(name|and|or|not|==|~|[(]|[)]|'| |8GiB|\\*){0,30}") {
            for text in [text, words] {
                if let Ok(filter) = Filter::parse(&text) {
                    filter.matches(&vm());
                }
            }
        }

        /// A pattern against the obvious recursion.
        #[test]
        fn patterns_are_what_people_mean(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            fn slow(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern.first(), text.first()) {
                    (None, None) => true,
                    (Some(b'*'), _) => slow(&pattern[1..], text) || (!text.is_empty() && slow(pattern, &text[1..])),
                    (Some(b'?'), Some(_)) => slow(&pattern[1..], &text[1..]),
                    (Some(one), Some(other)) => one == other && slow(&pattern[1..], &text[1..]),
                    _ => false,
                }
            }
            prop_assert_eq!(like(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
