//! HTTPS to one server of vSphere.
//!
//! # Guarantees
//!
//! A request goes to the server of the address and nowhere else: no redirect is followed, no proxy is asked. Answers have
//! bounds in size and time.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector as _, TcpConnector};
use ureq::{Agent, Body};

use crate::adapter::distrust::Distrust;
use crate::adapter::url::RemoteUrl;
use crate::adapter::vsphere::soap::{self, Answer, Request};
use crate::adapter::vsphere::tls::{Fingerprints, Mismatch, Secured};
use crate::desired::Trust;
use crate::domain::text::visible;
use crate::domain::unit::Bytes;
use crate::journal::record::Mend;
use crate::port::PortError;

/// How long the server may take for an answer.
pub(super) const TIMEOUT: Duration = Duration::from_mins(1);

/// How long it may take to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A page of an inventory has a few megabytes.
const ANSWER_MAX: u64 = 64 << 20;

/// The name that the server keeps its session under.
const COOKIE: &str = "vmware_soap_session";

/// Why a call brought no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refused: it did not happen.
    Fault(Box<soap::Fault>),
    /// It is not known whether it happened.
    Unanswered(PortError),
    /// Whoever answers is not trusted, or nobody may be asked: nothing was sent that matters.
    Refused(PortError),
}

/// A server.
#[derive(Clone, Debug)]
pub(super) struct Link {
    agent: Agent,
    /// `https://HOST:PORT`.
    origin: String,
    /// `/sdk`.
    path: String,
    host: (String, u16),
    seen: Arc<Mutex<Option<Fingerprints>>>,
}

impl Link {
    /// Prepares for an address; connects to nothing.
    pub(super) fn new(url: &str, trust: &Trust) -> Result<Self, PortError> {
        let secured = Secured::new(trust).map_err(|error| {
            PortError::lasting(
                format!(
                    "the certificates in `tls.ca` for {} cannot be read: {error}",
                    visible(url)
                ),
                "write certificates in PEM form there",
                Mend::Person,
            )
        })?;
        Self::over(url, secured)
    }

    /// Prepares for the server whose certificate has a SHA-1 thumbprint that a trusted server told.
    pub(super) fn pinned(url: &str, thumbprint: &str) -> Result<Self, PortError> {
        let secured = Secured::pinned(thumbprint).map_err(|error| {
            PortError::passing(format!("TLS cannot be used: {error}"), "report this")
        })?;
        Self::over(url, secured)
    }

