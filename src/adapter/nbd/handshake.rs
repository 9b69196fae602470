//! The handshake: fixed newstyle, with what a server offers of structured replies, allocation and block sizes. A server that
//! knows none of them is read without.

use std::io::{Read, Write};

use crate::adapter::nbd::failure::{Failure, words};
use crate::adapter::nbd::wire::{u16, u32, u64};

/// The longest reply to an option, in bytes: all texts of the protocol are at most 4,096.
const REPLY_BYTES_MAX: u32 = 16 << 10;
/// The most replies to one option. A server has about five things to say.
const REPLIES_MAX: usize = 100;
/// The largest export: offsets are positive where they are signed.
const SIZE_MAX: u64 = i64::MAX.unsigned_abs();
/// The longest read, whatever a server allows: what every server takes that says nothing (NBD `doc/proto.md`).
pub(super) const PAYLOAD_MAX: u32 = 32 << 20;
/// What reads keep to where a server says nothing: a sector.
const MINIMUM_UNSAID: u32 = 512;
/// The largest smallest block that the protocol allows.
const MINIMUM_MAX: u32 = 64 << 10;

const INIT: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OLD_STYLE: u64 = 0x0000_4202_8186_1253;
const REPLY: u64 = 0x0003_e889_0455_65a9;

const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const EXPORT_NAME: u32 = 1;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;

const ACK: u32 = 1;
const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;
const ERROR: u32 = 1 << 31;
const UNSUPPORTED: u32 = ERROR + 1;

const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
/// The transmission flags mean something, and several connections see the same data.
const MULTI_CONN: u16 = 1 | 1 << 8;

const ALLOCATION: &[u8] = b"base:allocation";

/// What server and client agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// How large the export is.
    pub(super) size: u64,
    /// Several connections see the same data.
    pub(super) multi: bool,
    /// Replies come in chunks.
    pub(super) structured: bool,
    /// The number of `base:allocation`, where the server tells what is allocated.
    pub(super) allocation: Option<u32>,
    /// Reads begin and end at multiples of it.
    pub(super) minimum: u32,
    /// The longest read, a multiple of the minimum.
    pub(super) maximum: u32,
}

/// Speaks with a server until the transmission begins.
pub(super) fn shake(stream: &mut (impl Read + Write), export: &str) -> Result<Terms, Failure> {
    if u64(stream)? != INIT {
        return Err(Failure::Foreign("does not greet as one of NBD does"));
    }
    match u64(stream)? {
        OPTION => {}
        OLD_STYLE => return Err(Failure::Foreign("speaks the old style of NBD only")),
        _ => return Err(Failure::Foreign("speaks an unknown style of NBD")),
    }
    let offered = u16(stream)?;
    let flags = offered & (FIXED_NEWSTYLE | NO_ZEROES);
    send(stream, &u32::from(flags).to_be_bytes())?;
    let mut terms = Terms {
        size: 0,
        multi: false,
        structured: false,
        allocation: None,
        minimum: MINIMUM_UNSAID,
        maximum: PAYLOAD_MAX,
    };
    if flags & FIXED_NEWSTYLE == 0 {
        return by_name(stream, export, flags, terms);
    }
    // What these two refuse is done without; whether the export may be read is told by the last one.
    terms.structured = option(stream, STRUCTURED_REPLY, &[], |_, _| Ok(()))?.is_ok();
    if terms.structured {
        terms.allocation = allocation(stream, export)?;
    }
    match go(stream, export, &mut terms)? {
        Ok(()) => Ok(terms),
        Err(Failure::Refused { kind: UNSUPPORTED, .. }) => by_name(stream, export, flags, terms),
        Err(refused) => Err(refused),
    }
}

