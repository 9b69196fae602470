//! Where an export is. URLs are taken apart here, once; what a person reads is made from the parts.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The port that NBD servers listen on where none is written.
const PORT: u16 = 10809;
/// The longest name that the protocol allows, in bytes.
const NAME_BYTES_MAX: usize = 4096;

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// Over TCP, in clear text.
    Tcp {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// Over a Unix socket of this machine.
    Unix {
        /// The socket's path.
        socket: PathBuf,
    },
}

/// The address of an export: `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`, as the NBD project's `doc/uri.md`
/// has them. The name of the default export is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The server.
    pub server: Server,
    /// The export's name there.
    pub export: String,
}

/// Why a text is no address of an export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It asks for TLS.
    #[error("`{0}:` asks for TLS, which is not supported")]
    Tls(String),
    /// It names another scheme, or none.
    #[error("`{0}` begins with no scheme of NBD")]
    Scheme(String),
    /// `nbd+unix:` without a path.
    #[error("`{0}` names no socket")]
    NoSocket(String),
    /// Something else is odd.
    #[error("the {part} of `{text}` {what}")]
    Malformed {
        /// The whole text.
        text: String,
        /// Which part of it.
        part: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl AddressError {
    /// Says what to write instead.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Tls(_) => {
                "use `nbd:` or `nbd+unix:`, through a tunnel where the network is not trusted"
            }
            Self::NoSocket(_) => "write it as `nbd+unix:///EXPORT?socket=/PATH/OF/SOCKET`",
            Self::Scheme(_) | Self::Malformed { .. } => {
                "write it as `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`"
            }
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| AddressError::Scheme(text.to_owned()))?;
        let odd = |part, what| Err(AddressError::Malformed { text: text.to_owned(), part, what });
        if rest.contains('#') || rest.chars().any(|letter| letter.is_control() || letter == ' ') {
            return odd("rest", "holds `#`, a blank or a control character");
        }
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let (authority, export) = place.split_once('/').unwrap_or((place, ""));
        let Some(export) = decoded(export) else {
            return odd("export", "is not percent-encoded UTF-8 without zeros");
        };
        if export.len() > NAME_BYTES_MAX {
            return odd("export", "is longer than 4096 bytes");
        }
        let server = match scheme.to_ascii_lowercase().as_str() {
            "nbds" | "nbds+unix" | "nbds+vsock" => {
                return Err(AddressError::Tls(scheme.to_owned()));
            }
            "nbd" if query.is_some() => return odd("query", "means nothing over TCP"),
            "nbd" => match host_and_port(authority) {
                Ok((host, port)) => Server::Tcp { host, port },
                Err((part, what)) => return odd(part, what),
            },
            "nbd+unix" if !authority.is_empty() => {
                return odd("host", "must be empty: the server is on this machine");
            }
            "nbd+unix" => match socket(query.unwrap_or_default()) {
                Ok(Some(socket)) => Server::Unix { socket: PathBuf::from(socket) },
                Ok(None) => return Err(AddressError::NoSocket(text.to_owned())),
                Err(what) => return odd("query", what),
            },
            _ => return Err(AddressError::Scheme(text.to_owned())),
        };
        Ok(Self { server, export })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, export } = self;
        let export = encoded(export);
        match server {
            Server::Tcp { host, port } if host.contains(':') => {
                write!(f, "nbd://[{host}]:{port}/{export}")
            }
            Server::Tcp { host, port } => write!(f, "nbd://{host}:{port}/{export}"),
            Server::Unix { socket } => {
                write!(f, "nbd+unix:///{export}?socket={}", encoded(&socket.to_string_lossy()))
            }
        }
    }
}

/// Takes `HOST[:PORT]` apart; otherwise tells which part is wrong, and how.
fn host_and_port(authority: &str) -> Result<(String, u16), (&'static str, &'static str)> {
    if authority.contains('@') {
        return Err(("user", "means nothing to NBD"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(("host", "lacks a closing bracket"))?,
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => PORT,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0).ok_or(("port", "is not within 1-65535"))?
        }
        _ => return Err(("port", "is no number")),
    };
    if host.is_empty() {
        return Err(("host", "is missing"));
    }
    Ok((host.to_owned(), port))
}

