//! What libvirt has to do with the VMs of a folder: their domains, named by the UUID that is derived from their area.
//!
//! # Guarantees
//!
//! A domain of another UUID is never defined over, started or undefined, whatever it is called. A domain is defined once: what
//! a person changed of it since stays.

use std::collections::BTreeMap;

use super::domain::uuid;
use super::folder::Folder;
use super::libvirt::{Domains, Libvirt};
use super::{DOMAIN, LocalTarget, Owner};
use crate::domain::id::{TargetName, Token};
use crate::domain::text::visible;
use crate::domain::vm::Power;
use crate::journal::record::Mend;
use crate::observed::TargetVm;
use crate::port::PortError;

/// The file beside a domain that says in which libvirt it was defined.
pub(super) const DEFINED_IN: &str = "libvirt.uri";

/// More than any URI has.
const URI_MAX: u64 = 4 << 10;

/// A domain of a hundred disks is 30 KiB.
const DOMAIN_MAX: u64 = 1 << 20;

impl LocalTarget {
    /// Makes a domain of each VM in the libvirt of this URI, and starts them there. Without one there are files only.
    #[must_use]
    pub fn with_libvirt(mut self, uri: Option<String>) -> Self {
        self.libvirt = uri.map(|uri| Libvirt::new(uri, self.programs.clone()));
        self
    }

    /// Lists the domains; `None` where there are files only.
    pub(super) fn domains(&self) -> Result<Option<Domains>, PortError> {
        self.libvirt.as_ref().map(Libvirt::domains).transpose()
    }

    /// Fails where another domain has the name of a VM that is to be made.
    pub(super) fn is_undefined(&self, area: &Token, name: &str) -> Result<(), PortError> {
        let (Some(libvirt), Some(domains)) = (&self.libvirt, self.domains()?) else {
            return Ok(());
        };
        match domains.named(name) {
            Some(domain) if domain.uuid != uuid(area) => Err(taken(libvirt, name)),
            Some(_) | None => Ok(()),
        }
    }

    /// Defines the domain of a VM that stands in its folder, unless it is defined.
    pub(super) fn define(
        &self,
        folder: &Folder,
        area: &Token,
        name: &str,
    ) -> Result<(), PortError> {
        let (Some(libvirt), Some(domains)) = (&self.libvirt, self.domains()?) else {
            return Ok(());
        };
        let uuid = uuid(area);
        if domains.of(&uuid).is_some() {
            return Ok(());
        }
        if domains.named(name).is_some() {
            return Err(taken(libvirt, name));
        }
        let xml = match folder.enter(name)? {
            Some(inner) => inner.read(DOMAIN, DOMAIN_MAX)?,
            None => None,
        };
        // By another UUID libvirt would take it for another domain, and define that one anew.
        let own = format!("<uuid>{uuid}</uuid>");
        let xml = xml.filter(|xml| xml.windows(own.len()).any(|part| part == own.as_bytes()));
        let Some(xml) = xml else {
            return Err(PortError::lasting(
                format!("{} is gone or has another UUID", folder.at(name).join(DOMAIN).display()),
                format!("bring it back with {own}, or cancel the VM and let it run again"),
                Mend::Person,
            ));
        };
        if let Some(inner) = folder.enter(name)? {
            inner.write(DEFINED_IN, libvirt.uri().as_bytes())?;
        }
        let failed = match libvirt.define(&xml) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // The reply may be lost, and somebody may have been faster.
        let domains = libvirt.domains()?;
        match (domains.of(&uuid), domains.named(name)) {
            (Some(_), _) => Ok(()),
            (None, Some(_)) => Err(taken(libvirt, name)),
            (None, None) => Err(failed),
        }
    }

    /// Starts the domain of a VM that is defined, unless it runs, and returns whether it does.
    pub(super) fn start_in(libvirt: &Libvirt, area: &Token) -> Result<Power, PortError> {
        let uuid = uuid(area);
        if libvirt.domains()?.power(&uuid) == Power::On {
            return Ok(Power::On);
        }
        let started = libvirt.start(&uuid);
        match (libvirt.domains()?.power(&uuid), started) {
            (Power::Off, Err(error)) => Err(error),
            (power, Ok(()) | Err(_)) => Ok(power),
        }
    }

