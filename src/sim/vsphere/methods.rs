//! The methods that the server knows: on what, with which parameters, and who answers.

use super::collector;
use super::event;
use super::fault::Fault;
use super::inventory::is_a;
use super::lease;
use super::power;
use super::reconfigure;
use super::search;
use super::service::{self, singletons};
use super::session;
use super::snapshot;
use super::soap::{Part, Shape, check, many, may, must, some};
use super::task;
use super::updates;
use super::value::{Ref, Value};
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
    /// Whether it is asked for the first time.
    pub(super) is_first: bool,
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
/// The fields that the server understands; others are refused by name.
const CONFIG: Shape = Shape::Of(&[
    may("changeVersion", TEXT),
    may("name", TEXT),
    may("annotation", TEXT),
    many("deviceChange", Shape::Of(&[must("operation", TEXT), must("device", Shape::Any)])),
    many("extraConfig", Shape::Of(&[must("key", TEXT), may("value", TEXT)])),
    may("changeTrackingEnabled", TEXT),
]);
const EVENTS: Shape = Shape::Of(&[
    may("entity", Shape::Of(&[must("entity", REF), must("recursion", TEXT)])),
    may("time", Shape::Of(&[may("beginTime", TEXT), may("endTime", TEXT)])),
    may("disableFullMessage", TEXT),
    many("type", TEXT),
    many("eventTypeId", TEXT),
    may("maxCount", TEXT),
]);

/// What a user can be allowed to do, as far as a migration needs it.
pub(super) const PRIVILEGES: &[&str] = &[
    "Cryptographer.Access",
    "Cryptographer.Decrypt",
    "Datastore.Browse",
    "Datastore.FileManagement",
    "Global.CancelTask",
    "Global.DisableMethods",
    "Global.EnableMethods",
    "Sessions.ValidateSession",
    "System.Anonymous",
    "System.Read",
    "System.View",
    "VApp.Export",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.ChangeTracking",
    "VirtualMachine.Config.DiskLease",
    "VirtualMachine.Config.EditDevice",
    "VirtualMachine.Interact.DeviceConnection",
    "VirtualMachine.Interact.PowerOff",
    "VirtualMachine.Interact.PowerOn",
    "VirtualMachine.Provisioning.DiskRandomAccess",
    "VirtualMachine.Provisioning.DiskRandomRead",
    "VirtualMachine.Provisioning.GetVmFiles",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
];

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
    on("ServiceInstance", "RetrieveServiceContent", None, &[], service::content),
    on("ServiceInstance", "CurrentTime", VIEW, &[], service::current_time),
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
        None,
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
    on(
        "PropertyCollector",
        "CreateFilter",
        VIEW,
        &[must("spec", Shape::Of(&FILTER)), must("partialUpdates", TEXT)],
        updates::create_filter,
    ),
    on(
        "PropertyCollector",
        "WaitForUpdatesEx",
        VIEW,
        &[may("version", TEXT), may("options", WAIT)],
        updates::wait,
    ),
    on("PropertyCollector", "CancelWaitForUpdates", VIEW, &[], updates::cancel),
    on("PropertyCollector", "CreatePropertyCollector", VIEW, &[], updates::create_collector),
    on("PropertyCollector", "DestroyPropertyCollector", VIEW, &[], updates::destroy_collector),
    on("PropertyFilter", "DestroyPropertyFilter", VIEW, &[], updates::destroy_filter),
    on(
        "SearchIndex",
        "FindByUuid",
        VIEW,
        &[
            may("datacenter", REF),
            must("uuid", TEXT),
            must("vmSearch", TEXT),
            may("instanceUuid", TEXT),
        ],
        search::by_uuid,
    ),
    on("SearchIndex", "FindByInventoryPath", VIEW, &[must("inventoryPath", TEXT)], search::by_path),
    on(
        "AuthorizationManager",
        "HasPrivilegeOnEntities",
        VIEW,
        &[some("entity", REF), must("sessionId", TEXT), many("privId", TEXT)],
        search::has_privileges,
    ),
    on(
        "AuthorizationManager",
        "FetchUserPrivilegeOnEntities",
        VIEW,
        &[some("entities", REF), must("userName", TEXT)],
        search::user_privileges,
    ),
    on(
        "VirtualMachine",
        "ReconfigVM_Task",
        Some("VirtualMachine.Config.AdvancedConfig"),
        &[must("spec", CONFIG)],
        reconfigure::reconfigure,
    ),
    on(
        "VirtualMachine",
        "PowerOnVM_Task",
        Some("VirtualMachine.Interact.PowerOn"),
        &[may("host", REF)],
        power::on,
    ),
    on(
        "VirtualMachine",
        "PowerOffVM_Task",
        Some("VirtualMachine.Interact.PowerOff"),
        &[],
        power::off,
    ),
    on(
        "VirtualMachine",
        "ShutdownGuest",
        Some("VirtualMachine.Interact.PowerOff"),
        &[],
        power::shutdown,
    ),
    on(
        "VirtualMachine",
        "CreateSnapshot_Task",
        Some("VirtualMachine.State.CreateSnapshot"),
        &[
            must("name", TEXT),
            may("description", TEXT),
            must("memory", TEXT),
            must("quiesce", TEXT),
        ],
        snapshot::create,
    ),
    on(
        "VirtualMachineSnapshot",
        "RemoveSnapshot_Task",
        Some("VirtualMachine.State.RemoveSnapshot"),
        &[must("removeChildren", TEXT), may("consolidate", TEXT)],
        snapshot::remove,
    ),
    on(
        "VirtualMachine",
        "ConsolidateVMDisks_Task",
        Some("VirtualMachine.State.RemoveSnapshot"),
        &[],
        snapshot::consolidate,
    ),
    on(
        "VirtualMachine",
        "QueryChangedDiskAreas",
        Some("VirtualMachine.Provisioning.DiskRandomRead"),
        &[
            may("snapshot", REF),
            must("deviceKey", TEXT),
            must("startOffset", TEXT),
            must("changeId", TEXT),
        ],
        snapshot::changed_areas,
    ),
    on("VirtualMachine", "ExportVm", Some("VApp.Export"), &[], lease::export_vm),
    on(
        "VirtualMachineSnapshot",
        "ExportSnapshot",
        Some("VApp.Export"),
        &[],
        lease::export_snapshot,
    ),
    on("HttpNfcLease", "HttpNfcLeaseProgress", VIEW, &[must("percent", TEXT)], lease::progress),
    on("HttpNfcLease", "HttpNfcLeaseComplete", VIEW, &[], lease::complete),
    on("HttpNfcLease", "HttpNfcLeaseAbort", VIEW, &[may("fault", Shape::Any)], lease::abort),
    on("HttpNfcLease", "HttpNfcLeaseGetManifest", VIEW, &[], lease::manifest),
    on("EventManager", "QueryEvents", VIEW, &[must("filter", EVENTS)], event::query),
    on("Task", "CancelTask", Some("Global.CancelTask"), &[], task::cancel),
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
        "ManagedObject",
        "ManagedObjectView",
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
            || (of.kind == "Task" && self.tasks.contains_key(&of.id))
            || (of.kind == "HttpNfcLease" && self.leases.contains_key(&of.id))
            || (of.kind == "ServiceInstance" && *of.id == *"ServiceInstance")
            || singletons(&self.scenario).iter().any(|(_, one)| one == of)
    }

    /// Tells whether the user lacks a privilege on an object.
    pub(super) fn denied(&self, object: &Ref, privilege: &str) -> bool {
        let name = self.inventory.get(&object.id).map(|object| object.name.as_str());
        self.scenario.denied.iter().any(|denied| {
            denied.privilege == privilege && denied.on.as_deref().is_none_or(|on| Some(on) == name)
        })
    }
}

