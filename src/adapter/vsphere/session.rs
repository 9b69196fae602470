//! A session with a server: logged in when it is first needed, again when it expired, and out at the end.
//!
//! # Guarantees
//!
//! - The password is read when it is sent, from the file of the settings. One that was refused is not sent again until the file
//!   holds another: accounts lock.
//! - A call is repeated only after the server said that it was not logged in, that is, did nothing.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::adapter::secret::Secret;
use crate::adapter::vsphere::link::{Failure, Link, TIMEOUT};
use crate::adapter::vsphere::soap::{Fault, Ref, Request};
use crate::copy::protocol::Access;
use crate::domain::text::visible;
use crate::journal::record::Mend;
use crate::port::PortError;
use crate::xml::Element;

/// The version that every server from 6.5 on knows. What it is asked with learns the server's own.
const FIRST_VERSION: &str = "6.5";

/// How long the end of a session may hold up the end of a program.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(3);

/// What a server says of itself before anybody logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// Whether it is a vCenter; else a single host.
    pub(super) is_vcenter: bool,
    /// The version of its API.
    pub(super) version: String,
    /// Its full name (`VMware vCenter Server 8.0.2 build-…`).
    pub(super) name: String,
    /// The UUID of a vCenter; empty on a host.
    pub(super) uuid: String,
    pub(super) root: Ref,
    pub(super) collector: Ref,
    session_manager: Option<Ref>,
    pub(super) view_manager: Option<Ref>,
    pub(super) search_index: Option<Ref>,
    pub(super) event_manager: Option<Ref>,
    pub(super) authorization: Option<Ref>,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) link: Link,
    access: Access,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    service: Option<Service>,
    cookie: Option<String>,
    /// What the server calls the session.
    key: String,
    /// Whether it was given back for good.
    closed: bool,
    /// How often it was logged in: what the server keeps for a session ends with it.
    logins: u64,
    /// What the refused password hashes to.
    refused: Option<blake3::Hash>,
}

