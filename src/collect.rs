//! Reads sources and targets through their ports into one [`Observed`]. A part that fails is a gap, not a failed pass.

pub mod recorded;

use crate::observed::{Brake, Gap, Observed, Seen};
use crate::port::{PortError, Sites, World};

/// Looks at every site once.
pub fn collect(world: &World<'_>, sites: &Sites, stopping: bool) -> Observed {
    let mut observed = Observed::default();
    for (name, site) in sites {
        let at = world.clock.now();
        // A name is a source, a target, or used wrongly (a finding elsewhere); which one the site tells.
        if site.holds_sources() {
            let state = world.source.observe(site).map_err(gap);
            observed.sources.insert(name.clone(), Seen { at, state });
        } else {
            let state = world.target.observe(site).map_err(gap);
            observed.targets.insert(name.clone(), Seen { at, state });
        }
    }
    observed.workers = world.workers.states();
    observed.brake = if stopping {
        Brake::Stopping
    } else if world.hold.engaged() {
        Brake::Held
    } else {
        Brake::Released
    };
    observed
}

fn gap(error: PortError) -> Gap {
    Gap { reason: error.fault.text, remedy: error.fault.remedy }
}
