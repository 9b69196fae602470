//! What a server holds, as far as it was told: everything once, then what changed.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::adapter::vsphere::collector::{Change, Watch, Wish};
use crate::adapter::vsphere::device::NetworkOf;
use crate::adapter::vsphere::link::Failure;
use crate::adapter::vsphere::session::Session;
use crate::adapter::vsphere::soap::Ref;
use crate::adapter::vsphere::vm::{self, Surroundings, Told, unescaped};
use crate::domain::vm::Vm;
use crate::manifest::document::Transport;
use crate::observed::Gap;
use crate::xml::Element;

/// Everything that is read of a server.
const WISHES: [Wish; 6] = [
    vm::WISH,
    Wish { kind: "Folder", paths: &["name", "parent"] },
    Wish { kind: "Datacenter", paths: &["name", "parent"] },
    Wish { kind: "ComputeResource", paths: &["name", "parent"] },
    Wish { kind: "ResourcePool", paths: &["name", "parent"] },
    Wish { kind: "Network", paths: &["name", "summary"] },
];

/// Folders lie in each other at most so deep; a server whose folders lie in themselves is ended.
const DEPTH_MAX: usize = 64;

/// What a server holds.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    watch: Option<Watch>,
    vms: BTreeMap<String, Known>,
    /// Folders, datacenters, vApps: what VMs lie in.
    places: BTreeMap<Ref, Within>,
    /// Names of networks, by id.
    networks: BTreeMap<String, Named>,
}

/// A VM, and what was made of it.
#[derive(Debug, Default)]
struct Known {
    told: Told,
    made: RefCell<Option<Result<Arc<Vm>, String>>>,
}

#[derive(Debug, Default)]
struct Within {
    name: String,
    parent: Option<Ref>,
}

#[derive(Debug, Default)]
struct Named {
    name: String,
    /// The id by which cards name an opaque network.
    opaque: Option<String>,
}

/// What a server's VMs are described with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    pub(super) server: &'a str,
    pub(super) transport: Transport,
    pub(super) has_library: bool,
}

impl Inventory {
    /// Asks the server what changed; everything, where it is not being watched.
    pub(super) fn update(&mut self, session: &Session) -> Result<(), Failure> {
        let watch = match self.watch.take() {
            Some(mut watch) => match watch.changes(session, Duration::ZERO) {
                Ok(changes) => Some((watch, changes)),
                // It went with its session, or the server lost its place: what is known may be old.
                Err(failure) => {
                    watch.end(session);
                    if matches!(failure, Failure::Unanswered(_)) {
                        return Err(failure);
                    }
                    None
                }
            },
            None => None,
        };
        let (watch, changes) = match watch {
            Some(watched) => watched,
            None => {
                let mut watch = Watch::all(session, &WISHES)?;
                match watch.changes(session, Duration::ZERO) {
                    Ok(changes) => {
                        *self = Self::default();
                        (watch, changes)
                    }
                    Err(failure) => {
                        watch.end(session);
                        return Err(failure);
                    }
                }
            }
        };
        self.watch = Some(watch);
        for change in changes {
            self.apply(change);
        }
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        let Change { object, left, values, missing } = change;
        match object.kind.as_str() {
            "VirtualMachine" if left => drop(self.vms.remove(&object.id)),
            "VirtualMachine" => {
                let known = self.vms.entry(object.id).or_default();
                for (path, value) in &values {
                    known.told.set(path, value.as_ref());
                }
                for (path, fault) in missing {
                    known.told.cannot_read(path, &fault);
                }
                known.made.take();
            }
            // What VMs lie in gives them their paths, and networks their cards' names.
            kind => {
                let text = |value: &Option<Element>| {
                    value.as_ref().map(|value| unescaped(value.text())).unwrap_or_default()
                };
                if kind.contains("Network") || kind.contains("Portgroup") {
                    let named = self.networks.entry(object.id.clone()).or_default();
                    for (path, value) in &values {
                        match path.as_str() {
                            "name" => named.name = text(value),
                            _ => {
                                let id =
                                    value.as_ref().and_then(|it| it.text_of("opaqueNetworkId"));
                                named.opaque = id.map(str::to_owned);
                            }
                        }
                    }
                    if left {
                        self.networks.remove(&object.id);
                    }
                } else {
                    let within = self.places.entry(object.clone()).or_default();
                    for (path, value) in &values {
                        match path.as_str() {
                            "name" => within.name = text(value),
                            _ => within.parent = value.as_ref().and_then(Ref::of),
                        }
                    }
                    if left {
                        self.places.remove(&object);
                    }
                }
                for known in self.vms.values() {
                    known.made.take();
                }
            }
        }
    }

