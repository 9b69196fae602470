//! The bytes of one file become documents and findings. Never fails, never panics: what can be read is read, and everything
//! that is wrong is found in one run.
//!
//! A file that does not parse as a whole ([`ParsedFile::parses`]) keeps its last good version in force; see
//! [`desired::load`](crate::desired::load).

use std::sync::Arc;

use crate::manifest::code::Code;
use crate::manifest::diagnostic::{Finding, Place};
use crate::manifest::document::Manifest;
use crate::manifest::judge::{self, Judged};
use crate::manifest::message;
use crate::manifest::tree::{self, Tree};

/// Bytes of one file: some ten thousand VMs, and little enough that a hostile file costs milliseconds.
pub const BYTES_MAX: usize = 1 << 20;
/// Documents of one file: above what one generated file of a large estate holds.
pub const DOCUMENTS_MAX: usize = 1000;
/// Nested collections: the deepest manifest has seven.
pub const DEPTH_MAX: usize = 32;
/// Keys and values of one file: what 1 MiB of ordinary manifests holds, several times over.
pub const NODES_MAX: usize = 250_000;
/// Findings of one file that are kept: nobody reads more, and a hostile file must not fill the memory with them.
const FINDINGS_MAX: usize = 500;

/// How much of a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: usize,
    /// Documents of the file.
    pub documents: usize,
    /// Nested collections of a document.
    pub depth: usize,
    /// Keys and values of the file.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: BYTES_MAX, documents: DOCUMENTS_MAX, depth: DEPTH_MAX, nodes: NODES_MAX }
    }
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedFile {
    /// The documents that could be read, in order.
    pub documents: Vec<Arc<Manifest>>,
    /// The documents that could be told apart and not be used.
    pub broken: Vec<Broken>,
    /// Everything that is wrong, in the order of the text; what concerns a document stands there as well.
    pub findings: Vec<Finding>,
    /// Whether the text was read to its end: it is UTF-8 and YAML and within the limits.
    pub parses: bool,
    /// Whether the text speaks of a `CutoverWindow`, also where it is broken.
    pub mentions_windows: bool,
    /// How long it is.
    pub bytes: usize,
}

impl ParsedFile {
    /// Stands for a file that is not read at all.
    pub fn refused(path: &str, reason: &str) -> Self {
        Self { findings: vec![message::refused(path, reason)], ..Self::default() }
    }

    /// Tells whether every document of the file could be read and used: this version counts until another one does.
    pub fn whole(&self) -> bool {
        self.parses && self.broken.is_empty()
    }
}

/// A document that cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    /// What it says that it is.
    pub kind: Option<String>,
    /// What it says that it is called.
    pub name: Option<String>,
    /// Where it starts.
    pub place: Place,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Reads one file.
pub fn parse_file(path: &str, bytes: &[u8], limits: &Limits) -> ParsedFile {
    let mut file = ParsedFile {
        mentions_windows: mentions_windows(bytes),
        bytes: bytes.len(),
        ..Default::default()
    };
    let text = match text(path, bytes, limits) {
        Ok(text) => text,
        Err(finding) => {
            file.findings.push(finding);
            return file;
        }
    };
    let trees = tree::read(path, text, limits);
    file.parses = trees.unread.is_empty();
    file.findings = trees.unread;
    for tree in trees.documents {
        if tree.value.is_null() && tree.findings.is_empty() {
            continue;
        }
        let digest = digest(text, &tree);
        match judge::judge(path, tree, digest) {
            Judged::Good(manifest) => {
                file.findings.extend(manifest.findings.iter().map(|(_, finding)| finding.clone()));
                file.documents.push(Arc::from(manifest));
            }
            Judged::Broken(broken) => {
                file.mentions_windows |= speaks_of_window(&broken);
                file.findings.extend(broken.findings.iter().cloned());
                file.broken.push(broken);
            }
        }
    }
    file.findings
        .sort_by(|left, right| (&left.place, &left.code).cmp(&(&right.place, &right.code)));
    if file.findings.len() > FINDINGS_MAX {
        let more = file.findings.len() - FINDINGS_MAX;
        file.findings.truncate(FINDINGS_MAX);
        let place = Place { file: path.into(), line: 0, column: 0 };
        file.findings.push(message::too_many_findings(place, more));
    }
    file
}

/// Returns the text without its byte order mark.
fn text<'a>(path: &str, bytes: &'a [u8], limits: &Limits) -> Result<&'a str, Finding> {
    if bytes.len() > limits.bytes {
        let place = Place { file: path.into(), line: 0, column: 0 };
        return Err(message::too_large(place, bytes.len(), limits.bytes));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
        let last = good.rsplit('\n').next().unwrap_or_default();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX - 1) + 1;
        let line = count(good.matches('\n').count());
        let column = count(last.chars().count());
        message::not_utf8(Place { file: path.into(), line, column })
    })
}

/// Digests the document's own text: comments before and after it and other documents of the file do not count.
fn digest(text: &str, tree: &Tree) -> String {
    let own = text.get(tree.text.clone()).unwrap_or(text).trim_end();
    blake3::hash(own.as_bytes()).to_hex().to_string()
}

/// Tells whether the text speaks of windows, in whatever encoding and however broken.
fn mentions_windows(bytes: &[u8]) -> bool {
    let letters: Vec<u8> =
        bytes.iter().filter(|byte| **byte != 0).map(u8::to_ascii_lowercase).collect();
    letters.windows(WINDOW.len()).any(|window| window == WINDOW)
}

const WINDOW: &[u8] = b"cutoverwindow";

fn speaks_of_window(broken: &Broken) -> bool {
    let unknown = broken.findings.iter().any(|finding| finding.code == Code::KindUnknown.as_str());
    let near = || broken.kind.as_deref().and_then(judge::nearest_kind);
    broken.kind.as_deref() == Some("CutoverWindow") || (unknown && near() == Some("CutoverWindow"))
}

#[cfg(test)]
mod tests;
