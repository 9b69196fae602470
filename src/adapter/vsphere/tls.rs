//! TLS to a server of vSphere: trusted by an authority, by the SHA-256 fingerprint of its certificate, or not checked where the
//! settings allow that. A fingerprint is compared before a byte of a request is sent.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use native_tls::{Certificate, HandshakeError, TlsConnector, TlsStream};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use crate::desired::Trust;

/// What a server's certificate hashes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprints {
    /// SHA-256, as pairs of hexadecimal digits between colons.
    pub(super) sha256: String,
    /// SHA-1, in the same form: leases and VDDK know servers by it.
    pub(super) sha1: String,
}

/// A certificate that is not the one that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("its certificate has the fingerprint {found}, and {expected} is expected")]
pub(super) struct Mismatch {
    pub(super) expected: String,
    pub(super) found: String,
}

/// What a certificate has to hash to.
#[derive(Clone, Debug)]
enum Expected {
    Sha256(String),
    Sha1(String),
}

/// Adds TLS to connections.
pub(super) struct Secured {
    connector: TlsConnector,
    expected: Option<Expected>,
    /// What the server showed last.
    seen: Arc<Mutex<Option<Fingerprints>>>,
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Secured {
    /// Fails where the authorities are no certificates.
    pub(super) fn new(trust: &Trust) -> Result<Self, native_tls::Error> {
        let mut builder = TlsConnector::builder();
        let expected = match trust {
            Trust::System => None,
            Trust::Authorities(pem) => {
                builder.disable_built_in_roots(true);
                for certificate in Certificate::stack_from_pem(pem.as_bytes())? {
                    builder.add_root_certificate(certificate);
                }
                None
            }
            Trust::Fingerprint(sha256) => Some(Expected::Sha256(sha256.to_string())),
            Trust::Anyone => None,
        };
        let unchecked = expected.is_some() || *trust == Trust::Anyone;
        builder.danger_accept_invalid_certs(unchecked).danger_accept_invalid_hostnames(unchecked);
        Ok(Self { connector: builder.build()?, expected, seen: Arc::default() })
    }

    /// Trusts the one server whose certificate has this SHA-1 thumbprint, as a server that is trusted said.
    pub(super) fn pinned(thumbprint: &str) -> Result<Self, native_tls::Error> {
        let mut builder = TlsConnector::builder();
        builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
        let expected = Some(Expected::Sha1(thumbprint.to_owned()));
        Ok(Self { connector: builder.build()?, expected, seen: Arc::default() })
    }

    /// Returns where the fingerprints of the server are kept once it was connected to.
    pub(super) fn seen(&self) -> Arc<Mutex<Option<Fingerprints>>> {
        self.seen.clone()
    }

    fn judge(&self, certificate: Option<Certificate>) -> Result<(), Error> {
        let der = match certificate {
            Some(certificate) => certificate.to_der()?,
            None => Vec::new(),
        };
        let found =
            Fingerprints { sha256: pairs(&Sha256::digest(&der)), sha1: pairs(&Sha1::digest(&der)) };
        let mismatch = match &self.expected {
            Some(Expected::Sha256(expected)) => differ(expected, &found.sha256),
            Some(Expected::Sha1(expected)) => differ(expected, &found.sha1),
            None => None,
        };
        if let Some(mismatch) = mismatch {
            return Err(Error::Other(Box::new(mismatch)));
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(())
    }
}

fn differ(expected: &str, found: &str) -> Option<Mismatch> {
    let plain = |text: &str| text.replace(':', "").to_ascii_uppercase();
    (plain(expected) != plain(found))
        .then(|| Mismatch { expected: expected.to_owned(), found: found.to_owned() })
}

fn pairs(hash: &[u8]) -> String {
    let pairs: Vec<String> = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

impl<In: Transport> Connector<In> for Secured {
    type Out = Wrapped;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Wrapped>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut adapter = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        adapter.set_timeout(details.timeout);
        let stream = self.connector.connect(host, adapter).map_err(|error| match error {
            HandshakeError::Failure(error) => Error::NativeTls(error),
            HandshakeError::WouldBlock(_) => Error::Io(std::io::ErrorKind::TimedOut.into()),
        })?;
        self.judge(stream.peer_certificate()?)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Wrapped { buffers, stream }))
    }
}

/// A connection with TLS.
pub(super) struct Wrapped {
    buffers: LazyBuffers,
    stream: TlsStream<TransportAdapter>,
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrapped")
    }
}

impl Transport for Wrapped {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        use std::io::Write as _;
        self.stream.get_mut().set_timeout(timeout);
        Ok(self.stream.write_all(&self.buffers.output()[..amount])?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        use std::io::Read as _;
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
