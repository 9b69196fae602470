//! The bytes on the wire after the handshake (NBD `doc/proto.md`; everything is big-endian).

use std::io::Read;

use crate::adapter::nbd::failure::{Failure, words};

/// Reads a range.
pub(super) const READ: u16 = 0;
/// Ends the connection; there is no reply.
pub(super) const DISCONNECT: u16 = 2;
/// Asks what a range holds.
pub(super) const BLOCK_STATUS: u16 = 7;

/// A chunk without content, which ends a reply.
pub(super) const NONE: u16 = 0;
/// A chunk of data and where it belongs.
pub(super) const OFFSET_DATA: u16 = 1;
/// A range of zeros.
pub(super) const OFFSET_HOLE: u16 = 2;
/// What a range holds.
pub(super) const STATUS: u16 = 5;
/// What the types of all error chunks have in common.
const ERROR_BIT: u16 = 1 << 15;
/// An error at a place.
const ERROR_OFFSET: u16 = ERROR_BIT | 2;

/// The longest payload of an error chunk: a text of 4,096 bytes, and as much again for types that come later.
const ERROR_BYTES_MAX: u32 = 8192;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;
const DONE_FLAG: u16 = 1;

/// Writes a request without flags and data.
pub(super) fn request(command: u16, cookie: u64, offset: u64, length: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// How a reply, or a part of one, begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Which request it answers.
    pub(super) cookie: u64,
    /// What follows.
    pub(super) kind: Kind,
}

/// What follows a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The whole answer: all data where a read succeeded, else nothing.
    Simple {
        /// 0, or why the request failed.
        error: u32,
    },
    /// A part of the answer.
    Chunk {
        /// Whether it is the last one.
        done: bool,
        /// What it holds.
        kind: u16,
        /// The bytes of it.
        length: u32,
    },
}

/// Reads a header.
pub(super) fn header(from: &mut dyn Read) -> Result<Header, Failure> {
    let magic = u32(from)?;
    match magic {
        SIMPLE_MAGIC => {
            let error = u32(from)?;
            Ok(Header { cookie: u64(from)?, kind: Kind::Simple { error } })
        }
        CHUNK_MAGIC => {
            let (flags, kind) = (u16(from)?, u16(from)?);
            let (cookie, length) = (u64(from)?, u32(from)?);
            let done = flags & DONE_FLAG != 0;
            Ok(Header { cookie, kind: Kind::Chunk { done, kind, length } })
        }
        _ => Err(Failure::Lie(format!("a reply begins with {magic:#010x}"))),
    }
}

/// Tells whether a chunk of a type reports an error.
pub(super) fn is_error(kind: u16) -> bool {
    kind & ERROR_BIT != 0
}

/// Reads the payload of an error chunk.
pub(super) fn error(kind: u16, length: u32, from: &mut dyn Read) -> Result<Failure, Failure> {
    let malformed = || Failure::Lie(format!("an error of {length} bytes is malformed"));
    if !(6..=ERROR_BYTES_MAX).contains(&length) {
        return Err(malformed());
    }
    let (code, text_bytes) = (u32(from)?, u16(from)?);
    let mut rest = vec![0; usize::try_from(length - 6).expect("it is below 8192")];
    from.read_exact(&mut rest).map_err(Failure::lost)?;
    let (text, more) = rest.split_at_checked(text_bytes.into()).ok_or_else(malformed)?;
    if code == 0 {
        return Err(Failure::Lie("an error is called 0".to_owned()));
    }
    let mut words = words(text);
    if kind == ERROR_OFFSET {
        let at = more.try_into().map(u64::from_be_bytes).map_err(|_| malformed())?;
        words = format!("at byte {at}: {words}");
    }
    Ok(Failure::Error { code, words })
}

/// Reads two bytes.
pub(super) fn u16(from: &mut dyn Read) -> Result<u16, Failure> {
    array(from).map(u16::from_be_bytes)
}

/// Reads four bytes.
pub(super) fn u32(from: &mut dyn Read) -> Result<u32, Failure> {
    array(from).map(u32::from_be_bytes)
}

/// Reads eight bytes.
pub(super) fn u64(from: &mut dyn Read) -> Result<u64, Failure> {
    array(from).map(u64::from_be_bytes)
}

fn array<const LENGTH: usize>(from: &mut dyn Read) -> Result<[u8; LENGTH], Failure> {
    let mut bytes = [0; LENGTH];
    from.read_exact(&mut bytes).map_err(Failure::lost)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{error, header, request};

    #[test]
    fn a_request_is_written_as_the_protocol_has_it() {
        let expected = b"\x25\x60\x95\x13\0\0\0\x07\0\0\0\0\0\0\0\x05\0\0\0\0\0\x01\0\0\0\0\x02\0";
        assert_eq!(&request(7, 5, 65536, 512), expected);
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(
            magic in prop_oneof![Just(0x6744_6698_u32), Just(0x668e_33ef), any::<u32>()],
            kind in 0x8000_u16..0x8004, length in prop_oneof![0_u32..60, any::<u32>()],
            rest in prop::collection::vec(any::<u8>(), 0..60)
        ) {
            let _ = header(&mut [magic.to_be_bytes().as_slice(), &rest].concat().as_slice());
            let mut left = rest.as_slice();
            if error(kind, length, &mut left).is_ok() {
                prop_assert_eq!(rest.len() - left.len(), usize::try_from(length).unwrap());
            }
        }
    }
}