/// Finds the socket's path in a query that holds nothing else.
fn socket(query: &str) -> Result<Option<String>, &'static str> {
    let mut found = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let value = parameter.strip_prefix("socket=").ok_or("holds something beside `socket=`")?;
        let path = decoded(value).ok_or("holds a path that is not percent-encoded UTF-8")?;
        if found.replace(path).is_some() {
            return Err("names two sockets");
        }
    }
    Ok(found.filter(|path| !path.is_empty()))
}

/// Resolves `%XX`; `None` where the result is no UTF-8, holds a zero byte, or `%` stands alone.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// Writes everything but plain letters, digits, `-._~/:` as `%XX`.
fn encoded(text: &str) -> String {
    let mut written = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            written.push(char::from(byte));
        } else {
            written += &format!("%{byte:02X}");
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Address, AddressError, Server};

    fn read(text: &str) -> String {
        match text.parse::<Address>() {
            Ok(address) => format!("{address}"),
            Err(error) => format!("{error}"),
        }
    }

    #[test]
    fn addresses_are_taken_apart_and_put_together_again() {
        for (text, means) in [
            ("nbd://h/disk", "nbd://h:10809/disk"),
            ("NBD://h:1/", "nbd://h:1/"),
            ("nbd://h", "nbd://h:10809/"),
            ("nbd://[::1]:99/a/b", "nbd://[::1]:99/a/b"),
            ("nbd+unix:///a%20b?socket=/run/x%3fy", "nbd+unix:///a%20b?socket=/run/x%3Fy"),
            ("nbd+unix://?socket=/s", "nbd+unix:///?socket=/s"),
        ] {
            assert_eq!(read(text), means);
            assert_eq!(read(means), means);
        }
        let address: Address = "nbd://h/%C3%A4".parse().unwrap();
        assert_eq!(address.export, "ä");
        assert_eq!(address.server, Server::Tcp { host: "h".to_owned(), port: 10809 });
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for (text, why) in [
            ("nbds://h/x", "`nbds:` asks for TLS, which is not supported"),
            ("nbds+unix:///x?socket=/s", "`nbds+unix:` asks for TLS, which is not supported"),
            ("http://h/x", "`http://h/x` begins with no scheme of NBD"),
            ("/dev/sda", "`/dev/sda` begins with no scheme of NBD"),
            ("nbd+unix:///x", "`nbd+unix:///x` names no socket"),
            ("nbd+unix:///x?socket=", "`nbd+unix:///x?socket=` names no socket"),
            (
                "nbd+unix://h/x?socket=/s",
                "the host of `nbd+unix://h/x?socket=/s` must be empty: the server is on this machine",
            ),
            (
                "nbd+unix:///x?tls=/s",
                "the query of `nbd+unix:///x?tls=/s` holds something beside `socket=`",
            ),
            ("nbd://h/x?socket=/s", "the query of `nbd://h/x?socket=/s` means nothing over TCP"),
            ("nbd:///x", "the host of `nbd:///x` is missing"),
            ("nbd://u@h/x", "the user of `nbd://u@h/x` means nothing to NBD"),
            ("nbd://h:0/x", "the port of `nbd://h:0/x` is not within 1-65535"),
            ("nbd://h:x/x", "the port of `nbd://h:x/x` is no number"),
            ("nbd://[::1/x", "the host of `nbd://[::1/x` lacks a closing bracket"),
            ("nbd://h/%f", "the export of `nbd://h/%f` is not percent-encoded UTF-8 without zeros"),
            (
                "nbd://h/%00",
                "the export of `nbd://h/%00` is not percent-encoded UTF-8 without zeros",
            ),
            (
                "nbd://h/%ff",
                "the export of `nbd://h/%ff` is not percent-encoded UTF-8 without zeros",
            ),
        ] {
            assert_eq!(read(text), why);
        }
        let long = format!("nbd://h/{}", "x".repeat(4097));
        assert!(matches!(long.parse::<Address>(), Err(AddressError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn every_export_and_socket_survive_being_written(
            export in "[^\0]{0,40}", socket in "/[^\0]{0,40}"
        ) {
            let server = Server::Unix { socket: socket.into() };
            let address = Address { server, export };
            prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
        }

        #[test]
        fn no_text_breaks_the_parser(text in "(nbd(\\+unix)?://)?[\\[\\]:%?/=a-z0-9#@]{0,30}") {
            let _ = text.parse::<Address>();
        }
    }
}