/// Returns what a request is called on, as it names it.
pub(super) fn named(request: &Element) -> Option<Ref> {
    let this = request.children.first().filter(|first| first.name == "_this")?;
    let kind = managed_type(this.attribute("type").unwrap_or_default())?;
    Some(Ref::new(kind, this.text()))
}

/// When a request came, its number, and whether it is asked for the first time.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) since: std::time::Duration,
    pub(super) number: u64,
    pub(super) is_first: bool,
}

/// Checks a request and lets its method answer.
pub(super) fn dispatch(
    world: &mut World,
    cookie: Option<&str>,
    request: &Element,
    asked: Asked,
    script: (Option<Fault>, Option<Fault>),
) -> Result<Reply, Fault> {
    // Whoever waits does not keep the session open by it.
    let cookie = cookie.filter(|cookie| {
        if asked.is_first {
            world.touch_session(cookie)
        } else {
            world.sessions.open.contains_key(*cookie)
        }
    });
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
    if cookie.is_none() && (method.privilege.is_some() || resolved.is_err()) {
        let named = named(request).unwrap_or_else(|| world.inventory.root.clone());
        return Err(Fault::not_authenticated(&named));
    }
    let this = resolved?;
    if let Some(privilege) = method.privilege {
        let owner = match this.kind {
            "VirtualMachineSnapshot" => world.inventory.vm_of_snapshot(&this.id),
            _ => None,
        };
        let subject = owner.map_or(&this, |(vm, _)| &vm.me);
        if world.denied(subject, privilege) {
            return Err(Fault::no_permission(subject, privilege));
        }
    }
    check(method.name, &request.children[1..], method.parameters)?;
    let Asked { since, number, is_first } = asked;
    let (missing, task) = script;
    let call = Call { cookie, this, arguments: request, missing, task, since, number, is_first };
    (method.answer)(world, &call)
}
