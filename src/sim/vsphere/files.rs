//! Datastore files over HTTPS: descriptors as text, flat disks by ranges.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, SET_COOKIE,
    WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};

use super::disk::{Content, Disk};
use super::inventory::Entity;
use super::scenario::DiskBacking;
use super::server::{Body, Cut, built, cookie, header, refused};
use super::shared::Shared;
use super::world::World;

/// A piece of a body.
const PIECE: usize = 256 << 10;

/// What a path names.
enum Found {
    Text(String),
    Flat(Arc<Content>),
}

/// Who asks.
struct Proof {
    cookie: Option<String>,
    ticket: Option<String>,
    basic: Option<(String, String)>,
}

/// Prepares the answer to a request below `/folder/`; its argument says after how many bytes the connection is cut.
pub(super) fn folder(
    shared: Arc<Shared>,
    request: &Request<Incoming>,
) -> impl FnOnce(Option<u64>) -> Response<Body> + use<> {
    let proof = Proof {
        cookie: cookie(request, "vmware_soap_session"),
        ticket: cookie(request, "vmware_cgi_ticket"),
        basic: basic(&header(request, "authorization")),
    };
    let (uri, method) = (request.uri().clone(), request.method().clone());
    let range = header(request, "range");
    move |cut| {
        let target = uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
        let found = shared.enter(|world| {
            let opened = world.admit(&proof, &method, &target)?;
            let path = uri.path().strip_prefix("/folder/").unwrap_or_default();
            let query = uri.query().unwrap_or_default();
            let found = world.file(&decoded(path), query)?;
            Ok((found, opened))
        });
        let (found, opened) = match found {
            Ok(found) => found,
            Err(status) => return unadmitted(status),
        };
        let mut response = match found {
            Found::Text(text) => {
                let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
                let bytes = Bytes::from(text);
                ranged(&method, &range, length, move |from, to| {
                    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                    Either::Left(Full::new(bytes.slice(place(from)..place(to))))
                })
            }
            Found::Flat(content) => {
                let length = content.capacity;
                ranged(&method, &range, length, move |from, to| stream(content, from, to, cut))
            }
        };
        let opened =
            opened.map(|cookie| format!("vmware_soap_session={cookie}; Path=/; HttpOnly; Secure"));
        if let Some(Ok(value)) = opened.map(|cookie| HeaderValue::from_str(&cookie)) {
            response.headers_mut().insert(SET_COOKIE, value);
        }
        response
    }
}

impl World {
    /// Lets a request through by its session, ticket or password; returns the cookie of a session that it opened.
    fn admit(
        &mut self,
        proof: &Proof,
        method: &Method,
        target: &str,
    ) -> Result<Option<String>, StatusCode> {
        if proof.cookie.as_ref().is_some_and(|cookie| self.touch_session(cookie)) {
            return Ok(None);
        }
        if let Some(ticket) = &proof.ticket
            && let Some(ticket) = self.sessions.tickets.remove(ticket.trim_matches('"'))
            && ticket.target == target
            && ticket.method.is_none_or(|wanted| wanted == method.as_str())
        {
            return Ok(None);
        }
        let (user, password) = proof.basic.as_ref().ok_or(StatusCode::UNAUTHORIZED)?;
        self.log_in(user, password).map(Some).map_err(|_| StatusCode::UNAUTHORIZED)
    }

    /// Finds the file that a path below a datastore names.
    fn file(&self, path: &str, query: &str) -> Result<Found, StatusCode> {
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
        };
        let wanted = parameter("dsName").ok_or(StatusCode::NOT_FOUND)?;
        let center = parameter("dcPath");
        // Clients encode these once or twice: both are understood, as names without special characters are.
        let is = |name: &str, given: &str| name == given || name == decoded(given);
        let datastores = self.inventory.all().filter(|object| is(&object.name, &wanted));
        let mut datastores = datastores.filter(|object| {
            let datacenter = self.inventory.datacenter(&object.me.id);
            matches!(object.entity, Entity::Datastore { .. })
                && datacenter.is_some_and(|datacenter| {
                    center.as_ref().is_none_or(|center| is(&datacenter.name, center))
                })
        });
        let datastore = datastores.next().ok_or(StatusCode::NOT_FOUND)?;
        if self.denied(&datastore.me, "Datastore.Browse") {
            return Err(StatusCode::FORBIDDEN);
        }
        let Entity::Datastore { vms, .. } = &datastore.entity else {
            return Err(StatusCode::NOT_FOUND);
        };
        for machine in vms.iter().filter_map(|vm| self.inventory.vm(&vm.id)) {
            for disk in machine.disks.iter().filter(|disk| disk.datastore == datastore.me) {
                let kept = machine.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
                let mut chain: Vec<&Disk> = kept.filter(|kept| kept.key == disk.key).collect();
                chain.push(disk);
                if let Some(found) = of_chain(&chain, path) {
                    return Ok(found);
                }
            }
        }
        Err(StatusCode::NOT_FOUND)
    }
}

/// Finds a file of a disk's chain, the oldest of which is the base.
fn of_chain(chain: &[&Disk], path: &str) -> Option<Found> {
    let base = chain.iter().find(|disk| disk.delta == 0)?;
    let is_flat =
        base.rdm.is_none() && matches!(base.backing, DiskBacking::FlatVer2 | DiskBacking::FlatVer1);
    if is_flat && path == format!("{}-flat.vmdk", base.base) {
        return Some(Found::Flat(base.content.clone()));
    }
    let at = chain.iter().position(|disk| disk.path() == path)?;
    let parent =
        at.checked_sub(1).map(|at| chain[at]).filter(|parent| parent.delta < chain[at].delta);
    Some(Found::Text(descriptor(chain[at], parent)))
}

