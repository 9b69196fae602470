//! The source of VMs at a vCenter or an ESXi host: what it holds, power, marks. Spoken to with vSphere's own API (SOAP over
//! HTTPS), of which this knows the methods that it needs.
//!
//! # Guarantees
//!
//! - A password goes to the hosts that the settings bind it to and nowhere else, over TLS that was checked as the settings allow.
//! - Each effect looks at its VM first and can be asked for again: what a lost reply may have done is seen by the next look.
//! - A configuration is changed only as it was read (`changeVersion`).

mod claim;
mod collector;
mod device;
mod flat;
mod follow;
mod images;
mod inventory;
mod lease;
mod link;
mod privilege;
mod session;
mod soap;
mod task;
mod tls;
mod vm;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::Timestamp;

use crate::adapter::url::RemoteUrl;
use crate::adapter::vsphere::claim::{CLAIM, MIGRATED, Mark};
use crate::adapter::vsphere::collector::Wish;
use crate::adapter::vsphere::follow::follow;
use crate::adapter::vsphere::inventory::{Inventory, Terms};
use crate::adapter::vsphere::link::{Failure, no_address};
use crate::adapter::vsphere::session::{Service, Session, time};
use crate::adapter::vsphere::soap::{Ref, Request};
use crate::adapter::vsphere::vm::Told;
use crate::copy::protocol::Access;
use crate::desired::{Site, VsphereSite};
use crate::domain::id::{Instance, SourceVm, Token};
use crate::domain::vm::{Claim, Power, Vm};
use crate::journal::record::Mend;
use crate::observed::SourceState;
use crate::port::{PortError, PoweredOn, Source};

pub use images::ServerImages;
pub use privilege::{PRIVILEGES, Privilege};

/// What a server is logged in with, and which ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The hosts that it may be sent to: `host` for each of its ports, `host:port` for one of them.
    pub hosts: Vec<String>,
    /// Who logs in.
    pub username: String,
    /// The file of the password.
    pub password_file: String,
    /// Which fields of a Provider's `tls` count with it.
    pub provider_tls: Vec<String>,
}

/// What the settings say about servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Means {
    /// What they are logged in with, by the names that Providers use.
    pub credentials: BTreeMap<String, Credential>,
    /// The folder of VMware's library (VDDK); `None` where disks are read without it.
    pub library: Option<String>,
}

/// The servers of vSphere.
pub struct VsphereSource {
    instance: Instance,
    means: Means,
    /// One session for each server.
    servers: Mutex<BTreeMap<Arc<VsphereSite>, Arc<Server>>>,
    waker: OnceLock<Arc<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for VsphereSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VsphereSource").field("means", &self.means).finish_non_exhaustive()
    }
}

impl Drop for VsphereSource {
    /// A thread that waits for news holds its server until it hears something.
    fn drop(&mut self) {
        for server in self.servers.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            server.session.log_out();
        }
    }
}

#[derive(Debug)]
struct Server {
    session: Session,
    /// What identifies a host, and the login that it was asked in.
    uuid: Mutex<Option<(u64, Arc<str>)>>,
    inventory: Mutex<Inventory>,
}

impl VsphereSource {
    /// Connects to nothing yet. The instance signs the marks.
    pub fn new(instance: Instance, means: Means) -> Self {
        Self { instance, means, servers: Mutex::default(), waker: OnceLock::new() }
    }

    /// Calls the waker from another thread whenever something changed at a server that is looked at from now on.
    pub fn watch(&self, waker: impl Fn() + Send + Sync + 'static) {
        let _ = self.waker.set(Arc::new(waker));
    }

    /// Makes out how a site is reached, where the settings allow it (safety rule 23).
    fn allowed(&self, site: &VsphereSite) -> Result<Access, PortError> {
        let VsphereSite { url, credentials: name, trust, transport: _ } = site;
        let refused =
            |text: String, remedy: String| Err(PortError::lasting(text, remedy, Mend::Person));
        let Some(Ok(parts)) = RemoteUrl::parse(url) else { return Err(no_address(url)) };
        let authority = parts.authority();
        let Some(credential) = self.means.credentials.get(&**name) else {
            return refused(
                format!("the settings hold no credential `{name}`"),
                format!(
                    "add `credentials: {{ {name}: {{ hosts: [{authority}], username: …, passwordFile: … }} }}` to ferry.yaml"
                ),
            );
        };
        if !credential.hosts.iter().any(|host| parts.is_at(host)) {
            return refused(
                format!(
                    "the credential `{name}` is not bound to {authority}, so nothing is sent there"
                ),
                format!(
                    "add `{authority}` to `credentials.{name}.hosts` in ferry.yaml if it may be"
                ),
            );
        }
        if let Some(field) = trust.field()
            && !credential.provider_tls.iter().any(|allowed| allowed == field)
        {
            return refused(
                format!(
                    "the settings do not let a Provider say `tls.{field}` with the credential `{name}`"
                ),
                format!(
                    "add `{field}` to `credentials.{name}.providerTls` in ferry.yaml if it may"
                ),
            );
        }
        Ok(Access {
            url: url.to_string(),
            username: credential.username.clone(),
            password_file: credential.password_file.clone(),
            trust: trust.clone(),
            library: self.means.library.clone(),
        })
    }

