//! The event log.

use std::sync::Arc;

use jiff::Timestamp;

use super::fault::Fault;
use super::inventory::Entity;
use super::methods::{Call, Reply};
use super::soap::number;
use super::value::{Data, Ref, Value, int, list, time};
use super::world::World;
use crate::xml::Element;

pub(super) const POWERED_ON: &str = "VmPoweredOnEvent";
pub(super) const POWERED_OFF: &str = "VmPoweredOffEvent";
pub(super) const GUEST_SHUTDOWN: &str = "VmGuestShutdownEvent";
pub(super) const RECONFIGURED: &str = "VmReconfiguredEvent";
pub(super) const REMOVED: &str = "VmRemovedEvent";

/// Events in one answer at most, the newest.
const ANSWER_MAX: usize = 1000;
/// Events that are kept.
const KEPT_MAX: usize = 100_000;

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Event {
    kind: &'static str,
    created: Timestamp,
    vm: Ref,
    /// The VM and what it lies in.
    owners: Vec<Arc<str>>,
    data: Data,
}

impl World {
    /// Notes what happened to a VM.
    pub(super) fn record(&mut self, vm: &Ref, kind: &'static str, what: &str) {
        let key = self.next();
        let Some(object) = self.inventory.get(&vm.id) else { return };
        let Entity::Vm(machine) = &object.entity else { return };
        let argument = |kind, place, me: &Ref| {
            let name = self.inventory.get(&me.id).map(|object| object.name.clone());
            Data::new(kind).with("name", name.unwrap_or_default()).with(place, me)
        };
        let mut owners = vec![vm.id.clone()];
        let mut parent = object.parent.clone();
        while let Some(owner) = parent {
            owners.push(owner.id.clone());
            parent = self.inventory.get(&owner.id).and_then(|object| object.parent.clone());
        }
        let center = self.inventory.datacenter(&vm.id).map(|object| object.me.clone());
        let center = center.map(|me| argument("DatacenterEventArgument", "datacenter", &me));
        let compute = match self.inventory.get(&machine.host.id).map(|object| &object.entity) {
            Some(Entity::Host { compute, .. }) => {
                Some(argument("ComputeResourceEventArgument", "computeResource", compute))
            }
            _ => None,
        };
        let data = Data::new(kind)
            .with("key", int(key))
            .with("chainId", int(key))
            .with("createdTime", time(self.now))
            .with("userName", &self.scenario.username)
            .with("datacenter", center)
            .with("computeResource", compute)
            .with("host", argument("HostEventArgument", "host", &machine.host))
            .with("vm", argument("VmEventArgument", "vm", vm))
            .with("fullFormattedMessage", format!("{} {what}", object.name))
            .with("template", machine.spec.template);
        self.events.push(Event { kind, created: self.now, vm: vm.clone(), owners, data });
        if self.events.len() > KEPT_MAX {
            self.events.remove(0);
        }
        self.note();
    }
}

fn instant(element: &Element, name: &str) -> Result<Option<Timestamp>, Fault> {
    let wrong = |_| Fault::invalid_request(format!("{name} is no time"));
    element.text_of(name).map(|text| text.parse().map_err(wrong)).transpose()
}

/// Answers `QueryEvents`, the oldest first.
pub(super) fn query(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let filter = call.arguments.child("filter").ok_or_else(|| Fault::invalid_argument("filter"))?;
    let (mut begin, mut end) = (None, None);
    if let Some(span) = filter.child("time") {
        begin = instant(span, "beginTime")?;
        end = instant(span, "endTime")?;
    }
    let mut of = None;
    if let Some(by) = filter.child("entity") {
        let entity = by.child("entity").ok_or_else(|| Fault::invalid_argument("filter.entity"))?;
        let recursive = match by.text_of("recursion") {
            Some("all" | "children") => true,
            Some("self") => false,
            _ => return Err(Fault::invalid_argument("filter.entity.recursion")),
        };
        of = Some((world.resolve(call, entity)?, recursive));
    }
    let kinds: Vec<&str> =
        filter.all("type").chain(filter.all("eventTypeId")).map(Element::text).collect();
    let maximum: usize = number(filter, "maxCount")?.unwrap_or(ANSWER_MAX);
    let wanted = |event: &&Event| {
        begin.is_none_or(|begin| event.created >= begin)
            && end.is_none_or(|end| event.created <= end)
            && of.as_ref().is_none_or(|(of, recursive)| {
                event.vm == *of || (*recursive && event.owners.contains(&of.id))
            })
            && (kinds.is_empty() || kinds.iter().any(|kind| is_kind(event.kind, kind)))
    };
    let found: Vec<&Event> = world.events.iter().filter(wanted).collect();
    let newest = &found[found.len().saturating_sub(maximum.min(ANSWER_MAX))..];
    let events: Vec<Value> = newest.iter().map(|event| event.data.clone().into()).collect();
    Ok(Reply::Value(list("Event", events)))
}

/// Tells whether an event is of a type that is named by itself, by its base, or with its package.
fn is_kind(kind: &str, named: &str) -> bool {
    let named = named.rsplit('.').next().unwrap_or(named);
    named == kind || matches!(named, "VmEvent" | "Event")
}
