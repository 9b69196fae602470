//! The methods that the server knows: on what, with which parameters, and who answers.

use super::collector;
use super::fault::Fault;
use super::inventory::is_a;
use super::scenario::Scenario;
use super::session;
use super::soap::{Part, Shape, check, many, may, must, some};
use super::updates;
use super::value::{Data, Ref, Value, list, time};
use super::view;
use super::world::World;
use crate::xml::Element;

/// One method.
pub(super) struct Method {
    pub(super) name: &'static str,
    /// The managed type that it is called on.
    on: &'static str,
    parameters: &'static [Part],
    /// What the user must be allowed on the object; nothing needs no session.
    privilege: Option<&'static str>,
    answer: fn(&mut World, &Call<'_>) -> Result<Reply, Fault>,
}

/// A request, as a method sees it.
pub(super) struct Call<'a> {
    /// The session's, where the request brought one that is open.
    pub(super) cookie: Option<&'a str>,
    pub(super) this: Ref,
    pub(super) arguments: &'a Element,
    /// Stands in `missingSet` for every property, by script.
    pub(super) missing: Option<Fault>,
    /// The task that it starts ends so, by script.
    pub(super) task: Option<Fault>,
    /// The time since the server's start at which the request came.
    pub(super) since: std::time::Duration,
    /// Names the request; a waiting one is asked again with the same number.
    pub(super) number: u64,
}

/// What a method answers.
pub(super) enum Reply {
    Value(Value),
    /// A value of any type, which it says.
    Any(Value),
    /// A login, with its cookie.
    Session {
        value: Value,
        cookie: String,
    },
    /// Nothing yet: ask again when something changed, or when so much time has passed.
    Later(std::time::Duration),
}

impl Reply {
    pub(super) const fn nothing() -> Self {
        Self::Value(Value::Unset)
    }
}

const TEXT: Shape = Shape::Text;
const REF: Shape = Shape::Ref;

static TRAVERSAL: [Part; 5] = [
    may("name", TEXT),
    must("type", TEXT),
    must("path", TEXT),
    may("skip", TEXT),
    many("selectSet", Shape::OneOf(&SELECTIONS)),
];
/// A selection, or by its name one that stands elsewhere.
static SELECTIONS: [(&str, &[Part]); 2] =
    [("SelectionSpec", &[may("name", TEXT)]), ("TraversalSpec", &TRAVERSAL)];
static FILTER: [Part; 3] = [
    some("propSet", Shape::Of(&[must("type", TEXT), may("all", TEXT), many("pathSet", TEXT)])),
    some(
        "objectSet",
        Shape::Of(&[
            must("obj", REF),
            may("skip", TEXT),
            many("selectSet", Shape::OneOf(&SELECTIONS)),
        ]),
    ),
    may("reportMissingObjectsInResults", TEXT),
];
const PAGE: Shape = Shape::Of(&[may("maxObjects", TEXT)]);
const WAIT: Shape = Shape::Of(&[may("maxWaitSeconds", TEXT), may("maxObjectUpdates", TEXT)]);
const HTTP_TICKET: Shape = Shape::OneOf(&[(
    "SessionManagerHttpServiceRequestSpec",
    &[may("method", TEXT), must("url", TEXT)],
)]);

