//! Git's smart protocol over HTTPS (gitprotocol-http(5)), for libgit2 to speak through. libgit2's own client follows redirects
//! on the same host and falls over one without a query; this one follows none.
//!
//! # Guarantees
//! - A request goes to the URL of the settings and nowhere else, with the one login that was read for the conversation.
//! - A conversation ends at its deadline, whatever the server does.
//! - What was refused is kept for the person who has to mend it: libgit2 would pass on a text only.
//!
//! # Flow
//! libgit2 asks a transport factory of the process for each remote. A conversation has a thread of its own, so the factory
//! finds what it needs in that thread.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport, register};
use ureq::Agent;
use ureq::http::{Response, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use zeroize::Zeroizing;

use crate::adapter::clock::SystemClock;
use crate::adapter::git::failure::{Failure, Peer};
use crate::journal::record::Mend;
use crate::port::{Clock, PortError};

/// A push holds objects of reports only; a pack beyond this is a mistake.
const BODY_MAX: usize = 256 << 20;

thread_local! {
    static LINK: RefCell<Option<Link>> = const { RefCell::new(None) };
}

static REGISTERED: Once = Once::new();

/// What one conversation over HTTPS needs.
#[derive(Clone)]
pub(super) struct Link {
    agent: Agent,
    url: String,
    authorization: Option<Arc<Zeroizing<String>>>,
    peer: Peer,
    timeout: Duration,
    /// When the conversation began.
    clock: Arc<SystemClock>,
    trouble: Arc<Mutex<Option<Failure>>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What went wrong on the way, once.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<Failure>>>);

impl Trouble {
    /// Takes it.
    pub(super) fn take(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Link {
    /// Prepares a conversation. `authorities` replaces the certificates that the system trusts.
    pub(super) fn new(
        url: &str,
        authorization: Option<Zeroizing<String>>,
        authorities: Option<&Path>,
        peer: &Peer,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let roots = match authorities {
            Some(file) => trusted(file).map_err(Failure::local)?,
            None => RootCerts::PlatformVerifier,
        };
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(roots).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("git/ferry-", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.into(),
            url: url.trim_end_matches('/').to_owned(),
            authorization: authorization.map(Arc::new),
            peer: peer.clone(),
            timeout,
            clock: Arc::new(SystemClock::start()),
            trouble: Arc::default(),
        })
    }

    /// Lets libgit2 speak through this link, on this thread, until the next one.
    pub(super) fn take_over(self) -> Trouble {
        REGISTERED.call_once(speak_https);
        let trouble = Trouble(self.trouble.clone());
        LINK.with_borrow_mut(|link| *link = Some(self));
        trouble
    }

    /// Keeps a failure and returns an error for libgit2.
    fn fails(&self, failure: Failure) -> io::Error {
        let text = failure.error.fault.text.clone();
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        io::Error::other(text)
    }

    /// Sends a request and returns its answer, which is of the kind that was asked for.
    fn ask(&self, service: Service, body: &[u8]) -> Result<Box<dyn Read + Send>, Failure> {
        let past = Duration::try_from(self.clock.elapsed()).unwrap_or_default();
        let left = self.timeout.saturating_sub(past);
        if left.is_zero() {
            return Err(self.peer.slow(self.timeout));
        }
        let (path, kind) = match service {
            Service::UploadPackLs => {
                ("info/refs?service=git-upload-pack", "upload-pack-advertisement")
            }
            Service::ReceivePackLs => {
                ("info/refs?service=git-receive-pack", "receive-pack-advertisement")
            }
            Service::UploadPack => ("git-upload-pack", "upload-pack-result"),
            Service::ReceivePack => ("git-receive-pack", "receive-pack-result"),
        };
        let (url, wanted) = (format!("{}/{path}", self.url), format!("application/x-git-{kind}"));
        let login = self.authorization.as_ref().map(|login| login.as_str());
        let response = match service {
            Service::UploadPackLs | Service::ReceivePackLs => {
                let mut request = self.agent.get(&url).header(header::ACCEPT, &wanted);
                if let Some(login) = login {
                    request = request.header(header::AUTHORIZATION, login);
                }
                request.config().timeout_global(Some(left)).build().call()
            }
            Service::UploadPack | Service::ReceivePack => {
                let mut request = self
                    .agent
                    .post(&url)
                    .header(header::ACCEPT, &wanted)
                    .header(header::CONTENT_TYPE, format!("application/x-{path}-request"));
                if let Some(login) = login {
                    request = request.header(header::AUTHORIZATION, login);
                }
                request.config().timeout_global(Some(left)).build().send(body)
            }
        };
        let response = response.map_err(|error| self.peer.unreached(&error, self.timeout))?;
        self.judge(&response, &wanted)?;
        Ok(Box::new(response.into_body().into_reader()))
    }

    fn judge<B>(&self, response: &Response<B>, wanted: &str) -> Result<(), Failure> {
        let said = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let status = response.status().as_u16();
        match status {
            200 if said(header::CONTENT_TYPE) == Some(wanted) => Ok(()),
            200 => Err(self.peer.no_git()),
            300..=399 => Err(self.peer.redirects(said(header::LOCATION).unwrap_or("nowhere"))),
            401 => Err(self.peer.denied()),
            _ => Err(self.peer.answered(status)),
        }
    }
}

/// Reads the certificates that are trusted.
fn trusted(file: &Path) -> Result<RootCerts, PortError> {
    let refused = |why: &dyn std::fmt::Display| {
        PortError::lasting(
            format!("no certificate can be read from {}: {why}", file.display()),
            "let `caFile` name a file of certificates in PEM form that ferry's user may read",
            Mend::Person,
        )
    };
    let text = std::fs::read(file).map_err(|error| refused(&error))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
    if certificates.is_empty() {
        return Err(refused(&"it holds none"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

#[expect(unsafe_code, reason = "libgit2 keeps its transports in a global list")]
fn speak_https() {
    let factory = |remote: &git2::Remote<'_>| {
        let link = LINK.with_borrow(Clone::clone);
        let link =
            link.ok_or_else(|| git2::Error::from_str("this thread holds no conversation"))?;
        Transport::smart(remote, true, link)
    };
    // SAFETY: the call must not run beside one that makes a transport. It runs within `Once::call_once`, which every
    // conversation over HTTPS waits for, and no other conversation runs: a process speaks to one remote.
    unsafe { register("https", factory) }.expect("nobody else registers this prefix");
}

impl SmartSubtransport for Link {
    fn action(
        &self,
        _url: &str,
        service: Service,
    ) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        Ok(Box::new(Stream { link: self.clone(), service, body: Vec::new(), answer: None }))
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

/// One request: what is written is its body, what is read its answer.
struct Stream {
    link: Link,
    service: Service,
    body: Vec<u8>,
    answer: Option<Box<dyn Read + Send>>,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let answer = match &mut self.answer {
            Some(answer) => answer,
            None => {
                let answer = self.link.ask(self.service, &self.body);
                self.answer.insert(answer.map_err(|failure| self.link.fails(failure))?)
            }
        };
        answer.read(buffer).map_err(|error| {
            let error = ureq::Error::from(error);
            self.link.fails(self.link.peer.unreached(&error, self.link.timeout))
        })
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.body.len() + bytes.len() > BODY_MAX {
            return Err(io::Error::other("what is to be sent is larger than 256 MiB"));
        }
        self.body.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
