//! The property collector: what objects are, read a page at a time, and what changed of them since.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;

use crate::adapter::clock::SystemClock;
use crate::adapter::vsphere::link::{Failure, TIMEOUT};
use crate::adapter::vsphere::session::Session;
use crate::adapter::vsphere::soap::{Fault, Ref, Request};
use crate::port::{Clock as _, PortError};
use crate::xml::Element;

/// How many objects come in one answer: a VM with its devices has some twenty kilobytes.
const PAGE: u32 = 50;

/// How long one question waits for news.
const WAIT: Duration = Duration::from_secs(30);

/// How long the end of a watch may hold up what comes after it.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// More pages than the largest vCenter fills (40,000 VMs and all that they lie in); a server that always has more is ended.
const PAGES_MAX: usize = 4000;

/// What is read of the objects of a type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// The type; those that derive from it are meant, too.
    pub(super) kind: &'static str,
    /// The properties, by their paths.
    pub(super) paths: &'static [&'static str],
}

/// What an object is.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Its properties that are set, by path.
    pub(super) values: Vec<(String, Element)>,
    /// Those that could not be read, and why.
    pub(super) missing: Vec<(String, Fault)>,
}

impl Object {
    /// Returns a property.
    pub(super) fn value(&self, path: &str) -> Option<&Element> {
        self.values.iter().find(|(name, _)| name == path).map(|(_, value)| value)
    }

    fn of(element: &Element) -> Self {
        let value =
            |set: &Element| Some((set.text_of("name")?.to_owned(), set.child("val")?.clone()));
        let values = element.all("propSet").filter_map(value).collect();
        Self { values, missing: missing(element) }
    }
}

fn missing(element: &Element) -> Vec<(String, Fault)> {
    let one = |set: &Element| {
        let fault = Fault::localized(set.child("fault")?);
        Some((set.text_of("path")?.to_owned(), fault))
    };
    element.all("missingSet").filter_map(one).collect()
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) object: Ref,
    /// Whether it is not there any more.
    pub(super) left: bool,
    /// The properties that changed: what they are now, or that they are not set.
    pub(super) values: Vec<(String, Option<Element>)>,
    pub(super) missing: Vec<(String, Fault)>,
}

impl Change {
    fn of(element: &Element) -> Option<Self> {
        let value = |set: &Element| {
            let assigned = set.text_of("op") == Some("assign");
            let value = set.child("val").filter(|_| assigned).cloned();
            Some((set.text_of("name")?.to_owned(), value))
        };
        Some(Self {
            object: Ref::of(element.child("obj")?)?,
            left: element.text_of("kind") == Some("leave"),
            values: element.all("changeSet").filter_map(value).collect(),
            missing: missing(element),
        })
    }
}

/// Asks for the properties of objects.
fn specification(request: Request, name: &str, wishes: &[Wish], objects: &[Meant]) -> Request {
    request.with(name, |mut spec| {
        for Wish { kind, paths } in wishes {
            spec = spec.with("propSet", |set| {
                let set = set.text("type", kind).text("all", false);
                paths.iter().fold(set, |set, path| set.text("pathSet", path))
            });
        }
        objects.iter().fold(spec, |spec, object| match object {
            Meant::Itself(object) => {
                spec.with("objectSet", |set| set.reference("obj", object).text("skip", false))
            }
            Meant::Within(view) => spec.with("objectSet", |set| {
                set.reference("obj", view).text("skip", true).typed(
                    "selectSet",
                    "TraversalSpec",
                    |walk| {
                        walk.text("name", "view")
                            .text("type", "ContainerView")
                            .text("path", "view")
                            .text("skip", false)
                    },
                )
            }),
        })
    })
}

/// Which objects are meant.
enum Meant {
    Itself(Ref),
    /// All that a view holds.
    Within(Ref),
}

impl Session {
    /// Reads properties of objects. Those that are not there fail the call.
    pub(super) fn read(&self, wishes: &[Wish], objects: &[Ref]) -> Result<Vec<Object>, Failure> {
        let logins = self.logins().map_err(Failure::Refused)?;
        let read = self.read_once(wishes, objects)?;
        let expired = |object: &Object| {
            object.missing.iter().any(|(_, fault)| fault.kind == "NotAuthenticated")
        };
        if !read.iter().any(expired) {
            return Ok(read);
        }
        // The session ended within the call, which says so of the properties and succeeds.
        self.end_of(logins);
        self.read_once(wishes, objects)
    }

    fn read_once(&self, wishes: &[Wish], objects: &[Ref]) -> Result<Vec<Object>, Failure> {
        let collector = self.service().map_err(Failure::Refused)?.collector;
        let objects: Vec<Meant> = objects.iter().cloned().map(Meant::Itself).collect();
        let request = Request::new("RetrievePropertiesEx", &collector);
        let request = specification(request, "specSet", wishes, &objects)
            .with("options", |options| options.text("maxObjects", PAGE));
        let mut answer = self.call(&request)?;
        let mut read = Vec::new();
        for _ in 0..PAGES_MAX {
            let Some(result) = answer.child("returnval") else { return Ok(read) };
            read.extend(result.all("objects").map(Object::of));
            let Some(token) = result.text_of("token") else { return Ok(read) };
            let request =
                Request::new("ContinueRetrievePropertiesEx", &collector).text("token", token);
            answer = self.call(&request)?;
        }
        Err(self.endless())
    }