impl Session {
    /// Prepares a session; connects to nothing.
    pub(super) fn new(access: &Access) -> Result<Self, PortError> {
        let link = Link::new(&access.url, &access.trust)?;
        Ok(Self { link, access: access.clone(), state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the server says of itself, logged in.
    pub(super) fn service(&self) -> Result<Service, PortError> {
        let mut state = self.lock();
        self.log_in(&mut state)?;
        Ok(state.service.clone().expect("a login begins with it"))
    }

    /// Returns how often it was logged in, logged in.
    pub(super) fn logins(&self) -> Result<u64, PortError> {
        let mut state = self.lock();
        self.log_in(&mut state)?;
        Ok(state.logins)
    }

    /// Returns what the server calls the session, logged in.
    pub(super) fn key(&self) -> Result<String, PortError> {
        let mut state = self.lock();
        self.log_in(&mut state)?;
        Ok(state.key.clone())
    }

    /// Returns the cookie, logged in. `refused` is one that the server did not take any more.
    pub(super) fn cookie(&self, refused: Option<&str>) -> Result<String, PortError> {
        let mut state = self.lock();
        if state.cookie.as_deref() == refused {
            state.cookie = None;
        }
        self.log_in(&mut state)?;
        Ok(state.cookie.clone().expect("just logged in"))
    }

    /// Calls a method that makes an object, and returns that.
    pub(super) fn made(&self, request: &Request, what: &str) -> Result<Ref, Failure> {
        let answer = self.call(request)?;
        let made = answer.child("returnval").and_then(Ref::of);
        made.ok_or_else(|| Failure::Refused(self.incomplete(what)))
    }

    /// Tells whether the session of a login is still the present one.
    pub(super) fn lasts_since(&self, logins: u64) -> bool {
        let state = self.lock();
        state.logins == logins && state.cookie.is_some()
    }

    /// Says that the session of a login is over, so that the next call logs in.
    pub(super) fn end_of(&self, logins: u64) {
        let mut state = self.lock();
        if state.logins == logins {
            state.cookie = None;
        }
    }

    /// Gives the session back, where that works at once: servers count them.
    pub(super) fn log_out(&self) {
        // Whoever logs in at this moment is not waited for.
        let Ok(mut state) = self.state.try_lock() else { return };
        state.closed = true;
        let manager = state.service.as_ref().and_then(|service| service.session_manager.clone());
        if let (Some(cookie), Some(manager)) = (state.cookie.take(), manager) {
            let request = Request::new("Logout", &manager);
            let _ = self.link.call(&request, &state.version(), Some(&cookie), LOGOUT_TIMEOUT);
        }
    }

    /// Calls a method, logged in.
    pub(super) fn call(&self, request: &Request) -> Result<Element, Failure> {
        self.call_within(request, TIMEOUT)
    }

    /// Calls a method whose answer may take so long.
    pub(super) fn call_within(
        &self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Element, Failure> {
        let (cookie, version) = {
            let mut state = self.lock();
            self.log_in(&mut state).map_err(Failure::Refused)?;
            (state.cookie.clone(), state.version())
        };
        match self.link.call(request, &version, cookie.as_deref(), timeout) {
            Err(Failure::Fault(fault)) if fault.kind == "NotAuthenticated" => {
                let cookie = self.cookie(cookie.as_deref()).map_err(Failure::Refused)?;
                self.link.call(request, &version, Some(&cookie), timeout).map(|(done, _)| done)
            }
            answer => answer.map(|(done, _)| done),
        }
    }

    fn log_in(&self, state: &mut State) -> Result<(), PortError> {
        if state.cookie.is_some() {
            return Ok(());
        }
        if state.closed {
            return Err(PortError::passing("the session was given back", "nothing: ferry ends"));
        }
        // Each time: another server may answer to the name by now, or the same one in another version.
        let request =
            Request::new("RetrieveServiceContent", &Ref::new("ServiceInstance", "ServiceInstance"));
        let answer = self.link.call(&request, FIRST_VERSION, None, TIMEOUT);
        let (answer, _) = answer.map_err(|failure| self.failed("ask", &failure))?;
        state.service = Some(self.content(&answer)?);
        let secret = Secret::read(self.access.password_file.as_ref())?;
        let hash = blake3::hash(secret.expose().as_bytes());
        if state.refused == Some(hash) {
            return Err(self.denied());
        }
        let manager = state.service.as_ref().and_then(|service| service.session_manager.clone());
        let Some(manager) = manager else {
            return Err(self.incomplete("sessionManager"));
        };
        let request = Request::new("Login", &manager)
            .text("userName", &self.access.username)
            .text("password", secret.expose());
        match self.link.call(&request, &state.version(), None, TIMEOUT) {
            Ok((answer, Some(cookie))) => {
                let session = answer.child("returnval");
                let key = session.and_then(|it| it.text_of("key")).unwrap_or_default();
                key.clone_into(&mut state.key);
                state.cookie = Some(cookie);
                state.logins += 1;
                state.refused = None;
                Ok(())
            }
            Ok((_, None)) => Err(self.incomplete("a session's cookie")),
            Err(Failure::Fault(fault)) if fault.kind == "InvalidLogin" => {
                state.refused = Some(hash);
                Err(self.denied())
            }
            Err(failure) => Err(self.failed("log in", &failure)),
        }
    }

    fn content(&self, answer: &Element) -> Result<Service, PortError> {
        let content = answer.child("returnval").ok_or_else(|| self.incomplete("its content"))?;
        let about = content.child("about").ok_or_else(|| self.incomplete("`about`"))?;
        let object = |name: &str| content.child(name).and_then(Ref::of);
        let needed = |name: &str| object(name).ok_or_else(|| self.incomplete(name));
        let text = |name: &str| about.text_of(name).unwrap_or_default().to_owned();
        Ok(Service {
            is_vcenter: about.text_of("apiType") == Some("VirtualCenter"),
            version: text("apiVersion"),
            name: text("fullName"),
            uuid: text("instanceUuid").to_ascii_lowercase(),
            root: needed("rootFolder")?,
            collector: needed("propertyCollector")?,
            session_manager: object("sessionManager"),
            view_manager: object("viewManager"),
            search_index: object("searchIndex"),
            event_manager: object("eventManager"),
            authorization: object("authorizationManager"),
        })
    }

    fn denied(&self) -> PortError {
        let Access { username, password_file, .. } = &self.access;
        PortError::lasting(
            format!(
                "{} refused the login of `{}` with the password in {password_file}",
                self.link.origin(),
                visible(username)
            ),
            "write a valid password into that file; it is read again, and not sent again until then",
            Mend::Source,
        )
    }

    pub(super) fn incomplete(&self, what: &str) -> PortError {
        PortError::passing(
            format!("{} does not tell {what}", self.link.origin()),
            "check that `url` is the address of a vCenter or an ESXi host",
        )
    }

    /// Puts a failure into words: what was tried, of which the server said no, or nothing.
    pub(super) fn failed(&self, tried: &str, failure: &Failure) -> PortError {
        match failure {
            Failure::Unanswered(error) | Failure::Refused(error) => error.clone(),
            Failure::Fault(fault) => self.refused(tried, fault),
        }
    }

    /// Puts a fault into words.
    pub(super) fn refused(&self, tried: &str, fault: &Fault) -> PortError {
        let origin = self.link.origin();
        let said = if fault.text.is_empty() { "it gives no reason" } else { &fault.text };
        let kind = if fault.kind.is_empty() { "a fault" } else { &fault.kind };
        let text = format!("{origin} refuses to {tried}: {} ({})", visible(said), visible(kind));
        let user = visible(&self.access.username);
        match fault.kind.as_str() {
            "NoPermission" => {
                let privilege = fault.detail.text_of("privilegeId").unwrap_or("a privilege");
                let object = fault.detail.text_of("object").unwrap_or("an object");
                PortError::lasting(
                    format!("{text}: `{user}` lacks {} on {}", visible(privilege), visible(object)),
                    "give the account's role that privilege; `ferry doctor` lists all that it lacks",
                    Mend::Source,
                )
            }
            "RestrictedVersion" | "LicenseRestricted" | "NotSupported" => PortError::lasting(
                text,
                "its license or version does not allow that through the API: use a licensed server",
                Mend::Person,
            ),
            "NoDiskSpace" | "FileLocked" => {
                PortError::lasting(text, "look at the datastore of the VM", Mend::Source)
            }
            _ => PortError::passing(text, "look at the server's tasks and events of that VM"),
        }
    }
}

/// A cookie is a secret.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

impl State {
    /// Returns the version to speak.
    fn version(&self) -> String {
        let known = self.service.as_ref().map(|service| service.version.clone());
        known.filter(|version| !version.is_empty()).unwrap_or_else(|| FIRST_VERSION.to_owned())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.log_out();
    }
}

/// Reads a time of the server.
pub(super) fn time(element: &Element) -> Option<Timestamp> {
    element.text().parse().ok()
}
