//! The service itself: what it is, and the objects that are there once.

use super::fault::Fault;
use super::inventory::is_a;
use super::methods::{Call, Reply};
use super::scenario::Scenario;
use super::search;
use super::value::{Data, Ref, Value, list, time};
use super::world::World;

/// Returns all top-level properties of a managed type.
pub(super) fn properties(kind: &str) -> Vec<&'static str> {
    let own: &[&str] = match kind {
        "ContainerView" => &["container", "recursive", "type", "view"],
        "Task" => &["info"],
        "HttpNfcLease" => &[
            "capabilities",
            "error",
            "info",
            "initializeProgress",
            "mode",
            "state",
            "transferProgress",
        ],
        "VirtualMachineSnapshot" => &["childSnapshot", "config", "vm"],
        "AuthorizationManager" => &["privilegeList"],
        "CustomFieldsManager" => &["field"],
        "EventManager" => &["latestEvent", "maxCollector"],
        "PropertyCollector" => &["filter"],
        "ServiceInstance" => &["capability", "content", "serverClock"],
        "SessionManager" => &["currentSession", "defaultLocale", "sessionList"],
        "TaskManager" => &["maxCollector", "recentTask"],
        _ => super::entity::own(kind),
    };
    let common = is_a(kind, "ManagedEntity").then_some(super::entity::COMMON);
    own.iter().copied().chain(common.into_iter().flatten()).collect()
}

/// Returns the objects that are there once, by their place in `ServiceContent`.
pub(super) fn singletons(scenario: &Scenario) -> Vec<(&'static str, Ref)> {
    let all = [
        ("propertyCollector", "PropertyCollector", "propertyCollector", "ha-property-collector"),
        ("viewManager", "ViewManager", "ViewManager", "ViewManager"),
        ("sessionManager", "SessionManager", "SessionManager", "ha-sessionmgr"),
        ("authorizationManager", "AuthorizationManager", "AuthorizationManager", "ha-authmgr"),
        ("eventManager", "EventManager", "EventManager", "ha-eventmgr"),
        ("taskManager", "TaskManager", "TaskManager", "ha-taskmgr"),
        ("customFieldsManager", "CustomFieldsManager", "CustomFieldsManager", ""),
        ("searchIndex", "SearchIndex", "SearchIndex", "ha-searchindex"),
    ];
    let id = |(place, kind, id, on_host): (_, _, &'static str, &'static str)| {
        let id = if scenario.esxi { on_host } else { id };
        (!id.is_empty()).then(|| (place, Ref::new(kind, id)))
    };
    all.into_iter().filter_map(id).collect()
}

impl World {
    /// Reads a property of an object that is there once.
    pub(super) fn singleton_property(
        &self,
        cookie: Option<&str>,
        of: &Ref,
        name: &str,
    ) -> Option<Value> {
        let session = cookie.and_then(|cookie| self.sessions.open.get(cookie));
        let user = &self.scenario.username;
        Some(match (of.kind, name) {
            ("ServiceInstance", "content") => described(self).into(),
            ("ServiceInstance", "serverClock") => time(self.now),
            ("ServiceInstance", "capability") => Data::new("Capability")
                .with("provisioningSupported", !self.scenario.esxi)
                .with("multiHostSupported", !self.scenario.esxi)
                .with("userShellAccessSupported", false)
                .into(),
            ("SessionManager", "currentSession") => {
                session.map(|session| session.describe(user)).into()
            }
            ("SessionManager", "sessionList") => {
                list("UserSession", self.sessions.open.values().map(|s| s.describe(user)))
            }
            ("AuthorizationManager", "privilegeList") => search::privilege_list(),
            ("TaskManager", "recentTask") => super::value::refs(self.tasks.values().map(|t| &t.me)),
            ("EventManager", "latestEvent") | ("PropertyCollector", "filter") => Value::Unset,
            ("SessionManager", "defaultLocale") => "en".into(),
            ("CustomFieldsManager", "field") => super::entity::field_definitions(self),
            ("EventManager" | "TaskManager", "maxCollector") => super::value::int(32),
            _ => return None,
        })
    }
}

/// Answers `RetrieveServiceContent`.
#[expect(clippy::unnecessary_wraps, reason = "all methods answer alike")]
pub(super) fn content(world: &mut World, _: &Call<'_>) -> Result<Reply, Fault> {
    Ok(Reply::Value(described(world).into()))
}

fn described(world: &World) -> Data {
    let data = Data::new("ServiceContent").with("rootFolder", &world.inventory.root);
    let data = data.with("about", about(world));
    singletons(&world.scenario).into_iter().fold(data, |data, (place, me)| data.with(place, me))
}

fn about(world: &World) -> Data {
    let scenario = &world.scenario;
    let (name, os, line, api) = if scenario.esxi {
        ("VMware ESXi", "vmnix-x86", "embeddedEsx", "HostAgent")
    } else {
        ("VMware vCenter Server", "linux-x64", "vpx", "VirtualCenter")
    };
    let uuid = scenario.instance_uuid.clone().unwrap_or_else(|| world.uuid("instance"));
    Data::new("AboutInfo")
        .with("name", name)
        .with("fullName", format!("{name} {} build-22385739", scenario.version))
        .with("vendor", "VMware, Inc.")
        .with("version", &scenario.version)
        .with("build", "22385739")
        .with("localeVersion", "INTL")
        .with("localeBuild", "000")
        .with("osType", os)
        .with("productLineId", line)
        .with("apiType", api)
        .with("apiVersion", &scenario.api_version)
        .with("instanceUuid", (!scenario.esxi).then_some(uuid))
        .with("licenseProductName", "VMware VirtualCenter Server")
        .with("licenseProductVersion", "8.0")
}

/// Answers `CurrentTime`.
#[expect(clippy::unnecessary_wraps, reason = "all methods answer alike")]
pub(super) fn current_time(world: &mut World, _: &Call<'_>) -> Result<Reply, Fault> {
    Ok(Reply::Value(time(world.now)))
}