    fn endless(&self) -> Failure {
        Failure::Unanswered(PortError::passing(
            format!("{} has more to tell after {PAGES_MAX} pages", self.link.origin()),
            "look whether other programs can read its inventory",
        ))
    }
}

/// Follows what becomes of objects. It ends with the session that it was made in.
#[derive(Debug)]
pub(super) struct Watch {
    collector: Ref,
    /// What holds the objects, where they are not named one by one.
    view: Option<Ref>,
    /// The login of the session that it was made in.
    logins: u64,
    /// Where the server is with telling.
    version: String,
}

impl Watch {
    /// Watches all objects of these types below the root.
    pub(super) fn all(session: &Session, wishes: &[Wish]) -> Result<Self, Failure> {
        let service = session.service().map_err(Failure::Refused)?;
        let missing = || Failure::Refused(session.incomplete("its viewManager"));
        let views = service.view_manager.clone().ok_or_else(missing)?;
        let mut watch = Self::new(session)?;
        let request =
            Request::new("CreateContainerView", &views).reference("container", &service.root);
        let request = wishes.iter().fold(request, |request, wish| request.text("type", wish.kind));
        let made = session.made(&request.text("recursive", true), "a view of its inventory");
        let filtered = made.and_then(|view| {
            watch.view = Some(view.clone());
            watch.filter(session, wishes, Meant::Within(view))
        });
        watch.or_end(session, filtered)
    }

    /// Follows one object until what it is answers a question, and returns that; `None` where it does not within a time.
    pub(super) fn until<T>(
        session: &Session,
        wish: Wish,
        object: &Ref,
        within: SignedDuration,
        mut answer: impl FnMut(&BTreeMap<String, Element>) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let watch = Self::new(session)?;
        let filtered = watch.filter(session, &[wish], Meant::Itself(object.clone()));
        let mut watch = watch.or_end(session, filtered)?;
        let clock = SystemClock::start();
        let mut known = BTreeMap::new();
        let answered = loop {
            if clock.elapsed() >= within {
                break Ok(None);
            }
            let changes = match watch.changes(session, WAIT) {
                Ok(changes) => changes,
                Err(failure) => break Err(failure),
            };
            if changes.iter().any(|change| change.left) {
                break Err(Failure::Refused(session.incomplete("what became of its work")));
            }
            let values = changes.into_iter().flat_map(|change| change.values);
            known.extend(values.filter_map(|(path, value)| Some((path, value?))));
            if let Some(found) = answer(&known) {
                break Ok(Some(found));
            }
        };
        watch.end(session);
        answered
    }

    /// Has a collector of its own: what waits at one ends what waits there already.
    fn new(session: &Session) -> Result<Self, Failure> {
        let logins = session.logins().map_err(Failure::Refused)?;
        let root = session.service().map_err(Failure::Refused)?.collector;
        let request = Request::new("CreatePropertyCollector", &root);
        let collector = session.made(&request, "a property collector")?;
        Ok(Self { collector, view: None, logins, version: String::new() })
    }

    fn filter(&self, session: &Session, wishes: &[Wish], meant: Meant) -> Result<(), Failure> {
        let request = Request::new("CreateFilter", &self.collector);
        let request =
            specification(request, "spec", wishes, &[meant]).text("partialUpdates", false);
        session.call(&request).map(drop)
    }

    fn or_end(self, session: &Session, made: Result<(), Failure>) -> Result<Self, Failure> {
        match made {
            Ok(()) => Ok(self),
            Err(failure) => {
                self.end(session);
                Err(failure)
            }
        }
    }

    /// Returns what changed since the last answer, all of it; at first that is everything. Waits at most so long for a first
    /// change. A watch that failed is to be ended: another one begins with everything.
    pub(super) fn changes(
        &mut self,
        session: &Session,
        wait: Duration,
    ) -> Result<Vec<Change>, Failure> {
        let ended = || Failure::Refused(session.incomplete("what changed: its session ended"));
        let mut changes = Vec::new();
        for _ in 0..PAGES_MAX {
            if !session.lasts_since(self.logins) {
                return Err(ended());
            }
            let wait = if changes.is_empty() { wait } else { Duration::ZERO };
            let request = Request::new("WaitForUpdatesEx", &self.collector)
                .text("version", &self.version)
                .with("options", |options| {
                    options.text("maxWaitSeconds", wait.as_secs()).text("maxObjectUpdates", PAGE)
                });
            let answer = session.call_within(&request, TIMEOUT + wait)?;
            let Some(set) = answer.child("returnval") else { return Ok(changes) };
            let filters = set.all("filterSet");
            changes.extend(filters.flat_map(|set| set.all("objectSet").filter_map(Change::of)));
            let expired = |change: &Change| {
                change.missing.iter().any(|(_, fault)| fault.kind == "NotAuthenticated")
            };
            if changes.iter().any(expired) {
                session.end_of(self.logins);
                return Err(ended());
            }
            set.text_of("version").unwrap_or_default().clone_into(&mut self.version);
            if set.text_of("truncated") != Some("true") {
                return Ok(changes);
            }
        }
        Err(session.endless())
    }

    /// Ends it at the server, where the session is still the one that it was made in: it went with any other.
    pub(super) fn end(self, session: &Session) {
        let view = self.view.map(|view| Request::new("DestroyView", &view));
        let collector = Request::new("DestroyPropertyCollector", &self.collector);
        for request in view.into_iter().chain([collector]) {
            if session.lasts_since(self.logins) {
                // What is not ended now ends with the session.
                let _ = session.call_within(&request, END_TIMEOUT);
            }
        }
    }
}
