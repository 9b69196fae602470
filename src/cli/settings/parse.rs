//! One value of a setting, from its text.

use std::path::{Component, Path, PathBuf};

use jiff::SignedDuration;

use super::Refused;
use crate::adapter::git::Author;
use crate::domain::id::Instance;
use crate::domain::unit::Bytes;

const LABEL_LENGTH_MAX: usize = 63;

fn refused(text: impl Into<String>, hint: &str) -> Refused {
    Refused { text: text.into(), hint: Some(hint.to_owned()) }
}

/// Reads a path; a relative one starts at `base`.
pub(super) fn path(text: &str, base: &Path) -> Result<PathBuf, Refused> {
    if text.is_empty() || text.contains('\0') {
        return Err(refused("expected a path", "write `.` for the folder itself"));
    }
    let mut path = PathBuf::new();
    for part in base.join(text).components() {
        match part {
            // Taken by its text, as a shell does: the folder need not exist yet.
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part @ (Component::Prefix(_) | Component::RootDir | Component::Normal(_)) => {
                path.push(part);
            }
        }
    }
    Ok(path)
}

/// Reads where a libvirt is. It becomes an argument of `virsh`.
pub(super) fn libvirt_uri(text: &str, _base: &Path) -> Result<String, Refused> {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if text.is_empty() || text.starts_with('-') || text.contains(odd) {
        return Err(refused(
            format!("{text:?} is no URI of a libvirt"),
            "write it as `qemu:///system`, or leave the setting out: then nothing is started",
        ));
    }
    // `qemu:///system`; an authority, or a transport, names another machine.
    let (scheme, path) = text.split_once("://").unwrap_or((text, "/"));
    if scheme.contains('+') || !path.starts_with('/') {
        return Err(refused(
            format!(
                "{text:?} is a libvirt of another machine, which does not see the disks of this one"
            ),
            "run ferry there, and write `qemu:///system`",
        ));
    }
    Ok(text.to_owned())
}

/// Reads a truth value.
pub(super) fn truth(text: &str, _base: &Path) -> Result<bool, Refused> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(refused(format!("`{text}` is no truth value"), "write `true` or `false`")),
    }
}

/// Reads a folder within the repository.
pub(super) fn folder_within(text: &str, _base: &Path) -> Result<String, Refused> {
    let trimmed = text.trim_matches('/');
    let trimmed = if trimmed == "." { "" } else { trimmed };
    if text.starts_with('/') || trimmed.split('/').any(|part| part == ".." || part == ".") {
        return Err(refused(
            format!("`{text}` is no folder within the repository"),
            "write it as seen from the repository's root, such as `plans`",
        ));
    }
    Ok(trimmed.to_owned())
}

/// Reads `NAME <ADDRESS>`.
pub(super) fn author(text: &str, _base: &Path) -> Result<Author, Refused> {
    let parts = text.strip_suffix('>').and_then(|text| text.split_once('<'));
    match parts.map(|(name, email)| (name.trim(), email.trim())) {
        Some((name, email))
            if !name.is_empty()
                && !email.is_empty()
                && !text.contains(['\n', '\0'])
                && !email.contains(['<', '>'])
                && !name.contains('>') =>
        {
            Ok(Author { name: name.to_owned(), email: email.to_owned() })
        }
        _ => Err(refused(
            format!("`{text}` names no author"),
            "write it as `Ferry <ferry@example.org>`",
        )),
    }
}

/// Reads the name of a controller, which becomes a folder's name.
pub(super) fn instance(text: &str, _base: &Path) -> Result<Instance, Refused> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let valid = !text.is_empty()
        && text.len() <= LABEL_LENGTH_MAX
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if valid {
        return Ok(Instance::new(text));
    }
    Err(refused(
        format!("`{text}` cannot name an instance"),
        "use lower-case letters, digits and `-`, at most 63, with a letter or digit at both ends",
    ))
}

/// Reads a duration, at least a second.
pub(super) fn duration(text: &str, _base: &Path) -> Result<SignedDuration, Refused> {
    match text.parse::<SignedDuration>() {
        Ok(duration) if duration >= SignedDuration::from_secs(1) => Ok(duration),
        _ => Err(refused(
            format!("`{text}` is no duration of a second or more"),
            "write it as `60s`, `15m` or `1h 30m`",
        )),
    }
}

/// Reads a number from 1.
pub(super) fn count(text: &str, max: u32) -> Result<u32, Refused> {
    match text.parse::<u32>() {
        Ok(count) if (1..=max).contains(&count) => Ok(count),
        _ => Err(Refused {
            text: format!("expected a number from 1 to {max}, got `{text}`"),
            hint: None,
        }),
    }
}

/// Reads a size.
pub(super) fn size(text: &str, min: Bytes, max: Bytes) -> Result<Bytes, Refused> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => Some(0),
        "KiB" => Some(10),
        "MiB" => Some(20),
        "GiB" => Some(30),
        "TiB" => Some(40),
        _ => None,
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .zip(shift)
        .and_then(|(number, shift)| number.checked_mul(1 << shift));
    match bytes.map(Bytes) {
        Some(bytes) if bytes >= min && bytes <= max => Ok(bytes),
        Some(bytes) => {
            Err(Refused { text: format!("expected {min} to {max}, got {bytes}"), hint: None })
        }
        None => Err(refused(format!("`{text}` is no size"), "write it as `256MiB` or `1GiB`")),
    }
}