    /// Fails where a VM's domain was defined in another libvirt than the one that is spoken to: it may run there.
    pub(super) fn is_not_elsewhere(&self, folder: &Folder, name: &str) -> Result<(), PortError> {
        let Some(inner) = folder.enter(name)? else { return Ok(()) };
        let Some(uri) = inner.read(DEFINED_IN, URI_MAX)? else { return Ok(()) };
        if self.libvirt.as_ref().is_some_and(|libvirt| libvirt.uri().as_bytes() == uri) {
            return Ok(());
        }
        let uri = visible(&String::from_utf8_lossy(&uri)).into_owned();
        Err(PortError::lasting(
            format!(
                "the domain of {} was defined in {uri}, which `libvirt.uri` does not name any more",
                folder.at(name).display()
            ),
            format!(
                "name it again in ferry.yaml, or undefine the domain there and delete {}",
                folder.at(name).join(DEFINED_IN).display()
            ),
            Mend::Person,
        ))
    }

    /// Undefines the domain that was made from an area. Succeeds where there is none, and refuses one that runs.
    pub(super) fn undefine(&self, area: &Token) -> Result<(), PortError> {
        let Some(libvirt) = &self.libvirt else { return Ok(()) };
        let uuid = uuid(area);
        let running = |name: &str| {
            PortError::lasting(
                format!("the domain {name} runs in {}, and was to be deleted", libvirt.uri()),
                format!("stop it (`virsh -c {} shutdown {uuid}`)", libvirt.uri()),
                Mend::Target,
            )
        };
        match libvirt.domains()?.of(&uuid) {
            None => return Ok(()),
            Some(domain) if domain.power == Power::On => return Err(running(&domain.name)),
            Some(_) => {}
        }
        let undefined = libvirt.undefine(&uuid);
        // A domain that was started meanwhile goes on without its definition.
        match (libvirt.domains()?.of(&uuid), undefined) {
            (None, Ok(()) | Err(_)) => Ok(()),
            (Some(domain), _) if domain.power == Power::On => Err(running(&domain.name)),
            (Some(_), Err(error)) => Err(error),
            (Some(domain), Ok(())) => Err(PortError::passing(
                format!("the domain {} was undefined and is there again", domain.name),
                "find out who defines it",
            )),
        }
    }
}

/// Tells what stands under a name, in its folder and in libvirt.
pub(super) fn standing(owner: Owner, name: &str, domains: Option<&Domains>) -> Option<TargetVm> {
    let named = domains.and_then(|domains| domains.named(name));
    let foreign = || TargetVm { made_by: None, power: named.map(|domain| domain.power) };
    match owner {
        Owner::Nobody => named.map(|_| foreign()),
        Owner::Other => Some(foreign()),
        Owner::Token(token) => {
            let uuid = uuid(&token);
            let own = domains.and_then(|domains| domains.of(&uuid));
            if own.is_none() && named.is_some() {
                return Some(foreign());
            }
            let power = domains.map(|domains| domains.power(&uuid));
            Some(TargetVm { made_by: Some(token), power })
        }
    }
}

/// Adds the domains that have no folder: they take their names as well.
pub(super) fn add_domains(vms: &mut BTreeMap<TargetName, TargetVm>, domains: Option<&Domains>) {
    for domain in domains.into_iter().flat_map(|domains| &domains.0) {
        vms.entry(TargetName::new(domain.name.clone()))
            .or_insert(TargetVm { made_by: None, power: Some(domain.power) });
    }
}

fn taken(libvirt: &Libvirt, name: &str) -> PortError {
    PortError::lasting(
        format!("{} has a domain {name} already, and this run did not make it", libvirt.uri()),
        "take it away, or set the entry's `targetName` to another name",
        Mend::Person,
    )
}
