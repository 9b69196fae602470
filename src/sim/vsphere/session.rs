//! Sessions: who is logged in, since when, and what dies with the login.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::collector::Token;
use super::fault::Fault;
use super::methods::{Call, Reply};
use super::updates::Collector;
use super::value::{Data, Ref, Value, long, time};
use super::world::World;

/// All logins, by the value of their cookie.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pub(super) open: BTreeMap<String, Session>,
    /// Tickets for single requests, by id.
    pub(super) tickets: BTreeMap<String, Ticket>,
}

/// One login.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: String,
    login: Timestamp,
    active_at: Timestamp,
    /// The time of the last request, since the start of the server.
    active: Duration,
    calls: u64,
    pub(super) views: BTreeMap<Arc<str>, View>,
    pub(super) collectors: BTreeMap<Arc<str>, Collector>,
    pub(super) tokens: BTreeMap<String, Token>,
}

/// A container view.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) container: Ref,
    pub(super) kinds: Vec<String>,
    pub(super) recursive: bool,
}

/// Lets one request through without a session.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The path and query that it is for.
    pub(super) target: String,
    pub(super) method: Option<String>,
}

impl Session {
    pub(super) fn describe(&self, user: &str) -> Data {
        Data::new("UserSession")
            .with("key", &self.key)
            .with("userName", user.to_owned())
            .with("fullName", user.to_owned())
            .with("loginTime", time(self.login))
            .with("lastActiveTime", time(self.active_at))
            .with("locale", "en")
            .with("messageLocale", "en")
            .with("extensionSession", false)
            .with("ipAddress", "127.0.0.1")
            .with("userAgent", "")
            .with("callCount", long(self.calls))
    }
}

impl World {
    /// Ends the sessions that were idle for too long.
    pub(super) fn expire_sessions(&mut self) {
        let (elapsed, idle) = (self.elapsed, self.scenario.sessions.idle.0);
        self.sessions.open.retain(|_, session| elapsed.saturating_sub(session.active) < idle);
    }

    /// Notes a request of a session; `false` = there is no such one.
    pub(super) fn touch_session(&mut self, cookie: &str) -> bool {
        let (now, elapsed) = (self.now, self.elapsed);
        let Some(session) = self.sessions.open.get_mut(cookie) else { return false };
        session.active = elapsed;
        session.active_at = now;
        session.calls += 1;
        true
    }

    /// Opens a session and returns its cookie.
    pub(super) fn log_in(&mut self, username: &str, password: &str) -> Result<String, Fault> {
        if (username, password) != (&self.scenario.username, &self.scenario.password) {
            let message = "Cannot complete login due to an incorrect user name or password.";
            return Err(Fault::new("InvalidLogin", message));
        }
        if self.sessions.open.len() >= self.scenario.sessions.maximum {
            return Err(Fault::system("Out of HTTP sessions: Limited to the maximum"));
        }
        let (key, secret) = (self.new_uuid(), self.new_uuid());
        let session = Session {
            key: format!("52{}", key.get(2..).unwrap_or_default()),
            login: self.now,
            active_at: self.now,
            active: self.elapsed,
            calls: 0,
            views: BTreeMap::new(),
            collectors: BTreeMap::new(),
            tokens: BTreeMap::new(),
        };
        // The cookie of a real server is quoted; whoever unquotes it is a stranger.
        let cookie = format!("\"{}\"", secret.replace('-', ""));
        self.sessions.open.insert(cookie.clone(), session);
        Ok(cookie)
    }
}

pub(super) fn login(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    if call.cookie.is_some_and(|cookie| world.sessions.open.contains_key(cookie)) {
        return Err(Fault::new("InvalidLogin", "The session is logged in already."));
    }
    let given = |name| call.arguments.text_of(name).unwrap_or_default();
    let cookie = world.log_in(given("userName"), given("password"))?;
    let session = &world.sessions.open[&cookie];
    Ok(Reply::Session { value: session.describe(&world.scenario.username).into(), cookie })
}

#[expect(clippy::unnecessary_wraps, reason = "all methods answer alike")]
pub(super) fn logout(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    if let Some(cookie) = call.cookie {
        world.sessions.open.remove(cookie);
    }
    Ok(Reply::nothing())
}

pub(super) fn is_active(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    if world.scenario.esxi {
        return Err(Fault::new("NotImplemented", "The operation is not implemented."));
    }
    let key = call.arguments.text_of("sessionID").unwrap_or_default();
    let user = call.arguments.text_of("userName").unwrap_or_default();
    let active = user == world.scenario.username
        && world.sessions.open.values().any(|session| session.key == key);
    Ok(Reply::Value(active.into()))
}

pub(super) fn acquire_ticket(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let spec = call.arguments.child("spec").ok_or_else(|| Fault::invalid_argument("spec"))?;
    let url = spec.text_of("url").ok_or_else(|| Fault::invalid_argument("spec.url"))?;
    let target = url.split_once("://").map_or(url, |(_, rest)| rest);
    let target = target.find('/').map_or("/", |at| &target[at..]).to_owned();
    let method = match spec.text_of("method") {
        None => None,
        Some("httpGet") => Some("GET".to_owned()),
        Some("httpHead") => Some("HEAD".to_owned()),
        Some("httpPut") => Some("PUT".to_owned()),
        Some(_) => return Err(Fault::invalid_argument("spec.method")),
    };
    let id = world.new_uuid();
    world.sessions.tickets.insert(id.clone(), Ticket { target, method });
    let ticket = Data::new("SessionManagerGenericServiceTicket")
        .with("id", id)
        .with("hostName", Value::Unset)
        .with("sslThumbprint", &world.thumbprint);
    Ok(Reply::Value(ticket.into()))
}
