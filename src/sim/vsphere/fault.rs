//! The typed faults of the API.

use super::value::{Data, Ref, Value};

/// The faults that the server can answer, by itself or by script.
const KNOWN: [&str; 38] = [
    "ApplicationQuiesceFault",
    "ConcurrentAccess",
    "FileFault",
    "FileLocked",
    "HostCommunication",
    "HostNotConnected",
    "InsufficientResourcesFault",
    "InvalidArgument",
    "InvalidCollectorVersion",
    "InvalidLogin",
    "InvalidPowerState",
    "InvalidProperty",
    "InvalidRequest",
    "InvalidState",
    "InvalidType",
    "LicenseRestricted",
    "ManagedObjectNotFound",
    "MethodDisabled",
    "MethodNotFound",
    "NoDiskSpace",
    "NoPermission",
    "NotAuthenticated",
    "NotFound",
    "NotImplemented",
    "NotSupported",
    "OutOfBounds",
    "RequestCanceled",
    "RestrictedVersion",
    "SecurityError",
    "SnapshotFault",
    "SystemError",
    "TaskInProgress",
    "Timedout",
    "TooManySnapshotLevels",
    "ToolsUnavailable",
    "UnexpectedFault",
    "VmConfigFault",
    "VimFault",
];

/// Returns the name of a fault where the server knows it.
pub(super) fn known(name: &str) -> Option<&'static str> {
    KNOWN.into_iter().find(|known| *known == name)
}

/// What a method answers instead of its result.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) data: Data,
}

impl Fault {
    pub(super) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), data: Data::new(kind) }
    }

    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.data = self.data.with(name, value);
        self
    }

    pub(super) fn invalid_argument(name: &'static str) -> Self {
        Self::new("InvalidArgument", format!("A specified parameter was not correct: {name}"))
            .with("invalidProperty", name)
    }

    /// A request that is not written as the API wants it.
    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new("InvalidRequest", message)
    }

    pub(super) fn not_authenticated(object: &Ref) -> Self {
        Self::new("NotAuthenticated", "The session is not authenticated.")
            .with("object", object)
            .with("privilegeId", "System.View")
    }

    pub(super) fn no_permission(object: &Ref, privilege: &str) -> Self {
        Self::new("NoPermission", "Permission to perform this operation was denied.")
            .with("object", object)
            .with("privilegeId", privilege.to_owned())
    }

    pub(super) fn not_found(object: &Ref) -> Self {
        let message = "The object has already been deleted or has not been completely created";
        Self::new("ManagedObjectNotFound", message).with("obj", object)
    }

    pub(super) fn invalid_state(message: &str) -> Self {
        Self::new("InvalidState", message)
    }

    pub(super) fn system(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new("SystemError", format!("A general system error occurred: {message}"))
            .with("reason", message)
    }

    /// Returns one that a script asks for, with the fields that its type must have.
    pub(super) fn scripted(kind: &'static str, of: &Ref) -> Self {
        let fault = Self::new(kind, format!("{kind}, as the scenario wants it"));
        match kind {
            "NotAuthenticated" => Self::not_authenticated(of),
            "NoPermission" => Self::no_permission(of, "System.Anonymous"),
            "ManagedObjectNotFound" => Self::not_found(of),
            "InvalidArgument" => fault.with("invalidProperty", "scenario"),
            "InvalidProperty" => fault.with("name", "scenario"),
            "InvalidPowerState" => fault
                .with("existingState", super::value::word("VirtualMachinePowerState", "poweredOn")),
            "FileFault" | "FileLocked" => fault.with("file", "[ds1] scenario.vmdk"),
            "NoDiskSpace" => fault.with("file", "[ds1] scenario.vmdk").with("datastore", "ds1"),
            "TaskInProgress" => fault.with("task", Ref::new("Task", "task-0")),
            "SystemError" => fault.with("reason", "scenario"),
            _ => fault,
        }
    }

    /// Returns it as a value of a task or a lease.
    pub(super) fn localized(&self) -> Data {
        Data::new("LocalizedMethodFault")
            .sub("fault", self.data.clone())
            .with("localizedMessage", &self.message)
    }

    /// Returns it as an element of `missingSet`.
    pub(super) fn missing(&self, path: &str) -> Data {
        Data::new("MissingProperty").with("path", path.to_owned()).with("fault", self.localized())
    }
}