/// Writes the text file that describes a disk.
fn descriptor(disk: &Disk, parent: Option<&Disk>) -> String {
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let sectors = disk.capacity / 512;
    let content = |disk: &Disk| disk.uuid.get(..8).unwrap_or("fffffffe").to_owned();
    let (kind, extent, parent) = match parent {
        None => ("vmfs", format!("VMFS \"{}-flat.vmdk\"", name(&disk.base)), String::new()),
        Some(parent) => (
            "vmfsSparse",
            format!("VMFSSPARSE \"{}\"", name(&disk.path()).replace(".vmdk", "-delta.vmdk")),
            format!("parentFileNameHint=\"{}\"\n", name(&parent.path())),
        ),
    };
    let parent_content = if parent.is_empty() { "ffffffff".to_owned() } else { content(disk) };
    format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={}\nparentCID={parent_content}\n\
         createType=\"{kind}\"\n{parent}\n# Extent description\nRW {sectors} {extent}\n\n\
         # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{}\"\nddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\n\
         ddb.thinProvisioned = \"{}\"\nddb.uuid = \"{}\"\nddb.virtualHWVersion = \"19\"\n",
        content(disk),
        sectors / (255 * 63),
        u8::from(disk.thin),
        disk.uuid,
    )
}

fn unadmitted(status: StatusCode) -> Response<Body> {
    let mut response = refused(status.as_u16());
    if status == StatusCode::UNAUTHORIZED {
        let basic = HeaderValue::from_static("Basic realm=\"VMware HTTP server\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, basic);
    }
    response
}

/// Answers with the range that was asked for; its body is made from the first byte on and before the second.
fn ranged(
    method: &Method,
    range: &str,
    length: u64,
    body: impl FnOnce(u64, u64) -> Body,
) -> Response<Body> {
    let (status, from, to) = match Asked::read(range, length) {
        Asked::Whole => (StatusCode::OK, 0, length),
        Asked::Part(from, to) => (StatusCode::PARTIAL_CONTENT, from, to),
        Asked::Behind => {
            let response = Response::builder()
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(CONTENT_RANGE, format!("bytes */{length}"))
                .header(CONTENT_LENGTH, 0);
            return built(response, Either::Left(Full::default()));
        }
    };
    let mut response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes")
        .header(CONTENT_LENGTH, to - from);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {from}-{}/{length}", to - 1);
        response = response.header(CONTENT_RANGE, range);
    }
    let empty = method == Method::HEAD || from == to;
    built(response, if empty { Either::Left(Full::default()) } else { body(from, to) })
}

/// What a request asks for of a file.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// No range, or several, which may be ignored.
    Whole,
    /// From the first byte on and before the second.
    Part(u64, u64),
    /// What lies behind the end.
    Behind,
}

impl Asked {
    fn read(range: &str, length: u64) -> Self {
        let bounds = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let Some((first, last)) = bounds else { return Self::Whole };
        let (from, to) = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
            (Ok(from), Ok(last)) if last >= from => (from, last.saturating_add(1).min(length)),
            (Ok(from), Err(_)) if last.trim().is_empty() => (from, length),
            (Err(_), Ok(count)) if first.trim().is_empty() => {
                (length.saturating_sub(count), length)
            }
            _ => return Self::Whole,
        };
        if from < to { Self::Part(from, to) } else { Self::Behind }
    }
}

/// Sends a part of a disk.
fn stream(content: Arc<Content>, from: u64, to: u64, cut: Option<u64>) -> Body {
    let (sender, channel) = Channel::new(4);
    tokio::task::spawn_blocking(move || pump(&content, from, to, cut, sender));
    Either::Right(channel)
}

fn pump(content: &Content, from: u64, to: u64, cut: Option<u64>, mut sender: Sender<Bytes, Cut>) {
    let runtime = tokio::runtime::Handle::current();
    let end = cut.map_or(to, |bytes| from.saturating_add(bytes).min(to));
    let mut at = from;
    while at < end {
        let piece = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let mut bytes = vec![0; piece];
        if content.file.read_exact_at(&mut bytes, at).is_err() {
            break;
        }
        if runtime.block_on(sender.send_data(bytes.into())).is_err() {
            return;
        }
        at += u64::try_from(piece).unwrap_or(u64::MAX);
    }
    if at < to {
        sender.abort(Cut);
    }
}

fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    let bytes = Base64::decode_vec(encoded.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| (user.to_owned(), password.to_owned()))
}

/// Undoes the escapes of a URL; what is no escape stays.
pub(super) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|pair| hex::decode(pair).ok());
        match (bytes[at], escape) {
            (b'%', Some(escape)) => {
                out.extend(escape);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        assert_eq!(Asked::read("bytes=0-511", 1000), Asked::Part(0, 512));
        assert_eq!(Asked::read("bytes=990-2000", 1000), Asked::Part(990, 1000));
        assert_eq!(Asked::read("bytes=-10", 1000), Asked::Part(990, 1000));
        assert_eq!(Asked::read("bytes=5-", 1000), Asked::Part(5, 1000));
        assert_eq!(Asked::read("bytes=1000-", 1000), Asked::Behind);
        assert_eq!(Asked::read("", 1000), Asked::Whole);
        assert_eq!(Asked::read("bytes=0-1,5-6", 1000), Asked::Whole);
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(decoded("a%2fb%20c+d%"), "a/b c d%");
        assert_eq!(decoded("a%2520b"), "a%20b");
    }
}
