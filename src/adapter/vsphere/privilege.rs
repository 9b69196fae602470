//! What ferry's account has to be allowed at a vCenter, and what of it it is not.

use std::collections::BTreeSet;

use crate::adapter::vsphere::session::Session;
use crate::adapter::vsphere::soap::Request;
use crate::manifest::document::Transport;
use crate::port::PortError;

/// A privilege, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// Its id at the server.
    pub id: &'static str,
    /// What Ferry does with it.
    pub purpose: &'static str,
    /// The transports that need it; empty where all do.
    pub transports: &'static [Transport],
}

/// All privileges that Ferry uses. `System.View`, `System.Read` and `System.Anonymous` are of every role.
pub const PRIVILEGES: [Privilege; 9] = [
    always("VirtualMachine.Config.AdvancedConfig", "marks VMs (`extraConfig`)"),
    always(
        "VirtualMachine.Interact.PowerOff",
        "shuts guests down, cuts power where a plan says so",
    ),
    always("VirtualMachine.Interact.PowerOn", "powers a source on again when its migration fails"),
    of("VirtualMachine.Provisioning.DiskRandomRead", "reads disks", &[Transport::Vddk]),
    of("VirtualMachine.Provisioning.DiskRandomAccess", "opens disks", &[Transport::Vddk]),
    of("VirtualMachine.Config.DiskLease", "keeps disks from being moved", &[Transport::Vddk]),
    of("Datastore.Browse", "finds disks in datastores", &[Transport::Https]),
    of("Datastore.FileManagement", "reads files of datastores", &[Transport::Https]),
    of("VApp.Export", "exports VMs", &[Transport::Nfc]),
];

const fn always(id: &'static str, purpose: &'static str) -> Privilege {
    of(id, purpose, &[])
}

const fn of(
    id: &'static str,
    purpose: &'static str,
    transports: &'static [Transport],
) -> Privilege {
    Privilege { id, purpose, transports }
}

/// Lists what the account of a session lacks on the root of the inventory; `None` where the server cannot be asked, as a single
/// host cannot.
pub(super) fn lacking(
    session: &Session,
    transport: Transport,
    has_library: bool,
) -> Result<Option<Vec<Privilege>>, PortError> {
    let service = session.service()?;
    let Some(authorization) = service.authorization.filter(|_| service.is_vcenter) else {
        return Ok(None);
    };
    // What is chosen by itself depends on each VM: with the library it is always the same.
    let used = |of: &Transport| match transport {
        Transport::Auto if has_library => *of == Transport::Vddk,
        Transport::Auto => *of != Transport::Vddk,
        chosen => *of == chosen,
    };
    let needed = |it: &&Privilege| it.transports.is_empty() || it.transports.iter().any(used);
    let needed: Vec<Privilege> = PRIVILEGES.iter().filter(needed).copied().collect();
    let request = Request::new("HasPrivilegeOnEntities", &authorization)
        .reference("entity", &service.root)
        .text("sessionId", session.key()?);
    let request = needed.iter().fold(request, |request, it| request.text("privId", it.id));
    let answer = session.call(&request);
    let answer = answer.map_err(|failure| session.failed("tell the privileges", &failure))?;
    let told = answer.all("returnval").flat_map(|entity| entity.all("privAvailability"));
    let granted: BTreeSet<&str> = told
        .filter(|it| it.text_of("isGranted") == Some("true"))
        .filter_map(|it| it.text_of("privId"))
        .collect();
    Ok(Some(needed.into_iter().filter(|it| !granted.contains(it.id)).collect()))
}
