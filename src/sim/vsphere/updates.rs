//! Filters and what changed since a version.
//!
//! A collector remembers what each of its filters told of each object. An answer tells the difference and moves that memory
//! on; until the next version is asked for, what the answer moved can be taken back, so that the last version that was not
//! truncated may be asked for again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::collector::Spec;
use super::fault::Fault;
use super::methods::{Call, Reply};
use super::session::Session;
use super::soap::{number, truth};
use super::value::{Data, Ref, Value, list, word};
use super::world::World;

/// How long a wait without a limit lasts.
const WAIT_MAX: Duration = Duration::from_mins(10);
/// Collectors, and filters of one, of a session.
const COLLECTORS_MAX: usize = 100;

/// A property collector of a session.
#[derive(Debug, Default)]
pub(super) struct Collector {
    filters: Vec<Filter>,
    /// Of the last answer.
    version: u64,
    /// Whether that answer was cut off.
    truncated: bool,
    /// The last version that was asked for and was not truncated.
    base: u64,
    /// What was known at that version and is known otherwise now.
    before: HashMap<(Ref, Ref), Option<Known>>,
    /// The request that waits.
    waiter: u64,
}

#[derive(Debug)]
struct Filter {
    me: Ref,
    spec: Spec,
    known: HashMap<Ref, Known>,
    /// What happened, in the world's count, when nothing was left to tell.
    told: Option<u64>,
}

/// What a filter told of an object.
#[derive(Clone, Debug)]
struct Known {
    /// The revision of the object; `None` = it has none, and is read each time.
    revision: Option<u64>,
    values: Vec<(String, Value)>,
    hidden: bool,
}

/// What an object became.
struct Change {
    data: Data,
    known: Option<Known>,
}

/// Returns a collector of the session, the one that every session has among them.
fn collector<'a>(world: &'a mut World, call: &Call<'_>) -> Result<&'a mut Collector, Fault> {
    let session = call.cookie.and_then(|cookie| world.sessions.open.get_mut(cookie));
    let session = session.ok_or_else(|| Fault::not_authenticated(&call.this))?;
    Ok(session.collectors.entry(call.this.id.clone()).or_default())
}

fn session<'a>(world: &'a mut World, call: &Call<'_>) -> Result<&'a mut Session, Fault> {
    let session = call.cookie.and_then(|cookie| world.sessions.open.get_mut(cookie));
    session.ok_or_else(|| Fault::not_authenticated(&call.this))
}

/// Tells whether a session has such a collector or filter.
pub(super) fn exists(world: &World, cookie: Option<&str>, of: &Ref) -> bool {
    let session = cookie.and_then(|cookie| world.sessions.open.get(cookie));
    session.is_some_and(|session| match of.kind {
        "PropertyCollector" => session.collectors.contains_key(&of.id),
        "PropertyFilter" => {
            let filters = session.collectors.values().flat_map(|collector| &collector.filters);
            filters.into_iter().any(|filter| filter.me == *of)
        }
        _ => false,
    })
}

/// Answers `CreatePropertyCollector`.
pub(super) fn create_collector(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let id = world.new_uuid();
    let session = session(world, call)?;
    if session.collectors.len() >= COLLECTORS_MAX {
        return Err(Fault::system("the session has too many collectors"));
    }
    let me = Ref::new("PropertyCollector", &format!("session[{}]{id}", session.key));
    session.collectors.insert(me.id.clone(), Collector::default());
    Ok(Reply::Value(me.into()))
}

/// Answers `DestroyPropertyCollector`.
pub(super) fn destroy_collector(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    if call.this.id.starts_with("session[") {
        session(world, call)?.collectors.remove(&call.this.id);
        world.note();
        return Ok(Reply::nothing());
    }
    Err(Fault::new("NotSupported", "The collector of the session itself stays."))
}

