//! Why a server gave no good answer, and what a person reads of it.

use std::io;

use crate::adapter::nbd::address::Address;
use crate::journal::record::Mend;
use crate::port::PortError;

/// How much of a server's own words is kept, in characters.
const WORDS_MAX: usize = 200;

/// Why a server gave no good answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The connection ended, or nothing came for too long. The same may be asked again over another connection.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// Nobody answers at the address.
    #[error("the server cannot be reached: {0}")]
    Unreached(String),
    /// The server said what the protocol does not allow, so that nothing after it can be trusted.
    #[error("the server broke the protocol: {0}")]
    Lie(String),
    /// The server refused an option of the handshake, by its error type.
    #[error("the server refused the export: {} ({words})", refusal(*.kind))]
    Refused {
        /// The type of the reply.
        kind: u32,
        /// What the server said, or nothing.
        words: String,
    },
    /// The server cannot be spoken to.
    #[error("the server {0}")]
    Foreign(&'static str),
    /// A request failed on the server; the connection is fine.
    #[error("the server answered with {} ({words})", errno(*.code))]
    Error {
        /// The protocol's number.
        code: u32,
        /// What the server said, or nothing.
        words: String,
    },
    /// The export has another size than before.
    #[error("the export had {before} bytes and has {now} now")]
    Resized {
        /// When it was opened.
        before: u64,
        /// After the connection was made again.
        now: u64,
    },
}

impl Failure {
    /// Wraps an error of the operating system on a connection.
    pub(super) fn lost(error: io::Error) -> Self {
        Self::Lost(match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed it".to_owned(),
            _ => error.to_string(),
        })
    }

    /// Says it to a person: what was tried, where, why it failed, what to do.
    pub(super) fn told(&self, what: &str, address: &Address, offset: Option<u64>) -> PortError {
        let place = offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        let text = format!("cannot {what} {address}{place}: {self}");
        let lasting = |remedy| PortError::lasting(text.clone(), remedy, Mend::Source);
        match self {
            Self::Lost(_) | Self::Unreached(_) => {
                PortError::passing(text.clone(), "see whether the NBD server runs and is reached")
            }
            Self::Lie(_) => {
                lasting("use another NBD server, or mend this one; its log may tell more")
            }
            Self::Refused { kind: SHUTDOWN, .. } => {
                PortError::passing(text.clone(), "the server is being shut down: start it again")
            }
            Self::Refused { kind: TLS_REQUIRED, .. } => {
                lasting("let the server offer the export without TLS, through a tunnel if need be")
            }
            Self::Refused { kind: UNKNOWN, .. } => {
                lasting("`nbdinfo --list` tells which exports the server has")
            }
            Self::Refused { .. } => lasting("look at the NBD server's settings and its log"),
            Self::Foreign(_) => lasting(
                "use a server that speaks the fixed newstyle of NBD, such as qemu-nbd or nbdkit",
            ),
            Self::Error { code: EPERM | EINVAL | EOVERFLOW | ENOTSUP, .. } => {
                lasting("look at the NBD server's log and at what it serves")
            }
            Self::Error { .. } => PortError::passing(
                text.clone(),
                "look at the NBD server's log and at the storage behind it",
            ),
            Self::Resized { .. } => lasting("the disk is another one now: begin again"),
        }
    }
}

const TLS_REQUIRED: u32 = (1 << 31) + 5;
const UNKNOWN: u32 = (1 << 31) + 6;
const SHUTDOWN: u32 = (1 << 31) + 7;

const EPERM: u32 = 1;
/// The server does not understand a request.
pub(super) const EINVAL: u32 = 22;
const EOVERFLOW: u32 = 75;
/// The server does not know a request.
pub(super) const ENOTSUP: u32 = 95;

/// Names the error types of the handshake (NBD `doc/proto.md`, "Option reply types").
fn refusal(kind: u32) -> String {
    let name = match kind.wrapping_sub(1 << 31) {
        1 => "it does not know the option",
        2 => "its settings forbid it",
        3 => "it calls the option malformed",
        4 => "its platform cannot do it",
        5 => "it demands TLS, which is not supported",
        6 => "it has no export of this name",
        7 => "it is shutting down",
        8 => "it insists on block sizes",
        9 => "it calls the option too long",
        _ => return format!("error type {kind:#x}"),
    };
    name.to_owned()
}

/// Names the errors of requests (NBD `doc/proto.md`, "Error values").
fn errno(code: u32) -> String {
    let name = match code {
        1 => "EPERM",
        5 => "EIO",
        12 => "ENOMEM",
        22 => "EINVAL",
        28 => "ENOSPC",
        75 => "EOVERFLOW",
        95 => "ENOTSUP",
        108 => "ESHUTDOWN",
        _ => return format!("error {code}"),
    };
    name.to_owned()
}

/// Makes a server's words fit for a line of text.
pub(super) fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    let words: String = text.trim().chars().take(WORDS_MAX).map(plain).collect();
    if words.is_empty() { "it says no more".to_owned() } else { words }
}
