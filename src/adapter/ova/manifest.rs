//! The manifest of an archive (`.mf`): one line for each member with the hash of its stored bytes.

use std::collections::BTreeMap;

use crate::domain::vm::Checksum;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no text.
    #[error("the manifest is no UTF-8 text")]
    Encoding,
    /// A line that says nothing.
    #[error("line {line} of the manifest is no `SHA256(file)= hash`")]
    Line {
        /// Counts from 1.
        line: usize,
    },
    /// Two lines for one file.
    #[error("line {line} of the manifest names {name:?} again")]
    Twice {
        /// Counts from 1.
        line: usize,
        /// The file.
        name: String,
    },
}

/// What a manifest says, by the member's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    lines: BTreeMap<String, Checksum>,
}

impl Manifest {
    /// Reads `SHA256(name)= hex` lines, and those of SHA-1 and SHA-512; other algorithms are kept by their name.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text = str::from_utf8(bytes).map_err(|_| ManifestError::Encoding)?;
        let mut lines = BTreeMap::new();
        for (at, text) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = at + 1;
            if text.trim().is_empty() {
                continue;
            }
            let (name, checksum) = parse_line(text).ok_or(ManifestError::Line { line })?;
            if lines.insert(name.to_owned(), checksum).is_some() {
                return Err(ManifestError::Twice { line, name: name.to_owned() });
            }
        }
        Ok(Self { lines })
    }

    /// Returns what a member is compared with.
    pub fn checksum(&self, name: &str) -> Checksum {
        self.lines.get(name).cloned().unwrap_or(Checksum::Absent)
    }
}

fn parse_line(line: &str) -> Option<(&str, Checksum)> {
    let (algorithm, rest) = line.split_once('(')?;
    // From the right: a name may hold parentheses.
    let (name, hash) = rest.rsplit_once(')')?;
    let hash = hash.trim_start().strip_prefix('=')?.trim();
    let algorithm = algorithm.trim().to_ascii_uppercase();
    let known = !algorithm.is_empty()
        && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !known || hash.is_empty() || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match (algorithm.as_str(), hash.len()) {
        ("SHA1", 40) => Some((name, Checksum::Sha1(hash.to_ascii_lowercase()))),
        ("SHA256", 64) => Some((name, Checksum::Sha256(hash.to_ascii_lowercase()))),
        ("SHA512", 128) => Some((name, Checksum::Sha512(hash.to_ascii_lowercase()))),
        ("SHA1" | "SHA256" | "SHA512", _) => None,
        _ => Some((name, Checksum::Unchecked(algorithm))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_occur() {
        let hash = "AB".repeat(32);
        let (sha1, sha512) = ("0F".repeat(20), "1e".repeat(64));
        let text = format!(
            "SHA256(a (1).ovf)= {hash}\r\nSHA1 (b.vmdk) = {sha1}\nsha512(d)={sha512}\nMD5(e)= 00\n\n"
        );
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.checksum("a (1).ovf"), Checksum::Sha256("ab".repeat(32)));
        assert_eq!(manifest.checksum("b.vmdk"), Checksum::Sha1("0f".repeat(20)));
        assert_eq!(manifest.checksum("d"), Checksum::Sha512(sha512));
        assert_eq!(manifest.checksum("e"), Checksum::Unchecked("MD5".into()));
        assert_eq!(manifest.checksum("c.vmdk"), Checksum::Absent);
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let good = format!("SHA256(a)= {}\n", "0".repeat(64));
        let cases = [
            "SHA256(a)= 12".to_owned(),
            "SHA1(a)= 12".to_owned(),
            format!("SHA512(a)= {}", "0".repeat(64)),
            format!("{good}what"),
            format!("{good}SHA1(b)= xyz"),
            format!("{good}{good}"),
            "(a)= 12".to_owned(),
        ];
        for case in cases {
            assert!(Manifest::parse(case.as_bytes()).is_err(), "{case}");
        }
        assert!(Manifest::parse(b"\xff\xfe").is_err());
    }
}
