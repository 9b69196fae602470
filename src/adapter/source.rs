//! The sources by what kind of site they are.

use jiff::Timestamp;

use crate::adapter::ova::OvaSource;
use crate::adapter::vsphere::VsphereSource;
use crate::copy::protocol::Access;
use crate::desired::Site;
use crate::domain::id::{SourceVm, Token};
use crate::domain::vm::Vm;
use crate::observed::SourceState;
use crate::port::{PortError, PoweredOn, Source};

/// All sources.
#[derive(Debug)]
pub struct Sources {
    /// Exports.
    pub ova: OvaSource,
    /// Servers.
    pub vsphere: VsphereSource,
}

impl Sources {
    /// Returns the one that a site is of; one that is no source is refused by whichever is asked.
    fn of(&self, site: &Site) -> &dyn Source {
        match site {
            Site::Ova { .. } | Site::Local { .. } => &self.ova,
            Site::Vsphere(_) => &self.vsphere,
        }
    }
}

impl Source for Sources {
    fn observe(&self, site: &Site) -> Result<SourceState, PortError> {
        self.of(site).observe(site)
    }

    fn look(&self, site: &Site, vm: &SourceVm) -> Result<Option<Vm>, PortError> {
        self.of(site).look(site, vm)
    }

    fn access(&self, site: &Site) -> Result<Option<Access>, PortError> {
        self.of(site).access(site)
    }

    fn claim(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError> {
        self.of(site).claim(site, vm, token)
    }

    fn release(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError> {
        self.of(site).release(site, vm, token)
    }

    fn mark_migrated(&self, site: &Site, vm: &SourceVm, token: &Token) -> Result<(), PortError> {
        self.of(site).mark_migrated(site, vm, token)
    }

    fn shut_down(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError> {
        self.of(site).shut_down(site, vm)
    }

    fn power_off(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError> {
        self.of(site).power_off(site, vm)
    }

    fn power_on(&self, site: &Site, vm: &SourceVm) -> Result<(), PortError> {
        self.of(site).power_on(site, vm)
    }

    fn powered_on_since(
        &self,
        site: &Site,
        vm: &SourceVm,
        since: Timestamp,
    ) -> Result<PoweredOn, PortError> {
        self.of(site).powered_on_since(site, vm, since)
    }
}