/// Answers `CreateFilter`.
pub(super) fn create_filter(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let spec = call.arguments.child("spec").ok_or_else(|| Fault::invalid_argument("spec"))?;
    let spec = Spec::parse(world, call, spec)?;
    truth(call.arguments, "partialUpdates")?;
    // A path that no such type has is refused here, not when the first object is read.
    for object in spec.select(world, call.cookie).iter().take(1) {
        spec.read(world, call.cookie, object)?;
    }
    let id = world.new_uuid();
    let key = session(world, call)?.key.clone();
    let collector = collector(world, call)?;
    if collector.filters.len() >= COLLECTORS_MAX {
        return Err(Fault::system("the collector has too many filters"));
    }
    let me = Ref::new("PropertyFilter", &format!("session[{key}]{id}"));
    collector.filters.push(Filter { me: me.clone(), spec, known: HashMap::new(), told: None });
    world.note();
    Ok(Reply::Value(me.into()))
}

/// Answers `DestroyPropertyFilter`.
pub(super) fn destroy_filter(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    for collector in session(world, call)?.collectors.values_mut() {
        collector.filters.retain(|filter| filter.me != call.this);
    }
    world.note();
    Ok(Reply::nothing())
}

/// Answers `CancelWaitForUpdates`: whoever waits is told.
pub(super) fn cancel(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    collector(world, call)?.waiter = 0;
    world.note();
    Ok(Reply::nothing())
}

/// Answers `WaitForUpdatesEx`.
pub(super) fn wait(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let options = call.arguments.child("options");
    let asked =
        |name| options.map(|options| number(options, name)).transpose().map(Option::flatten);
    let wait = asked("maxWaitSeconds")?.map_or(WAIT_MAX, Duration::from_secs).min(WAIT_MAX);
    let page = asked("maxObjectUpdates")?
        .map_or(usize::MAX, |asked: u64| usize::try_from(asked).unwrap_or(usize::MAX));
    if page == 0 {
        return Err(Fault::invalid_argument("options.maxObjectUpdates"));
    }
    let page = page.min(world.scenario.pages.updates);
    let waited = world.elapsed.saturating_sub(call.since);
    let first = call.is_first;
    let version = call.arguments.text_of("version").unwrap_or_default();
    let collector = collector(world, call)?;
    if first {
        collector.begin(version)?;
        collector.waiter = call.number;
    } else if collector.waiter != call.number {
        let message = "The request was canceled by another one.";
        return Err(Fault::new("RequestCanceled", message));
    }
    // It is taken out while the world is read.
    let mut taken = std::mem::take(collector);
    let updates = taken.updates(world, call, page);
    let kept = self::collector(world, call)?;
    *kept = taken;
    let (filters, truncated) = updates?;
    if !filters.is_empty() || truncated {
        kept.version += 1;
        kept.truncated = truncated;
        let set = Data::new("UpdateSet")
            .with("version", kept.version.to_string())
            .with("filterSet", list("PropertyFilterUpdate", filters))
            .with("truncated", truncated.then_some(true));
        return Ok(Reply::Value(set.into()));
    }
    if waited >= wait {
        return Ok(Reply::nothing());
    }
    Ok(Reply::Later(wait.saturating_sub(waited)))
}

impl Collector {
    /// Goes to the version that is asked for.
    fn begin(&mut self, version: &str) -> Result<(), Fault> {
        let stale = || Fault::new("InvalidCollectorVersion", "The version is not known any more.");
        if version.is_empty() {
            for filter in &mut self.filters {
                filter.known.clear();
                filter.told = None;
            }
            self.before.clear();
            self.truncated = false;
            self.base = self.version;
            return Ok(());
        }
        let version: u64 = version.parse().map_err(|_| stale())?;
        if version == self.version {
            if !self.truncated {
                self.base = version;
                self.before.clear();
            }
            return Ok(());
        }
        if version != self.base || version == 0 {
            return Err(stale());
        }
        // The answer was lost: what it told is not known.
        for ((filter, object), known) in std::mem::take(&mut self.before) {
            let Some(filter) = self.filters.iter_mut().find(|other| other.me == filter) else {
                continue;
            };
            filter.told = None;
            match known {
                Some(known) => filter.known.insert(object, known),
                None => filter.known.remove(&object),
            };
        }
        self.truncated = false;
        Ok(())
    }

