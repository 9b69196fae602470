//! Finding VMs by id and path, and what the user may do.

use super::fault::Fault;
use super::methods::{Call, PRIVILEGES, Reply};
use super::soap::truth;
use super::value::{Data, Value, list};
use super::world::World;
use crate::xml::Element;

/// Answers `FindByUuid`.
pub(super) fn by_uuid(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let uuid = call.arguments.text_of("uuid").unwrap_or_default().to_lowercase();
    if !truth(call.arguments, "vmSearch")? {
        return Err(Fault::new("NotSupported", "The simulated server finds VMs only."));
    }
    let datacenter = call.arguments.child("datacenter");
    let datacenter = datacenter.map(|given| world.resolve(call, given)).transpose()?;
    let by_instance = truth(call.arguments, "instanceUuid")?;
    let found = world.inventory.vms().find(|(object, machine)| {
        let own = if by_instance { &machine.instance_uuid } else { &machine.uuid };
        !uuid.is_empty()
            && own.to_lowercase() == uuid
            && datacenter.as_ref().is_none_or(|datacenter| {
                let lies = world.inventory.datacenter(&object.me.id);
                lies.is_some_and(|lies| lies.me == *datacenter)
            })
    });
    Ok(Reply::Value(found.map(|(object, _)| &object.me).into()))
}

/// Answers `FindByInventoryPath`.
#[expect(clippy::unnecessary_wraps, reason = "all methods answer alike")]
pub(super) fn by_path(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let path = call.arguments.text_of("inventoryPath").unwrap_or_default();
    let found = world.inventory.by_path(path).map(|object| object.me.clone());
    Ok(Reply::Value(found.into()))
}

fn availability(world: &World, call: &Call<'_>, entity: &Element) -> Result<Data, Fault> {
    let entity = world.resolve(call, entity)?;
    let asked = call.arguments.all("privId").map(|id| {
        let id = id.text();
        Data::new("PrivilegeAvailability")
            .with("privId", id.to_owned())
            .with("isGranted", PRIVILEGES.contains(&id) && !world.denied(&entity, id))
    });
    Ok(Data::new("EntityPrivilege")
        .with("entity", &entity)
        .with("privAvailability", list("PrivilegeAvailability", asked)))
}

/// Answers `HasPrivilegeOnEntities`.
pub(super) fn has_privileges(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    if world.scenario.esxi {
        return Err(Fault::new("NotImplemented", "The operation is not implemented."));
    }
    let key = call.arguments.text_of("sessionId").unwrap_or_default();
    if world.sessions.open.values().all(|session| session.key != key) {
        return Err(Fault::invalid_argument("sessionId"));
    }
    if let Some(unknown) = call.arguments.all("privId").find(|id| !PRIVILEGES.contains(&id.text()))
    {
        let text = format!("A specified parameter was not correct: privId {}", unknown.text());
        return Err(Fault::new("InvalidArgument", text).with("invalidProperty", "privId"));
    }
    let entities = call.arguments.all("entity").map(|entity| availability(world, call, entity));
    let entities = entities.collect::<Result<Vec<_>, _>>()?;
    Ok(Reply::Value(list("EntityPrivilege", entities)))
}

/// Answers `FetchUserPrivilegeOnEntities`.
pub(super) fn user_privileges(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let user = call.arguments.text_of("userName").unwrap_or_default();
    if user != world.scenario.username {
        return Err(Fault::new("UserNotFound", "The user is not known.")
            .with("principal", user.to_owned())
            .with("unresolved", true));
    }
    let mut results = Vec::new();
    for entity in call.arguments.all("entities") {
        let entity = world.resolve(call, entity)?;
        let granted = PRIVILEGES.iter().copied().filter(|id| !world.denied(&entity, id));
        results.push(
            Data::new("UserPrivilegeResult")
                .with("entity", &entity)
                .with("privileges", list("xsd:string", granted)),
        );
    }
    Ok(Reply::Value(list("UserPrivilegeResult", results)))
}

/// Returns the privileges that there are, as the property `privilegeList`.
pub(super) fn privilege_list() -> Value {
    let privileges = PRIVILEGES.iter().map(|id| {
        let (group, name) = id.rsplit_once('.').unwrap_or(("", id));
        Data::new("AuthorizationPrivilege")
            .with("privId", *id)
            .with("onParent", false)
            .with("name", name)
            .with("privGroupName", group)
    });
    list("AuthorizationPrivilege", privileges)
}
