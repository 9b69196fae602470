//! The text of a VMDK's descriptor: settings, and one line for each extent.

use crate::adapter::image::vmdk::SECTOR;

/// What every descriptor begins with.
pub(super) const FIRST_LINE: &[u8] = b"# Disk DescriptorFile";

/// The most extents: each is an open file, and 1,024 of 2 GB make the largest disk of the programs that split disks.
const EXTENTS_MAX: usize = 1024;

/// What a descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// Its createType.
    pub(super) kind: String,
    /// What it says of a parent, if it has one.
    pub(super) parent: Option<String>,
    /// Whether it names keys.
    pub(super) encrypted: bool,
    /// The extents.
    pub(super) lines: Vec<Line>,
}

/// One extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Where it stands in the text, counted from 1.
    pub(super) number: usize,
    /// What the guest sees of it, in bytes.
    pub(super) length: u64,
    /// What it holds.
    pub(super) holds: Holds,
}

/// What an extent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Zeros, without a file.
    Zeros,
    /// The bytes of a file.
    Raw {
        /// The file's name.
        name: Vec<u8>,
        /// From which of its bytes on.
        from: u64,
    },
    /// A sparse extent.
    Sparse {
        /// The file's name.
        name: Vec<u8>,
    },
}

/// Reads a descriptor, up to its padding. The error names the line, counted from 1.
pub(super) fn parse(bytes: &[u8]) -> Result<Text, (usize, String)> {
    if !bytes.starts_with(FIRST_LINE) {
        let found = bytes[..bytes.len().min(16)].escape_ascii();
        return Err((1, format!("it starts with `{found}` instead of `# Disk DescriptorFile`")));
    }
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut kind = None;
    let mut parent_id = None;
    let mut text = Text { kind: String::new(), parent: None, encrypted: false, lines: Vec::new() };
    for (nth, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = nth + 1;
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if let Some(extent) = extent(line).map_err(|why| (number, why))? {
            if text.lines.len() == EXTENTS_MAX {
                return Err((number, format!("more than {EXTENTS_MAX} extents")));
            }
            let (length, holds) = extent;
            text.lines.push(Line { number, length, holds });
            continue;
        }
        let (key, value) = setting(line).map_err(|why| (number, why))?;
        let once = |held: &mut Option<String>| match held.replace(value.clone()) {
            Some(_) => Err((number, format!("{key} is there twice"))),
            None => Ok(()),
        };
        match key.to_ascii_lowercase().as_str() {
            "version" if !matches!(value.as_str(), "1" | "2" | "3") => {
                let value = value.escape_debug();
                return Err((number, format!("version {value} of descriptors is unknown")));
            }
            "createtype" => once(&mut kind)?,
            "parentcid" => once(&mut parent_id)?,
            "parentfilenamehint" if !value.is_empty() => {
                text.parent = Some(format!("`{}`", value.escape_debug()));
            }
            key if key.starts_with("encryptionkey") => text.encrypted = true,
            _ => {}
        }
    }
    text.kind = kind.ok_or((1, "it names no createType".to_owned()))?;
    let parent_id = parent_id.ok_or((1, "it has no parentCID".to_owned()))?;
    if !parent_id.eq_ignore_ascii_case("ffffffff") && text.parent.is_none() {
        text.parent = Some(format!("parentCID {}", parent_id.escape_debug()));
    }
    Ok(text)
}

/// Reads `KEY=VALUE` or `KEY="VALUE"`.
fn setting(line: &[u8]) -> Result<(String, String), String> {
    let line = String::from_utf8_lossy(line);
    let plain = |key: &str| !key.is_empty() && !key.contains([' ', '\t', '"']);
    let setting = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
    match setting {
        Some((key, value)) if plain(key) => {
            Ok((key.to_owned(), value.trim_matches('"').to_owned()))
        }
        _ => {
            let line: String = line.chars().take(80).collect();
            Err(format!("`{}` is neither a setting nor an extent", line.escape_debug()))
        }
    }
}

/// Reads `ACCESS SECTORS TYPE "FILE" OFFSET`; `None` where the line is none of an extent.
fn extent(line: &[u8]) -> Result<Option<(u64, Holds)>, String> {
    let quote = line.iter().position(|byte| *byte == b'"').unwrap_or(line.len());
    let head = String::from_utf8_lossy(&line[..quote]);
    let mut words = head.split_ascii_whitespace();
    match words.next() {
        Some("RW" | "RDONLY") => {}
        Some("NOACCESS") => return Err("an extent that nobody may read (`NOACCESS`)".to_owned()),
        _ => return Ok(None),
    }
    let sectors = words.next().unwrap_or_default();
    let length = bytes(sectors).filter(|length| *length > 0);
    let length =
        length.ok_or_else(|| format!("an extent of `{}` sectors", sectors.escape_debug()))?;
    let kind = words.next().unwrap_or_default();
    let malformed = || format!("the extent of type `{}` is malformed", kind.escape_debug());
    if words.next().is_some() {
        return Err(malformed());
    }
    // The file's name between quotes, and what stands behind it.
    let mut quoted = line[quote..].splitn(3, |byte| *byte == b'"').skip(1);
    let (name, rest) = (quoted.next().map(<[u8]>::to_vec), quoted.next().map(<[u8]>::trim_ascii));
    let holds = match (kind, name, rest) {
        ("ZERO", None, None) => Holds::Zeros,
        ("VMFS", Some(name), Some(b"")) => Holds::Raw { name, from: 0 },
        ("FLAT", Some(name), Some(from)) => {
            let from = std::str::from_utf8(from).ok().and_then(bytes).ok_or_else(malformed)?;
            Holds::Raw { name, from }
        }
        ("SPARSE", Some(name), Some(b"")) => Holds::Sparse { name },
        ("ZERO" | "VMFS" | "FLAT" | "SPARSE", ..) => return Err(malformed()),
        _ => return Err(format!("extents of type `{}` are not read", kind.escape_debug())),
    };
    Ok(Some((length, holds)))
}

/// Reads a number of sectors; `None` where it is none, or more bytes than a file can have.
fn bytes(sectors: &str) -> Option<u64> {
    let digits = !sectors.is_empty() && sectors.bytes().all(|byte| byte.is_ascii_digit());
    let sectors: u64 = digits.then(|| sectors.parse().ok())??;
    sectors.checked_mul(SECTOR).filter(|bytes| i64::try_from(*bytes).is_ok())
}