    fn server(&self, site: &Site) -> Result<Arc<Server>, PortError> {
        let Site::Vsphere(site) = site else {
            let text = "this provider is no vCenter or ESXi host";
            return Err(PortError::lasting(
                text,
                "name a provider of type `vsphere`",
                Mend::Person,
            ));
        };
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(site) {
            return Ok(server.clone());
        }
        let server = Arc::new(Server {
            session: Session::new(&self.allowed(site)?)?,
            uuid: Mutex::default(),
            inventory: Mutex::default(),
        });
        servers.insert(site.clone(), server.clone());
        if let Some(waker) = self.waker.get() {
            follow(&server, waker.clone());
        }
        Ok(server)
    }

    /// Lists the privileges that the account lacks on the root of a site's inventory; `None` where that cannot be asked.
    pub fn lacking(&self, site: &Site) -> Result<Option<Vec<Privilege>>, PortError> {
        let terms = self.terms(site, "");
        privilege::lacking(&self.server(site)?.session, terms.transport, terms.has_library)
    }

    fn terms<'a>(&self, site: &Site, uuid: &'a str) -> Terms<'a> {
        let transport = match site {
            Site::Vsphere(site) => site.transport,
            Site::Ova { .. } | Site::Local { .. } => crate::manifest::document::Transport::Auto,
        };
        Terms { server: uuid, transport, has_library: self.means.library.is_some() }
    }

    /// Finds a VM, read again; `None` where it is certainly not there.
    fn found(&self, site: &Site, vm: &SourceVm) -> Result<Option<Found>, PortError> {
        let server = self.server(site)?;
        let SourceVm::Vsphere { server: uuid, vm: instance_uuid } = vm else {
            return Ok(None);
        };
        let own = server.uuid()?;
        if own != *uuid {
            return Err(PortError::lasting(
                format!(
                    "{} is another server than the one that holds {vm}",
                    server.session.link.origin()
                ),
                "let the Provider name the server that its VMs were pinned at, or start with a new Migration",
                Mend::Person,
            ));
        }
        let known = server.inventory().id_of(instance_uuid);
        let known = known.map_err(|twins| {
            let remedy =
                "give one of the two another instance UUID, or remove it from the inventory";
            PortError::lasting(twins, remedy, Mend::Source)
        })?;
        if let Some(id) = known
            && let Some(told) = server.told(&id)?
            && told.instance_uuid.as_deref() == Some(instance_uuid)
        {
            return Ok(Some(Found { server, id, told }));
        }
        let Some(id) = server.search(instance_uuid)? else { return Ok(None) };
        let told = server.told(&id)?;
        let same = |told: &Told| told.instance_uuid.as_deref() == Some(instance_uuid);
        Ok(told.filter(same).map(|told| Found { server, id, told }))
    }

    /// Finds a VM that has to be there.
    fn needed(&self, site: &Site, vm: &SourceVm) -> Result<Found, PortError> {
        let found = self.found(site, vm)?.ok_or_else(|| {
            PortError::lasting(
                format!("{vm} is not at its source any more"),
                "bring it back, or take its entry out of the plan",
                Mend::Source,
            )
        })?;
        found.told.is_read().map_err(|reason| unseen(&found.told, &found.id, &reason))?;
        Ok(found)
    }

    fn text(&self, found: &Found, token: &Token) -> String {
        let vm = found.told.instance_uuid.clone().unwrap_or_default();
        let instance = self.instance.to_string();
        Mark { instance, vm, token: token.to_string() }.text()
    }
}

/// A VM, just read.
struct Found {
    server: Arc<Server>,
    id: String,
    told: Told,
}