    fn over(url: &str, secured: Secured) -> Result<Self, PortError> {
        let Some(Ok(parts)) = RemoteUrl::parse(url) else {
            return Err(no_address(url));
        };
        let seen = secured.seen();
        let config = Agent::config_builder()
            .https_only(true)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .max_idle_connections_per_host(32)
            .user_agent(concat!("ferry/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = TcpConnector::default().chain(secured);
        let agent = Agent::with_parts(config, connector, DefaultResolver::default());
        let origin = format!("https://{}", parts.authority());
        let host = (parts.host, parts.port.unwrap_or(443));
        Ok(Self { agent, origin, path: parts.path, host, seen })
    }

    /// Returns the host's name or address, and the port.
    pub(super) fn host(&self) -> (String, u16) {
        self.host.clone()
    }

    /// Returns `https://HOST:PORT`.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns what the certificate of the server hashes to, once it was connected to.
    pub(super) fn fingerprints(&self) -> Option<Fingerprints> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls a method. Returns the session's cookie as well, where the server sets one.
    pub(super) fn call(
        &self,
        request: &Request,
        version: &str,
        cookie: Option<&str>,
        timeout: Duration,
    ) -> Result<(crate::xml::Element, Option<String>), Failure> {
        let mut post = self
            .agent
            .post(format!("{}{}", self.origin, self.path))
            .header(header::CONTENT_TYPE, "text/xml; charset=\"utf-8\"")
            .header("SOAPAction", format!("urn:vim25/{version}"));
        if let Some(cookie) = cookie {
            post = post.header(header::COOKIE, format!("{COOKIE}={cookie}"));
        }
        let post = post.config().timeout_global(Some(timeout)).build();
        let envelope = zeroize::Zeroizing::new(request.envelope());
        let response = post.send(envelope.as_str()).map_err(|error| self.unreached(&error))?;
        let status = response.status().as_u16();
        if !matches!(status, 200 | 500) {
            return Err(Failure::Unanswered(self.status(&response, request.method)));
        }
        let set = response.headers().get_all(header::SET_COOKIE).iter();
        let cookie = set.filter_map(|value| session_of(value.to_str().ok()?)).next_back();
        let bytes = self.body(response)?;
        match soap::read(&bytes, request.method) {
            Ok(Answer::Done(done)) => Ok((done, cookie)),
            Ok(Answer::Fault(fault)) => Err(Failure::Fault(fault)),
            Err(error) => Err(Failure::Unanswered(PortError::passing(
                format!(
                    "{} gave an answer to {} that makes no sense: {error}",
                    self.origin, request.method
                ),
                "check that `url` is the address of a vCenter or an ESXi host, and what stands between",
            ))),
        }
    }

    fn body(&self, response: Response<Body>) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let mut reader = response.into_body().into_reader().take(ANSWER_MAX + 1);
        match reader.read_to_end(&mut bytes) {
            Ok(read) if u64::try_from(read).is_ok_and(|read| read <= ANSWER_MAX) => Ok(bytes),
            Ok(_) => Err(Failure::Unanswered(PortError::passing(
                format!("{} gave an answer of more than {}", self.origin, Bytes(ANSWER_MAX)),
                "check that `url` is the address of a vCenter or an ESXi host",
            ))),
            Err(error) => Err(self.unreached(&ureq::Error::from(error))),
        }
    }

    /// Asks for a file, or a range of it: the first byte and the one behind the last. What came back may be of any status.
    pub(super) fn get(
        &self,
        url: &str,
        cookie: Option<&str>,
        range: Option<(u64, u64)>,
        timeout: Duration,
    ) -> Result<Response<Body>, Failure> {
        let mut get = self.agent.get(url);
        if let Some(cookie) = cookie {
            get = get.header(header::COOKIE, format!("{COOKIE}={cookie}"));
        }
        if let Some((from, to)) = range {
            get = get.header(header::RANGE, format!("bytes={from}-{}", to - 1));
        }
        let get = get.config().timeout_global(Some(timeout)).build();
        get.call().map_err(|error| self.unreached(&error))
    }

    /// Asks how a file is, without its content.
    pub(super) fn head(&self, url: &str, cookie: Option<&str>) -> Result<Response<Body>, Failure> {
        let mut head = self.agent.head(url);
        if let Some(cookie) = cookie {
            head = head.header(header::COOKIE, format!("{COOKIE}={cookie}"));
        }
        let head = head.config().timeout_global(Some(TIMEOUT)).build();
        head.call().map_err(|error| self.unreached(&error))
    }

    /// Puts a status that is no answer into words.
    pub(super) fn status<B>(&self, response: &Response<B>, what: &str) -> PortError {
        let (origin, status) = (&self.origin, response.status().as_u16());
        let what = visible(what);
        match status {
            300..=399 => {
                let to = response.headers().get(header::LOCATION);
                let to = to.and_then(|value| value.to_str().ok()).unwrap_or("nowhere");
                PortError::lasting(
                    format!("{origin} redirects to {}, which is not followed", visible(to)),
                    "name the new place in `url`, if it is the right one, and bind the credential to its host",
                    Mend::Person,
                )
            }
            502..=504 => PortError::passing(
                format!("{origin} cannot answer now (HTTP {status} to {what})"),
                "wait until the server is up again; it may be in maintenance",
            ),
            _ => PortError::passing(
                format!("{origin} answers HTTP {status} to {what}"),
                "check that `url` is the address of a vCenter or an ESXi host",
            ),
        }
    }

    /// Puts an error of the HTTP client into words.
    pub(super) fn unreached(&self, error: &ureq::Error) -> Failure {
        let origin = &self.origin;
        let away = |why: &str| {
            Failure::Unanswered(PortError::passing(
                format!("{origin} cannot be reached: {why}"),
                "check the network, the name and the port",
            ))
        };
        match error {
            ureq::Error::Timeout(_) => Failure::Unanswered(PortError::passing(
                format!("{origin} did not answer in time"),
                "look whether the server is overloaded, and what stands between",
            )),
            ureq::Error::HostNotFound => away("nobody knows that name"),
            ureq::Error::NativeTls(error) => self.untrusted(&error.to_string()),
            ureq::Error::Other(other) => match other.downcast_ref::<Mismatch>() {
                Some(mismatch) => Failure::Refused(PortError::lasting(
                    format!("{origin} is not trusted: {mismatch}"),
                    "find out whether its certificate was renewed; only then write the new fingerprint into `tls.sha256Fingerprint`",
                    Mend::Person,
                )),
                None => away(&visible(&other.to_string())),
            },
            error => away(&visible(&error.to_string())),
        }
    }

    fn untrusted(&self, said: &str) -> Failure {
        let origin = &self.origin;
        let Some(distrust) = Distrust::of(said) else {
            return Failure::Unanswered(PortError::passing(
                format!("TLS with {origin} failed: {}", visible(said)),
                "check that `url` names a server of HTTPS, and what stands between",
            ));
        };
        let trust = "write the authority's certificate into the Provider's `tls.ca`, or the server's fingerprint into `tls.sha256Fingerprint`";
        let (text, remedy) = distrust.told(origin, "url", trust);
        Failure::Refused(PortError::passing(text, remedy))
    }
}

/// Says that a text is no address of a server.
pub(super) fn no_address(url: &str) -> PortError {
    PortError::lasting(
        format!("{} is no address of a vCenter or an ESXi host", visible(url)),
        "write it as `https://HOST/sdk`",
        Mend::Person,
    )
}

/// Finds the session's cookie, kept byte for byte.
fn session_of(set: &str) -> Option<String> {
    let (name, rest) = set.split_once('=')?;
    let value = rest.split(';').next()?.trim_end();
    (name.trim() == COOKIE && !value.is_empty()).then(|| value.to_owned())
}
