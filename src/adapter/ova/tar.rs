//! The index of a tar archive: which member stands where. And the two headers that [`super::make`] needs.
//!
//! A crate would extract; all that is wanted here is names and offsets of an archive that nobody vouches for. So the reader
//! is small and refuses: names that lead out of the archive, links, devices, two members of one name, an archive without its
//! end. Sizes are those of ustar, in base 256 (GNU) or from a pax header.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Headers and members are counted in blocks.
pub(crate) const BLOCK: u64 = 512;

/// More members than any export has (a VM has at most some 260 disks); it bounds the time that a hostile archive takes.
const MEMBERS_MAX: usize = 20_000;
/// What oVirt calls the zeros that move a disk to a place that a file system likes: several members of one archive.
const PADDING: &str = "pad";
/// The longest extended header: two names and some numbers.
const EXTENDED_MAX: u64 = 64 << 10;

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, without a leading `./`.
    pub name: String,
    /// Where its content starts.
    pub offset: u64,
    /// How long its content is.
    pub size: u64,
}

/// Why an archive has no index.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The file cannot be read.
    #[error("cannot read the archive at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else that people send.
    #[error("it is {0} and no tar archive")]
    Other(&'static str),
    /// A header that is none.
    #[error("the header at byte {0} is damaged or no tar header")]
    Header(u64),
    /// The file ends before the archive does.
    #[error("it ends in the middle of the archive: {0}")]
    Truncated(String),
    /// A member that may not be there.
    #[error("the member {name:?} is {what}")]
    Refused {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Too many members.
    #[error("it has more than {MEMBERS_MAX} members")]
    Many,
}

/// Lists the regular files of an archive of `size` bytes, in order.
///
/// Folders, the `._*` files that tar makes on macOS and the `pad` before each disk of oVirt are left out.
pub fn index(file: &File, size: u64) -> Result<Vec<Member>, TarError> {
    let mut members: Vec<Member> = Vec::new();
    let mut names = std::collections::BTreeSet::new();
    let mut extended = Extended::default();
    let mut at = 0;
    for _ in 0..MEMBERS_MAX {
        let header: [u8; 512] = read(file, at, 512, size)?.try_into().expect("512 bytes were read");
        if header.iter().all(|&byte| byte == 0) {
            return Ok(members);
        }
        check(&header, at)?;
        let own_size = number(&header[124..136]).ok_or(TarError::Header(at))?;
        let kind = header[156];
        let offset = at + BLOCK;
        // What an extended header says is meant for the member behind it.
        let plain = !matches!(kind, b'x' | b'g' | b'L' | b'K');
        let length = extended.size.filter(|_| plain).unwrap_or(own_size);
        let end = offset.checked_add(length).filter(|&end| end <= size);
        let end = end.ok_or_else(|| {
            TarError::Truncated(format!("{} needs {length} bytes", name_of(&header)))
        })?;
        match kind {
            b'x' | b'L' => extended.read(kind, file, offset, length, size)?,
            // A header for all members and a long link target: nothing that counts here.
            b'g' | b'K' => {}
            b'5' => extended = Extended::default(),
            b'0' | b'\0' | b'7' => {
                let name = extended.name.take().unwrap_or_else(|| name_of(&header));
                extended = Extended::default();
                let name = checked_name(name)?;
                let file_name = name.rsplit('/').next().unwrap_or(&name);
                if !file_name.starts_with("._") && name != PADDING {
                    if !names.insert(name.clone()) {
                        return Err(TarError::Refused { name, what: "there twice" });
                    }
                    members.push(Member { name, offset, size: length });
                }
            }
            _ => {
                let name = extended.name.take().unwrap_or_else(|| name_of(&header));
                return Err(TarError::Refused { name, what: "a link or no plain file" });
            }
        }
        at = end.next_multiple_of(BLOCK);
    }
    Err(TarError::Many)
}

/// Makes the header of a plain file, readable for all, of the time 0.
pub(crate) fn header(name: &str, size: u64) -> io::Result<[u8; 512]> {
    let mut header = [0; 512];
    if name.is_empty() || name.len() > 100 {
        let text = format!("the member's name {name:?} has no 1 to 100 bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    if size < 1 << 33 {
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    } else {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
    }
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum = format!("{:06o}\0 ", sum(&header));
    header[148..156].copy_from_slice(sum.as_bytes());
    Ok(header)
}

/// What headers before a member say about it.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    size: Option<u64>,
}

impl Extended {
    fn read(
        &mut self,
        kind: u8,
        file: &File,
        offset: u64,
        length: u64,
        size: u64,
    ) -> Result<(), TarError> {
        let broken = || TarError::Header(offset - BLOCK);
        if length > EXTENDED_MAX {
            return Err(broken());
        }
        let bytes = read(file, offset, length, size)?;
        let text = String::from_utf8(bytes).map_err(|_| broken())?;
        if kind == b'L' {
            self.name = Some(text.trim_end_matches('\0').to_owned());
            return Ok(());
        }
        // pax: `LENGTH KEY=VALUE\n`, the length counting all of the line.
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (length, _) = rest.split_once(' ').ok_or_else(broken)?;
            let start = length.len() + 1;
            let length: usize = length.parse().map_err(|_| broken())?;
            let line = rest.get(start..length).ok_or_else(broken)?;
            let (key, value) = line.trim_end_matches('\n').split_once('=').ok_or_else(broken)?;
            match key {
                "path" => self.name = Some(value.to_owned()),
                "size" => self.size = Some(value.parse().map_err(|_| broken())?),
                // Sparse members are stored in pieces: their bytes are not the file's.
                _ if key.starts_with("GNU.sparse") => {
                    let name = self.name.clone().unwrap_or_default();
                    return Err(TarError::Refused { name, what: "stored as a sparse file" });
                }
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

fn read(file: &File, at: u64, length: u64, size: u64) -> Result<Vec<u8>, TarError> {
    if at.checked_add(length).is_none_or(|end| end > size) {
        return Err(TarError::Truncated(format!("nothing stands at byte {at}")));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| TarError::Header(at))?];
    file.read_exact_at(&mut bytes, at).map_err(|source| TarError::Read { at, source })?;
    Ok(bytes)
}

fn check(header: &[u8; 512], at: u64) -> Result<(), TarError> {
    if at == 0 {
        let other = match header {
            [0x1f, 0x8b, ..] => Some("compressed with gzip"),
            [b'B', b'Z', b'h', ..] => Some("compressed with bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("compressed with xz"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("compressed with zstd"),
            [b'P', b'K', 3, 4, ..] => Some("a ZIP archive"),
            [b'K', b'D', b'M', b'V', ..] => Some("a VMDK"),
            _ => None,
        };
        if let Some(other) = other {
            return Err(TarError::Other(other));
        }
    }
    let stated = number(&header[148..156]).ok_or(TarError::Header(at))?;
    if &header[257..262] != b"ustar" || stated != u64::from(sum(header)) {
        return Err(TarError::Header(at));
    }
    Ok(())
}

/// The sum of a header's bytes, its own field counted as spaces.
fn sum(header: &[u8; 512]) -> u32 {
    let own = 148..156;
    header
        .iter()
        .enumerate()
        .map(|(at, &byte)| u32::from(if own.contains(&at) { b' ' } else { byte }))
        .sum()
}

/// A number in octal digits, or in base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // The bit after it makes a negative number, which is far too large here.
        let first = u64::from(field[0] & 0x7f);
        return field[1..]
            .iter()
            .try_fold(first, |number, &byte| Some(number.checked_mul(256)? + u64::from(byte)));
    }
    let text = str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|c| c == ' ' || c == '\0');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// The name of a header itself, damaged characters replaced: [`checked_name`] refuses those.
fn name_of(header: &[u8; 512]) -> String {
    let text = |field: &[u8]| {
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let name = text(&header[..100]);
    // The prefix belongs to POSIX's ustar; GNU's `ustar  ` has other things there.
    let prefix = if header[262] == 0 { text(&header[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

fn checked_name(name: String) -> Result<String, TarError> {
    let plain = name.strip_prefix("./").unwrap_or(&name);
    match unsafe_name(plain) {
        Some(what) => Err(TarError::Refused { name, what }),
        None => Ok(plain.to_owned()),
    }
}

/// Tells what is wrong with a name that should stay inside an archive.
pub(crate) fn unsafe_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("without a name")
    } else if name.starts_with('/') || name.contains("://") {
        Some("named by an absolute path")
    } else if name.split('/').any(|part| part == ".." || part == "." || part.is_empty()) {
        Some("named by a path that leads astray")
    } else if name.contains(|c: char| c.is_control() || c == '\\' || c == '\u{fffd}') {
        Some("named with control characters, a backslash or no UTF-8")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn indexed(archive: &[u8]) -> Result<Vec<Member>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(archive).unwrap();
        index(&file, u64::try_from(archive.len()).unwrap()).map_err(|error| error.to_string())
    }

    fn entry(kind: u8, name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = header(name, u64::try_from(content.len()).unwrap()).unwrap();
        header[156] = kind;
        sign(&mut header);
        let mut entry = [&header, content].concat();
        entry.resize(entry.len().next_multiple_of(512), 0);
        entry
    }

    fn sign(header: &mut [u8; 512]) {
        let sum = format!("{:06o}\0 ", sum(header));
        header[148..156].copy_from_slice(sum.as_bytes());
    }

    fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
        [entries.concat(), vec![0; 1024]].concat()
    }

    #[test]
    fn members_are_found_where_they_stand() {
        let pax = b"30 path=long/name with spaces\n17 comment=hello\n";
        let entries = [
            entry(b'5', "folder/", b""),
            entry(b'0', "./a.ovf", b"<xml/>"),
            entry(b'0', "._a.ovf", b"junk"),
            entry(b'x', "PaxHeader", &pax[..30]),
            entry(b'0', "short", &[7; 600]),
            entry(b'L', "././@LongLink", b"a/very/long/name\0"),
            entry(b'0', "cut", b"z"),
            entry(b'0', "pad", &[0; 3072]),
            entry(b'0', "pad", &[0; 512]),
        ];
        let found: Vec<_> = indexed(&archive(&entries)).unwrap();
        let found: Vec<_> = found.iter().map(|m| (m.name.as_str(), m.offset, m.size)).collect();
        let expected = [
            ("a.ovf", 1024, 6),
            ("long/name with spaces", 4096, 600),
            ("a/very/long/name", 6656, 1),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn large_sizes_are_read_in_base_256() {
        let large = header("disk.vmdk", 9 << 30).unwrap();
        assert_eq!(number(&large[124..136]), Some(9 << 30));
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\x02"), Some(258));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert!(indexed(&large).unwrap_err().contains("needs 9663676416 bytes"));
    }

    #[test]
    fn hostile_archives_are_refused() {
        let good = entry(b'0', "a.ovf", b"x");
        let mut bent = good.clone();
        bent[0] = b'b';
        let cases: [(&str, Vec<u8>); 13] = [
            ("leads astray", archive(&[entry(b'0', "../etc/passwd", b"x")])),
            ("absolute", archive(&[entry(b'0', "/etc/passwd", b"x")])),
            ("leads astray", archive(&[entry(b'0', "a//b", b"x")])),
            ("control", archive(&[entry(b'0', "a\x1b[31m", b"x")])),
            ("a link", archive(&[entry(b'2', "link", b"")])),
            ("a link", archive(&[entry(b'1', "hard", b"")])),
            ("twice", archive(&[good.clone(), good.clone()])),
            ("damaged", archive(&[bent])),
            ("middle of the archive", good.clone()),
            ("middle of the archive", good[..700].to_vec()),
            ("gzip", [vec![0x1f, 0x8b, 8], vec![0; 2000]].concat()),
            ("damaged", vec![b'x'; 2048]),
            ("damaged", archive(&[entry(b'x', "p", b"99 path=x\n"), good])),
        ];
        for (expected, bytes) in cases {
            let error = indexed(&bytes).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        assert!(indexed(b"").unwrap_err().contains("middle"));
    }

    #[test]
    fn an_archive_of_endless_members_ends() {
        let folder = entry(b'5', "d/", b"");
        let endless = folder.repeat(MEMBERS_MAX + 1);
        assert!(indexed(&endless).unwrap_err().contains("more than"));
    }
}