impl Found {
    /// Changes the marks on a VM that carries the expected ones.
    fn mark(&self, changes: &[(&str, String)], tried: &str) -> Result<(), PortError> {
        let Self { server, id, told } = self;
        let version = told.change_version.as_ref();
        let version = version.ok_or_else(|| server.session.incomplete("its changeVersion"))?;
        let request = Request::new("ReconfigVM_Task", &machine(id)).with("spec", |spec| {
            let spec = spec.text("changeVersion", version);
            changes.iter().fold(spec, |spec, (key, value)| {
                spec.with("extraConfig", |option| option.text("key", key).any_text("value", value))
            })
        });
        server.session.carry_out(&request, tried)
    }

    fn power(&self) -> Option<Power> {
        match self.told.power.as_deref() {
            Some("poweredOff") => Some(Power::Off),
            Some(_) => Some(Power::On),
            None => None,
        }
    }
}

fn unseen(told: &Told, id: &str, reason: &str) -> PortError {
    PortError::passing(
        format!("the VM `{}` ({id}): {reason}", told.name),
        "look at it in vCenter, and at what ferry's account may read",
    )
}

fn machine(id: &str) -> Ref {
    Ref::new("VirtualMachine", id)
}

impl Server {
    fn inventory(&self) -> std::sync::MutexGuard<'_, Inventory> {
        self.inventory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what identifies it: a vCenter's own UUID, a host's hardware's.
    fn uuid(&self) -> Result<Arc<str>, PortError> {
        // With each login it is asked again: the same name may be another server by then.
        let (service, logins) = (self.session.service()?, self.session.logins()?);
        if !service.uuid.is_empty() {
            return Ok(service.uuid.into());
        }
        let mut uuid = self.uuid.lock().unwrap_or_else(PoisonError::into_inner);
        match &*uuid {
            Some((login, uuid)) if *login == logins => Ok(uuid.clone()),
            Some(_) | None => {
                let found: Arc<str> = self.hardware_uuid(&service)?.into();
                *uuid = Some((logins, found.clone()));
                Ok(found)
            }
        }
    }

    fn hardware_uuid(&self, service: &Service) -> Result<String, PortError> {
        let unknown = || self.session.incomplete("its UUID, nor that of its hardware");
        if service.is_vcenter {
            return Err(unknown());
        }
        let wish = Wish { kind: "HostSystem", paths: &["hardware.systemInfo.uuid"] };
        let host = Ref::new("HostSystem", "ha-host");
        let read = self.session.read(&[wish], &[host]);
        let read = read.map_err(|failure| self.session.failed("read its hardware", &failure))?;
        let uuid = read.first().and_then(|host| host.value("hardware.systemInfo.uuid"));
        let uuid = uuid.map(|uuid| uuid.text().to_ascii_lowercase());
        uuid.filter(|uuid| !uuid.is_empty()).ok_or_else(unknown)
    }

    /// Reads a VM; `None` where the server has none of this id.
    fn told(&self, id: &str) -> Result<Option<Told>, PortError> {
        match self.session.read(&[vm::WISH], &[machine(id)]) {
            Ok(read) => Ok(read.into_iter().next().map(|object| {
                let mut told = Told::default();
                for (path, value) in &object.values {
                    told.set(path, Some(value));
                }
                for (path, fault) in object.missing {
                    told.cannot_read(path, &fault);
                }
                told
            })),
            Err(Failure::Fault(fault)) if fault.kind == "ManagedObjectNotFound" => Ok(None),
            Err(failure) => Err(self.session.failed("read a VM", &failure)),
        }
    }

    /// Asks the server's index for a VM.
    fn search(&self, instance_uuid: &str) -> Result<Option<String>, PortError> {
        let service = self.session.service()?;
        let index = service.search_index.ok_or_else(|| self.session.incomplete("searchIndex"))?;
        let request = Request::new("FindByUuid", &index)
            .text("uuid", instance_uuid)
            .text("vmSearch", true)
            .text("instanceUuid", true);
        let answer = self.session.call(&request);
        let answer = answer.map_err(|failure| self.session.failed("find a VM", &failure))?;
        Ok(answer.child("returnval").and_then(Ref::of).map(|found| found.id))
    }

    fn clock(&self) -> Option<Timestamp> {
        let request = Request::new("CurrentTime", &Ref::new("ServiceInstance", "ServiceInstance"));
        time(self.session.call(&request).ok()?.child("returnval")?)
    }
}