    /// Returns what changed, of so many objects at most, and whether there is more.
    fn updates(
        &mut self,
        world: &World,
        call: &Call<'_>,
        page: usize,
    ) -> Result<(Vec<Data>, bool), Fault> {
        let (mut sets, mut left) = (Vec::new(), page);
        for filter in &mut self.filters {
            let happened = world.happened();
            if filter.told == Some(happened) {
                continue;
            }
            let (changes, more) = filter.changes(world, call.cookie, left)?;
            left -= changes.len();
            let mut objects = Vec::new();
            for (object, Change { data, known }) in changes {
                let before = match known {
                    Some(known) => filter.known.insert(object.clone(), known),
                    None => filter.known.remove(&object),
                };
                self.before.entry((filter.me.clone(), object)).or_insert(before);
                objects.push(data);
            }
            if !objects.is_empty() {
                let set = Data::new("PropertyFilterUpdate").with("filter", &filter.me);
                sets.push(set.with("objectSet", list("ObjectUpdate", objects)));
            }
            if more {
                return Ok((sets, true));
            }
            filter.told = Some(happened);
        }
        Ok((sets, false))
    }
}

impl Filter {
    /// Compares what it selects with what it told.
    fn changes(
        &self,
        world: &World,
        cookie: Option<&str>,
        most: usize,
    ) -> Result<(Vec<(Ref, Change)>, bool), Fault> {
        let mut changes = Vec::new();
        let selected = self.spec.select(world, cookie);
        for object in &selected {
            let known = self.known.get(object);
            let revision = world.inventory.get(&object.id).map(|found| found.revision);
            if revision.is_some() && known.is_some_and(|known| known.revision == revision) {
                continue;
            }
            let Some(values) = self.spec.read(world, cookie, object)? else { continue };
            let hidden = world.denied(object, "System.Read");
            let now = Known { revision, values, hidden };
            let Some(data) = update(object, known, &now) else { continue };
            if changes.len() == most {
                return Ok((changes, true));
            }
            changes.push((object.clone(), Change { data, known: Some(now) }));
        }
        if selected.len() < self.known.len() + changes.len() {
            let selected: HashSet<&Ref> = selected.iter().collect();
            let mut gone: Vec<&Ref> =
                self.known.keys().filter(|known| !selected.contains(known)).collect();
            gone.sort();
            for object in gone {
                if changes.len() == most {
                    return Ok((changes, true));
                }
                let kind = word("ObjectUpdateKind", "leave");
                let data = Data::new("ObjectUpdate").with("kind", kind).with("obj", object);
                changes.push((object.clone(), Change { data, known: None }));
            }
        }
        Ok((changes, false))
    }
}

/// Says what an object became; `None` = nothing that was asked about.
fn update(object: &Ref, known: Option<&Known>, now: &Known) -> Option<Data> {
    let kind = if known.is_some() { "modify" } else { "enter" };
    let data =
        Data::new("ObjectUpdate").with("kind", word("ObjectUpdateKind", kind)).with("obj", object);
    if now.hidden {
        if known.is_some_and(|known| known.hidden) {
            return None;
        }
        let fault = Fault::no_permission(object, "System.Read");
        let missing = now.values.iter().map(|(name, _)| fault.missing(name));
        return Some(data.with("missingSet", list("MissingProperty", missing)));
    }
    let old: BTreeMap<&str, &Value> = known
        .iter()
        .flat_map(|known| &known.values)
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let assign = |name: &str, value: Value| {
        Data::new("PropertyChange")
            .with("name", name.to_owned())
            .with("op", word("PropertyChangeOp", "assign"))
            .any("val", value)
    };
    let mut changes = Vec::new();
    for (name, value) in &now.values {
        if old.get(name.as_str()) != Some(&value) {
            changes.push(assign(name, value.clone()));
        }
    }
    for name in old.keys() {
        if now.values.iter().all(|(kept, _)| kept != name) {
            changes.push(assign(name, Value::Unset));
        }
    }
    if known.is_some() && changes.is_empty() {
        return None;
    }
    Some(data.with("changeSet", list("PropertyChange", changes)))
}
