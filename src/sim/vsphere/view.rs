//! Container views.

use super::fault::Fault;
use super::methods::{Call, Reply, managed_type};
use super::session::View;
use super::soap::truth;
use super::value::Ref;
use super::world::World;

/// Answers `CreateContainerView`.
pub(super) fn create(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let container = call.arguments.child("container");
    let container = container.ok_or_else(|| Fault::invalid_argument("container"))?;
    let container = world.resolve(call, container)?;
    if !matches!(
        container.kind,
        "Folder"
            | "Datacenter"
            | "ComputeResource"
            | "ClusterComputeResource"
            | "ResourcePool"
            | "HostSystem"
            | "VirtualApp"
    ) {
        return Err(Fault::invalid_argument("container"));
    }
    let kinds: Vec<String> =
        call.arguments.all("type").map(|kind| kind.text().to_owned()).collect();
    if kinds.iter().any(|kind| managed_type(kind).is_none()) {
        return Err(Fault::invalid_argument("type"));
    }
    let view = View { container, kinds, recursive: truth(call.arguments, "recursive")? };
    let uuid = world.new_uuid();
    let session = call.cookie.and_then(|cookie| world.sessions.open.get_mut(cookie));
    let session = session.ok_or_else(|| Fault::not_authenticated(&call.this))?;
    let me = Ref::new("ContainerView", &format!("session[{}]{uuid}", session.key));
    session.views.insert(me.id.clone(), view);
    Ok(Reply::Value(me.into()))
}

/// Answers `DestroyView`.
#[expect(clippy::unnecessary_wraps, reason = "all methods answer alike")]
pub(super) fn destroy(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let session = call.cookie.and_then(|cookie| world.sessions.open.get_mut(cookie));
    session.and_then(|session| session.views.remove(&call.this.id));
    Ok(Reply::nothing())
}

impl World {
    /// Finds a view of a session.
    pub(super) fn view(&self, cookie: Option<&str>, id: &str) -> Option<&View> {
        self.sessions.open.get(cookie?)?.views.get(id)
    }
}