impl Source for VsphereSource {
    fn observe(&self, site: &Site) -> Result<SourceState, PortError> {
        let server = self.server(site)?;
        let uuid = server.uuid()?;
        let mut inventory = server.inventory();
        let updated = inventory.update(&server.session);
        updated.map_err(|failure| server.session.failed("list its VMs", &failure))?;
        let (vms, gaps) = inventory.vms(self.terms(site, &uuid));
        drop(inventory);
        Ok(SourceState { vms, gaps, clock: server.clock() })
    }

    fn look(&self, site: &Site, vm: &SourceVm) -> Result<Option<Vm>, PortError> {
        let Some(Found { server, id, told }) = self.found(site, vm)? else { return Ok(None) };
        let uuid = server.uuid()?;
        let described = server.inventory().describe(&id, &told, self.terms(site, &uuid));
        described.map(Some).map_err(|reason| unseen(&told, &id, &reason))
    }

    fn access(&self, site: &Site) -> Result<Option<Access>, PortError> {
        match site {
            Site::Vsphere(site) => self.allowed(site).map(Some),
            Site::Ova { .. } | Site::Local { .. } => Ok(None),
        }
    }

    fn claim(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError> {
        let found = self.needed(site, vm)?;
        match found.told.claim() {
            Claim::Held(held) if held == token.as_str() => Ok(()),
            Claim::Free | Claim::Impossible => {
                let mark = self.text(&found, token);
                found.mark(&[(CLAIM, mark)], "claim the VM")
            }
            Claim::Held(other) | Claim::Migrated(other) => Err(PortError::lasting(
                format!("the source carries the mark {other}, which this journal did not write"),
                "find out which controller claims it; `ferry claim release` takes the mark away",
                Mend::Person,
            )),
        }
    }

    fn release(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError> {
        let found = self.needed(site, vm)?;
        match found.told.claim() {
            Claim::Held(held) if held == token.as_str() => {
                found.mark(&[(CLAIM, String::new())], "take its mark off the VM")
            }
            Claim::Migrated(held) if held == token.as_str() => {
                found.mark(&[(MIGRATED, String::new())], "take its mark off the VM")
            }
            Claim::Held(_) | Claim::Migrated(_) | Claim::Free | Claim::Impossible => Ok(()),
        }
    }

    fn mark_migrated(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError> {
        let found = self.needed(site, vm)?;
        match found.told.claim() {
            Claim::Migrated(held) if held == token.as_str() => Ok(()),
            Claim::Held(held) if held == token.as_str() => {
                let mark = self.text(&found, token);
                let changes = [(MIGRATED, mark), (CLAIM, String::new())];
                found.mark(&changes, "mark the VM as migrated")
            }
            Claim::Held(_) | Claim::Migrated(_) | Claim::Free | Claim::Impossible => {
                Err(PortError::lasting(
                    "the source does not carry this attempt's mark any more",
                    "find out who took the mark away",
                    Mend::Person,
                ))
            }
        }
    }

    fn shut_down(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError> {
        let found = self.needed(site, vm)?;
        if found.power() == Some(Power::Off) {
            return Ok(());
        }
        match found.server.session.call(&Request::new("ShutdownGuest", &machine(&found.id))) {
            Ok(_) => Ok(()),
            // Without VMware Tools nobody hears it: the deadline passes, and the plan says what then.
            Err(Failure::Fault(fault)) if fault.kind == "ToolsUnavailable" => Ok(()),
            Err(failure) => Err(found.server.session.failed("shut the guest down", &failure)),
        }
    }

    fn power_off(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError> {
        let found = self.needed(site, vm)?;
        if found.power() == Some(Power::Off) {
            return Ok(());
        }
        let request = Request::new("PowerOffVM_Task", &machine(&found.id));
        found.server.session.carry_out(&request, "power the VM off")
    }

    fn power_on(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError> {
        let found = self.needed(site, vm)?;
        if found.told.power.as_deref() == Some("poweredOn") {
            return Ok(());
        }
        let request = Request::new("PowerOnVM_Task", &machine(&found.id));
        found.server.session.carry_out(&request, "power the VM on")
    }

    fn powered_on_since(
        &self,
        site: &Site,
        vm: &SourceVm,
        since: Timestamp,
    ) -> Result<PoweredOn, PortError> {
        let found = self.needed(site, vm)?;
        found.server.session.powered_on_since(&machine(&found.id), since)
    }
}