/// Asks for `base:allocation`; `None` where the server does not have it.
fn allocation(stream: &mut (impl Read + Write), export: &str) -> Result<Option<u32>, Failure> {
    let mut data = text(export.as_bytes());
    data.extend(1_u32.to_be_bytes());
    data.extend(text(ALLOCATION));
    let mut found = None;
    let set = option(stream, SET_META_CONTEXT, &data, |kind, mut reply| {
        if kind == META_CONTEXT {
            let id = u32(&mut reply)?;
            if reply != ALLOCATION || found.replace(id).is_some() {
                return Err(Failure::Lie("it sets a context that was not asked for".to_owned()));
            }
        }
        Ok(())
    })?;
    Ok(found.filter(|_| set.is_ok()))
}

/// Asks for the export and begins the transmission.
fn go(
    stream: &mut (impl Read + Write),
    export: &str,
    terms: &mut Terms,
) -> Result<Result<(), Failure>, Failure> {
    let mut data = text(export.as_bytes());
    data.extend(1_u16.to_be_bytes());
    data.extend(INFO_BLOCK_SIZE.to_be_bytes());
    let mut described = false;
    let went = option(stream, GO, &data, |kind, mut reply| {
        if kind != INFO {
            return Ok(());
        }
        match u16(&mut reply)? {
            INFO_EXPORT => {
                describe(terms, u64(&mut reply)?, u16(&mut reply)?)?;
                described = true;
            }
            INFO_BLOCK_SIZE => {
                let (minimum, preferred) = (u32(&mut reply)?, u32(&mut reply)?);
                limit(terms, minimum, preferred, u32(&mut reply)?)?;
            }
            _ => {}
        }
        Ok(())
    })?;
    if went.is_ok() && !described {
        return Err(Failure::Lie("it tells no size of the export".to_owned()));
    }
    Ok(went)
}

/// Asks for the export as servers before 2016 knew it. A refusal is a closed connection.
fn by_name(
    stream: &mut (impl Read + Write),
    export: &str,
    flags: u16,
    mut terms: Terms,
) -> Result<Terms, Failure> {
    ask(stream, EXPORT_NAME, export.as_bytes())?;
    let (size, transmission) = (u64(stream)?, u16(stream)?);
    if flags & NO_ZEROES == 0 {
        stream.read_exact(&mut [0; 124]).map_err(Failure::lost)?;
    }
    terms.allocation = None;
    describe(&mut terms, size, transmission)?;
    Ok(terms)
}

fn describe(terms: &mut Terms, size: u64, transmission: u16) -> Result<(), Failure> {
    if size > SIZE_MAX {
        return Err(Failure::Lie(format!("it calls the export {size} bytes large")));
    }
    terms.size = size;
    terms.multi = transmission & MULTI_CONN == MULTI_CONN;
    Ok(())
}

fn limit(terms: &mut Terms, minimum: u32, preferred: u32, maximum: u32) -> Result<(), Failure> {
    let sound = minimum.is_power_of_two() && minimum <= MINIMUM_MAX && maximum >= minimum;
    if !sound {
        let sizes = format!("{minimum}, {preferred} and {maximum}");
        return Err(Failure::Lie(format!("it names impossible block sizes: {sizes}")));
    }
    let longest = maximum.min(PAYLOAD_MAX);
    terms.minimum = minimum;
    terms.maximum = longest - longest % minimum;
    Ok(())
}

/// Sends an option and gives each of its replies to `each`, until the last one: an acknowledgement or a refusal.
fn option(
    stream: &mut (impl Read + Write),
    number: u32,
    data: &[u8],
    mut each: impl FnMut(u32, &[u8]) -> Result<(), Failure>,
) -> Result<Result<(), Failure>, Failure> {
    ask(stream, number, data)?;
    for _ in 0..REPLIES_MAX {
        let (magic, echo) = (u64(stream)?, u32(stream)?);
        if magic != REPLY || echo != number {
            return Err(Failure::Lie(format!(
                "a reply to option {number} begins with {magic:#x}, {echo}"
            )));
        }
        let (kind, length) = (u32(stream)?, u32(stream)?);
        if length > REPLY_BYTES_MAX {
            return Err(Failure::Lie(format!("a reply to option {number} has {length} bytes")));
        }
        let mut reply = vec![0; usize::try_from(length).expect("it is below 16 KiB")];
        stream.read_exact(&mut reply).map_err(Failure::lost)?;
        match kind {
            ACK => return Ok(Ok(())),
            kind if kind & ERROR != 0 => {
                return Ok(Err(Failure::Refused { kind, words: words(&reply) }));
            }
            kind => each(kind, &reply).map_err(|failure| match failure {
                Failure::Lost(_) => {
                    Failure::Lie(format!("a reply to option {number} is too short"))
                }
                other => other,
            })?,
        }
    }
    Err(Failure::Lie(format!("more than {REPLIES_MAX} replies to option {number}")))
}

