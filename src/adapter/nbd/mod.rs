//! A client of NBD, the network block device, for disks that other programs serve. Ferry's own, so that many reads are on
//! their way at once and each lands in the buffer that it is for.
//!
//! # Guarantees
//! - A read that succeeds was answered in full, by exactly the bytes that were asked for; zeros are claimed only where the
//!   server promises them.
//! - No server makes Ferry wait without end, allocate without bound, or panic: everything that it sends is checked, and what
//!   the protocol does not allow is an error that names the server, the place and what was wrong.
//! - A connection that is lost is made again a few times, and what was on its way is asked again: reads change nothing. An
//!   export whose size changed meanwhile is refused.
//!
//! # Assumptions
//! Nobody writes to the export while it is read. Connections are in clear text: TLS is left to a tunnel.
//!
//! # Errors
//! Lost connections and failures of the server's storage may pass; refusals, broken rules and another size do not.

pub mod address;
mod answer;
mod failure;
mod handshake;
mod lane;
mod link;
mod socket;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::adapter::nbd::address::{Address, Server};
use crate::adapter::nbd::failure::Failure;
use crate::adapter::nbd::lane::Lane;
use crate::adapter::nbd::link::Link;
use crate::extent::Extent;
use crate::journal::record::Mend;
use crate::port::{Blocks, PortError};

/// How many requests may be on their way, over all connections, to a server on this machine: as many as nbdkit has threads for
/// one of them.
const IN_FLIGHT_NEAR: usize = 16;

/// The same for one behind a network: 32 MiB, which a link of 1 GB/s holds in 32 ms.
const IN_FLIGHT_FAR: usize = 32;

/// How long, and how often, a server is waited for.
#[derive(Clone, Debug)]
struct Patience {
    /// How long connecting and the handshake may take, each.
    connect: Duration,
    /// How long nothing may come while something is asked for.
    silence: Duration,
    /// The pauses before each try to connect again.
    pauses: Vec<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_mins(1),
            // A restart takes a second, a failover some more. Who calls tries again later anyway.
            pauses: [0, 250, 1000, 4000, 10_000].map(Duration::from_millis).to_vec(),
        }
    }
}

/// An export of an NBD server, open for reading.
#[derive(Debug)]
pub struct Export {
    address: Address,
    patience: Patience,
    size: u64,
    /// Its connections, which reads take in turn; at least one.
    lanes: Vec<Lane>,
    turn: AtomicUsize,
}

impl Export {
    /// Opens an export, over up to so many connections where the server says that all of them see the same data, else over
    /// one.
    pub fn connect(address: &Address, connections: usize) -> Result<Self, PortError> {
        Self::connect_with(address, connections, Patience::default())
    }

    fn connect_with(
        address: &Address,
        connections: usize,
        patience: Patience,
    ) -> Result<Self, PortError> {
        let told = |failure: Failure| failure.told("open", address, None);
        let first = Link::open(address, &patience).map_err(told)?;
        let size = first.terms().size;
        let wanted = if first.terms().multi { connections } else { 1 };
        let mut lanes = vec![Lane::new(first)];
        while lanes.len() < wanted {
            match Link::open(address, &patience) {
                Ok(link) if link.terms().size == size => lanes.push(Lane::new(link)),
                Ok(link) => {
                    return Err(told(Failure::Resized { before: size, now: link.terms().size }));
                }
                // The server takes no more: those that it took are enough.
                Err(_) => break,
            }
        }
        Ok(Self { address: address.clone(), patience, size, lanes, turn: AtomicUsize::new(0) })
    }

    /// Returns where the export is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns how many connections it is read over.
    pub fn connections(&self) -> usize {
        self.lanes.len()
    }

    fn ask<T>(
        &self,
        what: &str,
        offset: u64,
        ask: impl FnMut(&Link) -> Result<T, Failure>,
    ) -> Result<T, PortError> {
        let lane = &self.lanes[self.turn.fetch_add(1, Ordering::Relaxed) % self.lanes.len()];
        let asked = lane.ask(&self.address, &self.patience, ask);
        asked.map_err(|failure| failure.told(what, &self.address, Some(offset)))
    }

    /// Refuses what is not within the export.
    fn within(&self, offset: u64, length: u64) -> Result<(), PortError> {
        if offset.checked_add(length).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        Err(PortError::lasting(
            format!(
                "cannot read {length} bytes of {} at byte {offset}: it has {} bytes",
                self.address, self.size
            ),
            "the disk became shorter than it was observed: begin again",
            Mend::Source,
        ))
    }
}

impl Blocks for Export {
    fn size(&self) -> u64 {
        self.size
    }

    fn in_flight(&self) -> usize {
        match self.address.server {
            Server::Unix { .. } => IN_FLIGHT_NEAR,
            Server::Tcp { .. } => IN_FLIGHT_FAR,
        }
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        self.within(offset, length)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        self.ask("ask what is allocated of", offset, |link| link.extents(offset, length))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        self.within(offset, length)?;
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let count = self.ask("read", at, |link| link.fill(at, rest))?;
            rest = &mut rest[count..];
            at += u64::try_from(count).unwrap_or(u64::MAX);
        }
        Ok(())
    }
}