/// Makes a row of the table.
const fn on(
    on: &'static str,
    name: &'static str,
    privilege: Option<&'static str>,
    parameters: &'static [Part],
    answer: fn(&mut World, &Call<'_>) -> Result<Reply, Fault>,
) -> Method {
    Method { name, on, parameters, privilege, answer }
}

const VIEW: Option<&str> = Some("System.View");

/// All methods.
pub(super) static METHODS: &[Method] = &[
    on("ServiceInstance", "RetrieveServiceContent", None, &[], service_content),
    on("ServiceInstance", "CurrentTime", VIEW, &[], current_time),
    on(
        "SessionManager",
        "Login",
        None,
        &[must("userName", TEXT), must("password", TEXT), may("locale", TEXT)],
        session::login,
    ),
    on("SessionManager", "Logout", VIEW, &[], session::logout),
    on(
        "SessionManager",
        "SessionIsActive",
        Some("Sessions.ValidateSession"),
        &[must("sessionID", TEXT), must("userName", TEXT)],
        session::is_active,
    ),
    on(
        "SessionManager",
        "AcquireGenericServiceTicket",
        VIEW,
        &[must("spec", HTTP_TICKET)],
        session::acquire_ticket,
    ),
    on(
        "PropertyCollector",
        "RetrievePropertiesEx",
        VIEW,
        &[some("specSet", Shape::Of(&FILTER)), must("options", PAGE)],
        collector::retrieve,
    ),
    on(
        "PropertyCollector",
        "RetrieveProperties",
        None,
        &[some("specSet", Shape::Of(&FILTER))],
        collector::retrieve_all,
    ),
    on(
        "PropertyCollector",
        "ContinueRetrievePropertiesEx",
        VIEW,
        &[must("token", TEXT)],
        collector::continue_retrieve,
    ),
    on(
        "PropertyCollector",
        "CancelRetrievePropertiesEx",
        VIEW,
        &[must("token", TEXT)],
        collector::cancel_retrieve,
    ),
    on(
        "ViewManager",
        "CreateContainerView",
        VIEW,
        &[must("container", REF), many("type", TEXT), must("recursive", TEXT)],
        view::create,
    ),
    on("ManagedObject", "Fetch", None, &[must("prop", TEXT)], collector::fetch),
    on("View", "DestroyView", VIEW, &[], view::destroy),
];

/// Returns all managed types that references may name.
pub(super) fn managed_type(name: &str) -> Option<&'static str> {
    const TYPES: &[&str] = &[
        "AuthorizationManager",
        "ClusterComputeResource",
        "ComputeResource",
        "ContainerView",
        "CustomFieldsManager",
        "Datacenter",
        "Datastore",
        "DistributedVirtualPortgroup",
        "DistributedVirtualSwitch",
        "EventManager",
        "ExtensibleManagedObject",
        "Folder",
        "HostSystem",
        "HttpNfcLease",
        "ManagedEntity",
        "Network",
        "OpaqueNetwork",
        "PropertyCollector",
        "PropertyFilter",
        "ResourcePool",
        "SearchIndex",
        "ServiceInstance",
        "SessionManager",
        "Task",
        "TaskManager",
        "View",
        "ViewManager",
        "VirtualApp",
        "VirtualMachine",
        "VirtualMachineSnapshot",
        "VmwareDistributedVirtualSwitch",
    ];
    TYPES.iter().copied().find(|known| *known == name)
}

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
    /// Finds what a reference of a request names.
    pub(super) fn resolve(&self, call: &Call<'_>, element: &Element) -> Result<Ref, Fault> {
        self.resolve_for(call.cookie, element)
    }

    fn resolve_for(&self, cookie: Option<&str>, element: &Element) -> Result<Ref, Fault> {
        let given = element.attribute("type").unwrap_or_default();
        let kind = managed_type(given).ok_or_else(|| {
            Fault::invalid_request(format!("{}: {given} is no managed type", element.name))
        })?;
        let named = Ref::new(kind, element.text());
        let found = self.find(cookie, &named);
        found.filter(|found| is_a(found.kind, kind)).ok_or_else(|| Fault::not_found(&named))
    }

    fn find(&self, cookie: Option<&str>, named: &Ref) -> Option<Ref> {
        if let Some(object) = self.inventory.get(&named.id) {
            return Some(object.me.clone());
        }
        if *named.id == *"ServiceInstance" {
            return Some(Ref::new("ServiceInstance", "ServiceInstance"));
        }
        let singletons = singletons(&self.scenario);
        if let Some((_, found)) = singletons.into_iter().find(|(_, one)| one.id == named.id) {
            return Some(found);
        }
        self.exists(cookie, named).then(|| named.clone())
    }

    /// Tells whether a managed object is there, for a session.
    pub(super) fn exists(&self, cookie: Option<&str>, of: &Ref) -> bool {
        self.inventory.get(&of.id).is_some()
            || self.view(cookie, &of.id).is_some()
            || (of.kind == "VirtualMachineSnapshot"
                && self.inventory.vm_of_snapshot(&of.id).is_some())
            || updates::exists(self, cookie, of)
            || (of.kind == "ServiceInstance" && *of.id == *"ServiceInstance")
            || singletons(&self.scenario).iter().any(|(_, one)| one == of)
    }

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
            ("ServiceInstance", "content") => content(self).into(),
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
            ("SessionManager", "defaultLocale") => "en".into(),
            ("CustomFieldsManager", "field") => super::entity::field_definitions(self),
            ("EventManager" | "TaskManager", "maxCollector") => super::value::int(32),
            _ => return None,
        })
    }

    /// Tells whether the user lacks a privilege on an object.
    pub(super) fn denied(&self, object: &Ref, privilege: &str) -> bool {
        let name = self.inventory.get(&object.id).map(|object| object.name.as_str());
        self.scenario.denied.iter().any(|denied| {
            denied.privilege == privilege && denied.on.as_deref().is_none_or(|on| Some(on) == name)
        })
    }
}

/// Checks a request and lets its method answer.
pub(super) fn dispatch(
    world: &mut World,
    cookie: Option<&str>,
    request: &Element,
    since: (std::time::Duration, u64),
    script: (Option<Fault>, Option<Fault>),
) -> Result<Reply, Fault> {
    let cookie = cookie.filter(|cookie| world.touch_session(cookie));
    let this = request.children.first().filter(|first| first.name == "_this");
    let this = this.ok_or_else(|| Fault::invalid_request("_this is missing or not in front"))?;
    let resolved = world.resolve_for(cookie, this);
    let known = METHODS.iter().filter(|method| method.name == request.name);
    let mut fitting =
        known.filter(|method| resolved.as_ref().map_or(true, |this| is_a(this.kind, method.on)));
    let Some(method) = fitting.next() else {
        let receiver = resolved?;
        let text = format!("The method {} is not there on {}", request.name, receiver.kind);
        let fault = Fault::new("MethodNotFound", text);
        return Err(fault.with("receiver", receiver).with("method", request.name.clone()));
    };
    if method.privilege.is_some() && cookie.is_none() {
        let named = managed_type(this.attribute("type").unwrap_or_default());
        let named = named.map(|kind| Ref::new(kind, this.text()));
        let root = world.inventory.root.clone();
        return Err(Fault::not_authenticated(&named.unwrap_or(root)));
    }
    let this = resolved?;
    if let Some(privilege) = method.privilege
        && world.denied(&this, privilege)
    {
        return Err(Fault::no_permission(&this, privilege));
    }
    check(method.name, &request.children[1..], method.parameters)?;
    let (since, number) = since;
    let (missing, task) = script;
    let call = Call { cookie, this, arguments: request, missing, task, since, number };
    (method.answer)(world, &call)
}

fn service_content(world: &mut World, _: &Call<'_>) -> Result<Reply, Fault> {
    Ok(Reply::Value(content(world).into()))
}

fn content(world: &World) -> Data {
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

fn current_time(world: &mut World, _: &Call<'_>) -> Result<Reply, Fault> {
    Ok(Reply::Value(time(world.now)))
}