fn ask(stream: &mut impl Write, number: u32, data: &[u8]) -> Result<(), Failure> {
    let mut bytes = OPTION.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(counted(data));
    bytes.extend(data);
    send(stream, &bytes)
}

fn send(stream: &mut impl Write, bytes: &[u8]) -> Result<(), Failure> {
    stream.write_all(bytes).map_err(Failure::lost)
}

/// Writes a text behind its length.
fn text(text: &[u8]) -> Vec<u8> {
    let mut bytes = counted(text).to_vec();
    bytes.extend(text);
    bytes
}

fn counted(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("names have at most 4096 bytes").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};

    use proptest::prelude::*;

    use super::{PAYLOAD_MAX, SIZE_MAX, shake};

    /// A server that says the same whatever it is asked.
    struct Canned(io::Cursor<Vec<u8>>);

    impl Read for Canned {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Canned {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Replies to the three options in turn, most of them of types that mean something.
    fn replies() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![
            3 => Just(1_u32), 3 => Just(3), 2 => Just(4), 1 => Just((1 << 31) + 1), 1 => any::<u32>()
        ];
        let data = prop_oneof![
            Just(b"\0\0\0\x07base:allocation".to_vec()),
            any::<[u8; 10]>().prop_map(|rest| [&[0, 0], &rest[..]].concat()),
            any::<[u8; 12]>().prop_map(|rest| [&[0, 3], &rest[..]].concat()),
            (0_u32..20, 0_u32..20).prop_map(|(minimum, maximum)| {
                let sizes = [1 << minimum, 4096_u32, 1 << maximum].map(u32::to_be_bytes).concat();
                [&[0, 3], sizes.as_slice()].concat()
            }),
            prop::collection::vec(any::<u8>(), 0..30),
        ];
        prop::collection::vec((kind, data), 0..12).prop_map(|replies| {
            let mut bytes = Vec::new();
            let mut options = [8_u32, 10, 7].into_iter();
            let mut option = options.next().unwrap();
            for (kind, data) in replies {
                bytes.extend(super::REPLY.to_be_bytes());
                for field in [option, kind, u32::try_from(data.len()).unwrap()] {
                    bytes.extend(field.to_be_bytes());
                }
                bytes.extend(data);
                if kind == 1 || kind >= 1 << 31 {
                    option = options.next().unwrap_or(7);
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_is_refused_or_makes_sound_terms(
            flags in 0_u16..4, replies in replies(), rest in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let greeting = [b"NBDMAGICIHAVEOPT".as_slice(), &flags.to_be_bytes()].concat();
            for said in [[&greeting[..], &replies, &rest].concat(), [&greeting[..], &rest].concat(), rest] {
                if let Ok(terms) = shake(&mut Canned(io::Cursor::new(said)), "disk") {
                    prop_assert!(terms.size <= SIZE_MAX);
                    prop_assert!(terms.minimum.is_power_of_two());
                    prop_assert!(terms.maximum >= terms.minimum && terms.maximum <= PAYLOAD_MAX);
                    prop_assert_eq!(terms.maximum % terms.minimum, 0);
                    prop_assert!(terms.structured || terms.allocation.is_none());
                }
            }
        }
    }
}
