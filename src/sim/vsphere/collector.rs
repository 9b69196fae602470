//! The property collector: which objects a filter selects, what is read of them, and pages.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::fault::Fault;
use super::inventory::is_a;
use super::methods::{Call, Reply};
use super::soap::{number, truth, type_of};
use super::value::{Data, Ref, Value, list};
use super::world::World;
use crate::xml::Element;

/// A `PropertyFilterSpec`.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    properties: Vec<PropertySpec>,
    objects: Vec<ObjectSpec>,
}

#[derive(Clone, Debug)]
struct PropertySpec {
    kind: String,
    all: bool,
    paths: Vec<String>,
}

#[derive(Clone, Debug)]
struct ObjectSpec {
    start: Ref,
    skip: bool,
    ways: Vec<Way>,
}

/// A step of a traversal.
#[derive(Clone, Debug)]
enum Way {
    /// The one of that name.
    Named(String),
    Along {
        name: String,
        kind: String,
        path: String,
        skip: bool,
        on: Vec<Way>,
    },
}

/// What is left to be answered.
#[derive(Debug)]
pub(super) struct Token {
    collector: Arc<str>,
    rest: VecDeque<(Ref, usize)>,
    specs: Arc<Vec<Spec>>,
    page: usize,
}

/// Pages that a session holds open at most.
const TOKENS_MAX: usize = 100;

impl Spec {
    pub(super) fn parse(world: &World, call: &Call<'_>, element: &Element) -> Result<Self, Fault> {
        let properties = element.all("propSet").map(|set| {
            Ok(PropertySpec {
                kind: set.text_of("type").unwrap_or_default().to_owned(),
                all: truth(set, "all")?,
                paths: set.all("pathSet").map(|path| path.text().to_owned()).collect(),
            })
        });
        let properties = properties.collect::<Result<Vec<_>, Fault>>()?;
        for property in &properties {
            if super::methods::managed_type(&property.kind).is_none() {
                let text =
                    format!("The type {} is not a managed type of this server", property.kind);
                return Err(Fault::new("InvalidType", text).with("argument", property.kind.clone()));
            }
        }
        let reports_missing = truth(element, "reportMissingObjectsInResults")?;
        let mut objects = Vec::new();
        for set in element.all("objectSet") {
            let Some(start) = set.child("obj") else { continue };
            let start = match world.resolve(call, start) {
                Ok(start) => start,
                Err(_) if call.cookie.is_none() => {
                    return Err(Fault::not_authenticated(&call.this));
                }
                Err(_) if reports_missing => continue,
                Err(fault) => return Err(fault),
            };
            let ways = ways(set)?;
            objects.push(ObjectSpec { start, skip: truth(set, "skip")?, ways });
        }
        Ok(Self { properties, objects })
    }

    /// Returns the objects that it selects, each once.
    pub(super) fn select(&self, world: &World, cookie: Option<&str>) -> Vec<Ref> {
        let mut found = Found { world, cookie, refs: Vec::new(), seen: HashSet::new() };
        let there = |object: &&ObjectSpec| world.exists(cookie, &object.start);
        for object in self.objects.iter().filter(there) {
            let mut named = Vec::new();
            names(&object.ways, &mut named);
            found.take(self, &object.start, object.skip);
            if cookie.is_none() {
                continue;
            }
            found.follow(self, &object.start, &object.ways, &named, &mut HashSet::new());
        }
        found.refs
    }

    fn wants(&self, kind: &str) -> bool {
        self.properties.iter().any(|property| is_a(kind, &property.kind))
    }

    /// Reads what it wants of an object; `None` = the object is gone.
    pub(super) fn read(
        &self,
        world: &World,
        cookie: Option<&str>,
        of: &Ref,
    ) -> Result<Option<Vec<(String, Value)>>, Fault> {
        if !world.exists(cookie, of) {
            return Ok(None);
        }
        let mut read: Vec<(String, Value)> = Vec::new();
        let mut roots: Vec<(&str, Value)> = Vec::new();
        let wanted = self.properties.iter().filter(|property| is_a(of.kind, &property.kind));
        for property in wanted {
            let all = property.all.then(|| super::service::properties(of.kind));
            let all = all.into_iter().flatten();
            for path in property.paths.iter().map(String::as_str).chain(all) {
                if read.iter().any(|(known, _)| known == path) {
                    continue;
                }
                let invalid = || {
                    let text = format!("The property {path} of {} does not exist", of.kind);
                    Fault::new("InvalidProperty", text).with("name", path.to_owned())
                };
                let end = path.find(['.', '[']).unwrap_or(path.len());
                let (root, rest) = path.split_at(end);
                let place = match roots.iter().position(|(name, _)| *name == root) {
                    Some(place) => place,
                    None => {
                        let value = world.read(cookie, of, root).ok_or_else(invalid)?;
                        roots.push((root, value));
                        roots.len() - 1
                    }
                };
                let value = below(&roots[place].1, rest).ok_or_else(invalid)?;
                if *value != Value::Unset {
                    read.push((path.to_owned(), value.clone()));
                }
            }
        }
        Ok(Some(read))
    }
}

