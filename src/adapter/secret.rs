//! Secrets in files: read when they are used, so that a rotated one counts with the next use, and wiped from memory after it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::journal::record::Mend;
use crate::port::PortError;

/// A secret is a line or a key; a larger file is something else.
const SECRET_BYTES_MAX: usize = 64 << 10;

/// A secret. It has no `Display` and its `Debug` hides it, so that no text can hold it by mistake; it is wiped when it is dropped.
pub struct Secret(Zeroizing<String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Reads a secret from a file. A line end at its end is not a part of it; a file that is empty, is no UTF-8 or holds
    /// control characters is refused.
    pub fn read(path: &Path) -> Result<Self, PortError> {
        let refused = |what: String| {
            PortError::lasting(
                format!("the secret in {} {what}", path.display()),
                "write the secret alone into that file, and let ferry's user read it",
                Mend::Person,
            )
        };
        // Room for all of it at once: a buffer that grows leaves copies behind that nobody wipes.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
        let limit = u64::try_from(SECRET_BYTES_MAX).unwrap_or(u64::MAX);
        File::open(path)
            .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
            .map_err(|error| refused(format!("cannot be read: {error}")))?;
        if bytes.len() > SECRET_BYTES_MAX {
            return Err(refused("is longer than 64 KiB".to_owned()));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| refused("is no UTF-8".to_owned()))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(refused("is empty".to_owned()));
        }
        if text.chars().any(char::is_control) {
            return Err(refused("holds control characters or several lines".to_owned()));
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Returns the secret, for the one call that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (content, expected) in [
            (&b"s3cret"[..], Ok("s3cret")),
            (b"s3cret\n", Ok("s3cret")),
            (b" with blanks \r\n", Ok(" with blanks ")),
            (b"", Err("is empty")),
            (b"\n", Err("is empty")),
            (b"canary\nmore", Err("holds control characters or several lines")),
            (b"canary\xff", Err("is no UTF-8")),
        ] {
            std::fs::write(&path, content).unwrap();
            match (Secret::read(&path), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.expose(), expected),
                (Err(error), Err(expected)) => {
                    assert!(error.fault.text.ends_with(expected), "{error}");
                    assert!(!error.to_string().contains("canary"), "{error}");
                }
                (read, _) => panic!("{content:?}: {:?}", read.err()),
            }
        }
        std::fs::write(&path, vec![b'a'; SECRET_BYTES_MAX + 1]).unwrap();
        assert!(Secret::read(&path).err().unwrap().fault.text.ends_with("is longer than 64 KiB"));
        std::fs::remove_file(&path).unwrap();
        assert!(Secret::read(&path).err().unwrap().fault.text.contains("cannot be read"));
    }
}