    /// Describes all VMs; of those that cannot be described, why.
    pub(super) fn vms(&self, terms: Terms<'_>) -> (Vec<Arc<Vm>>, Vec<Gap>) {
        let (mut vms, mut gaps) = (Vec::new(), Vec::new());
        let mut named: HashMap<&str, usize> = HashMap::new();
        for uuid in self.vms.values().filter_map(|known| known.told.instance_uuid.as_deref()) {
            *named.entry(uuid).or_default() += 1;
        }
        for (id, known) in &self.vms {
            if known.told.template {
                continue;
            }
            let mut made = known.made.borrow_mut();
            let made =
                made.get_or_insert_with(|| self.describe(id, &known.told, terms).map(Arc::new));
            let uuid = known.told.instance_uuid.as_deref().unwrap_or_default();
            let twin = (named.get(uuid) > Some(&1))
                .then(|| format!("another VM has the same instance UUID {uuid}"));
            match twin.map_or(made.clone(), Err) {
                Ok(vm) => vms.push(vm),
                Err(reason) => gaps.push(Gap {
                    reason: format!("the VM `{}` ({id}): {reason}", known.told.name),
                    remedy: "look at it in vCenter, and at what ferry's account may read"
                        .to_owned(),
                }),
            }
        }
        (vms, gaps)
    }

    /// Describes one VM.
    pub(super) fn describe(&self, id: &str, told: &Told, terms: Terms<'_>) -> Result<Vm, String> {
        let (path, datacenter) = self.path(told);
        let network = |of: &NetworkOf| match of {
            NetworkOf::Named(name) => Some(name.clone()),
            NetworkOf::PortGroup(key) => self.networks.get(key).map(|it| it.name.clone()),
            NetworkOf::Opaque(id) => {
                let mut all = self.networks.values();
                all.find(|it| it.opaque.as_ref() == Some(id)).map(|it| it.name.clone())
            }
            NetworkOf::Nothing => None,
        };
        let Terms { server, transport, has_library } = terms;
        let around = Surroundings {
            server,
            id,
            path,
            datacenter,
            transport,
            has_library,
            network: &network,
        };
        told.describe(&around)
    }

    /// Returns the inventory path of a VM (`DC/vm/FOLDER/NAME`) and that of its datacenter.
    fn path(&self, told: &Told) -> (String, String) {
        let escaped =
            |name: &str| name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c");
        let mut names = vec![escaped(&told.name)];
        let mut datacenter: Option<usize> = None;
        let mut above = told.vapp.as_ref().or(told.parent.as_ref());
        for _ in 0..DEPTH_MAX {
            let Some((at, within)) = above.and_then(|at| Some((at, self.places.get(at)?))) else {
                break;
            };
            names.push(escaped(&within.name));
            if at.kind == "Datacenter" {
                datacenter = Some(names.len());
            }
            above = within.parent.as_ref();
        }
        let joined =
            |names: &[String]| names.iter().rev().map(String::as_str).collect::<Vec<_>>().join("/");
        let center = datacenter.map(|first| joined(&names[first - 1..])).unwrap_or_default();
        (joined(&names), center)
    }

    /// Finds the server's id of a VM; fails where several have the same instance UUID, as copies of a host's folders do.
    pub(super) fn id_of(&self, instance_uuid: &str) -> Result<Option<String>, String> {
        let same = |known: &Known| known.told.instance_uuid.as_deref() == Some(instance_uuid);
        let mut found = self.vms.iter().filter(|(_, known)| same(known)).map(|(id, _)| id);
        match (found.next(), found.next()) {
            (Some(one), Some(two)) => {
                Err(format!("{one} and {two} have the same instance UUID {instance_uuid}"))
            }
            (found, _) => Ok(found.cloned()),
        }
    }
}