/// Follows the rest of a path, `.hardware.device` or `[101].name`.
fn below<'a>(value: &'a Value, rest: &str) -> Option<&'a Value> {
    match rest.strip_prefix('[') {
        Some(keyed) => {
            let (key, rest) = keyed.split_once(']')?;
            value.element(key).ok()?.at(rest).ok()
        }
        None => value.at(rest).ok(),
    }
}

fn ways(element: &Element) -> Result<Vec<Way>, Fault> {
    let way = |set: &Element| {
        let name = set.text_of("name").unwrap_or_default().to_owned();
        Ok(if type_of(set) == Some("TraversalSpec") {
            Way::Along {
                name,
                kind: set.text_of("type").unwrap_or_default().to_owned(),
                path: set.text_of("path").unwrap_or_default().to_owned(),
                skip: truth(set, "skip")?,
                on: ways(set)?,
            }
        } else {
            Way::Named(name)
        })
    };
    element.all("selectSet").map(way).collect()
}

/// Collects the traversals that have a name, at any depth.
fn names<'a>(ways: &'a [Way], named: &mut Vec<&'a Way>) {
    for way in ways {
        if let Way::Along { on, .. } = way {
            named.push(way);
            names(on, named);
        }
    }
}

struct Found<'a> {
    world: &'a World,
    cookie: Option<&'a str>,
    refs: Vec<Ref>,
    seen: HashSet<Ref>,
}

impl Found<'_> {
    fn take(&mut self, spec: &Spec, object: &Ref, skip: bool) {
        if !skip && spec.wants(object.kind) && self.seen.insert(object.clone()) {
            self.refs.push(object.clone());
        }
    }

    fn follow<'a>(
        &mut self,
        spec: &Spec,
        from: &Ref,
        ways: &'a [Way],
        named: &[&'a Way],
        walked: &mut HashSet<(Ref, *const Way)>,
    ) {
        for way in ways {
            let way = match way {
                Way::Named(wanted) => {
                    let found = named
                        .iter()
                        .find(|way| matches!(way, Way::Along { name, .. } if name == wanted));
                    let Some(found) = found else { continue };
                    *found
                }
                Way::Along { .. } => way,
            };
            let Way::Along { kind, path, skip, on, .. } = way else { continue };
            // Each way is gone once from an object, whatever leads there.
            if !is_a(from.kind, kind) || !walked.insert((from.clone(), std::ptr::from_ref(way))) {
                continue;
            }
            let end = path.find(['.', '[']).unwrap_or(path.len());
            let (root, rest) = path.split_at(end);
            let value = self.world.read(self.cookie, from, root);
            let next = value.as_ref().and_then(|value| below(value, rest)).map(Value::refs);
            for object in next.into_iter().flatten() {
                self.take(spec, &object, *skip);
                self.follow(spec, &object, on, named, walked);
            }
        }
    }
}

impl World {
    /// Reads a top-level property of any managed object that the session sees.
    pub(super) fn read(&self, cookie: Option<&str>, of: &Ref, name: &str) -> Option<Value> {
        if let Some(view) = self.view(cookie, &of.id) {
            return Some(match name {
                "container" => (&view.container).into(),
                "recursive" => view.recursive.into(),
                "type" => list("xsd:string", view.kinds.iter()),
                "view" => {
                    let mut found = Vec::new();
                    self.inventory.below(&view.container.id, view.recursive, &mut |object| {
                        let wanted = |kind: &String| is_a(object.me.kind, kind);
                        if view.kinds.is_empty() || view.kinds.iter().any(wanted) {
                            found.push(object.me.clone());
                        }
                    });
                    super::value::refs(&found)
                }
                _ => return None,
            });
        }
        self.property(of, name).or_else(|| self.singleton_property(cookie, of, name))
    }

    /// Makes the content of a result: what of an object could be read, or why nothing could.
    ///
    /// Without a session the call succeeds all the same, as on a real server, and says so property by property.
    fn object_content(&self, call: &Call<'_>, of: &Ref, read: Vec<(String, Value)>) -> Data {
        let fault = if let Some(scripted) = &call.missing {
            Some(scripted.clone())
        } else if call.cookie.is_none() && of.kind != "ServiceInstance" {
            Some(Fault::not_authenticated(of))
        } else {
            self.denied(of, "System.Read").then(|| Fault::no_permission(of, "System.Read"))
        };
        let data = Data::new("ObjectContent").with("obj", of);
        let Some(fault) = fault else {
            let set = read.into_iter().map(|(name, value)| {
                Data::new("DynamicProperty").with("name", name).any("val", value)
            });
            return data.with("propSet", list("DynamicProperty", set));
        };
        let missing = read.iter().map(|(name, _)| fault.missing(name));
        data.with("missingSet", list("MissingProperty", missing))
    }

    fn page(&self, call: &Call<'_>, mut token: Token) -> Result<(Vec<Data>, Option<Token>), Fault> {
        let mut objects = Vec::new();
        while objects.len() < token.page {
            let Some((object, spec)) = token.rest.pop_front() else { return Ok((objects, None)) };
            let Some(spec) = token.specs.get(spec) else { continue };
            // One that was removed after it was selected is left out.
            if let Some(read) = spec.read(self, call.cookie, &object)? {
                objects.push(self.object_content(call, &object, read));
            }
        }
        let more = (!token.rest.is_empty()).then_some(token);
        Ok((objects, more))
    }

    fn result(&mut self, call: &Call<'_>, token: Token) -> Result<Reply, Fault> {
        let (objects, more) = self.page(call, token)?;
        if objects.is_empty() && more.is_none() {
            return Ok(Reply::nothing());
        }
        let mut data = Data::new("RetrieveResult");
        if let Some(more) = more {
            let name = self.new_uuid();
            let session = call.cookie.and_then(|cookie| self.sessions.open.get_mut(cookie));
            let session = session.ok_or_else(|| Fault::not_authenticated(&call.this))?;
            if session.tokens.len() >= TOKENS_MAX {
                return Err(Fault::system("too many results wait to be continued"));
            }
            session.tokens.insert(name.clone(), more);
            data = data.with("token", name);
        }
        Ok(Reply::Value(data.with("objects", list("ObjectContent", objects)).into()))
    }

    fn selected(&self, call: &Call<'_>, page: usize) -> Result<Token, Fault> {
        let specs = call.arguments.all("specSet");
        let specs =
            specs.map(|set| Spec::parse(self, call, set)).collect::<Result<Vec<_>, Fault>>()?;
        let mut rest = VecDeque::new();
        for (at, spec) in specs.iter().enumerate() {
            rest.extend(spec.select(self, call.cookie).into_iter().map(|object| (object, at)));
        }
        Ok(Token { collector: call.this.id.clone(), rest, specs: Arc::new(specs), page })
    }
}

/// Answers `RetrievePropertiesEx`.
pub(super) fn retrieve(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let options = call.arguments.child("options");
    let wanted: Option<usize> =
        options.map(|options| number(options, "maxObjects")).transpose()?.flatten();
    if wanted == Some(0) {
        return Err(Fault::invalid_argument("options.maxObjects"));
    }
    let page = world.scenario.pages.retrieve;
    let token = world.selected(call, wanted.map_or(page, |wanted| wanted.min(page)))?;
    world.result(call, token)
}

/// Answers `RetrieveProperties`, which knows no pages.
pub(super) fn retrieve_all(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let token = world.selected(call, usize::MAX)?;
    let (objects, _) = world.page(call, token)?;
    Ok(Reply::Value(list("ObjectContent", objects)))
}

/// Answers `Fetch`, by which VMware's own clients read one property.
pub(super) fn fetch(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let name = call.arguments.text_of("prop").unwrap_or_default();
    if call.cookie.is_none() && call.this.kind != "ServiceInstance" {
        return Err(Fault::not_authenticated(&call.this));
    }
    let value = world.read(call.cookie, &call.this, name).ok_or_else(|| {
        let text = format!("The property {name} of {} does not exist", call.this.kind);
        Fault::new("InvalidProperty", text).with("name", name.to_owned())
    })?;
    Ok(Reply::Any(value))
}

/// Answers `ContinueRetrievePropertiesEx`.
pub(super) fn continue_retrieve(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let token = take_token(world, call)?;
    world.result(call, token)
}

/// Answers `CancelRetrievePropertiesEx`.
pub(super) fn cancel_retrieve(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    take_token(world, call)?;
    Ok(Reply::nothing())
}

fn take_token(world: &mut World, call: &Call<'_>) -> Result<Token, Fault> {
    let name = call.arguments.text_of("token").unwrap_or_default();
    let session = call.cookie.and_then(|cookie| world.sessions.open.get_mut(cookie));
    let session = session.ok_or_else(|| Fault::not_authenticated(&call.this))?;
    let is_own = session.tokens.get(name).is_some_and(|token| token.collector == call.this.id);
    let token = if is_own { session.tokens.remove(name) } else { None };
    token.ok_or_else(|| Fault::invalid_argument("token"))
}
