//! A simulated vCenter, or ESXi host: the SOAP API over HTTPS, datastore files and exports, over disks that are raw files.
//!
//! It stands for a peer, so it shares no code with the adapter that speaks to such a server but the tree of XML: what both
//! got wrong alike would pass every test. `tests/it/pyvmomi.rs` drives it by a client of VMware's own.
//!
//! ```text
//!            server ─► soap ─► methods ─► session, collector, updates, view, power, snapshot, lease, …
//!   HTTPS ──►   │                                   │
//!               └─────► files (/folder, /nfc)       ▼
//!                          │           shared: world (inventory, tasks, leases, sessions) and the time
//!                          └──────────► disk: raw sparse files, what changed since which snapshot
//! ```
//!
//! # Guarantees
//!
//! Each request is checked for the order and presence of its elements; what the server does not know is a fault and never
//! ignored. Equal scenarios and requests make equal answers, but for times, task ids and certificates. A property changes
//! together with the revision of its object, so that no watcher misses it.
//!
//! # Limits
//!
//! Snapshots form a chain, since nothing reverts to one. Updates always tell whole properties, as filters without
//! `partialUpdates` do. Of devices only the connection of network cards can be edited. An older version of the API in a
//! request is answered as the newest; a scenario's own `apiVersion` counts.

mod build;
mod build_vm;
mod certificate;
mod collector;
mod datastore;
mod device;
mod disk;
mod entity;
mod event;
mod fault;
mod files;
mod hand;
mod host;
mod inventory;
mod lease;
mod machine;
mod methods;
mod network;
mod power;
mod reconfigure;
mod scenario;
mod scenario_vm;
mod search;
mod server;
mod service;
mod session;
mod shared;
mod snapshot;
mod soap;
mod task;
mod updates;
mod value;
mod view;
mod vmdk;
mod world;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

pub use build::BuildError;
pub use hand::HandError;
pub use scenario::{Scenario, ScenarioError};

use crate::port::Clock;
use shared::Shared;
use world::World;

/// Threads that answer; a request holds one only while it is computed.
const THREADS: usize = 2;
/// How long a server that stops waits for what it is reading.
const STOP: Duration = Duration::from_secs(2);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The scenario does not fit together.
    #[error("the scenario cannot stand")]
    Scenario(#[source] BuildError),
    /// The address cannot be listened at.
    #[error("cannot listen at {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No certificate can be made.
    #[error("cannot make a certificate")]
    Certificate(#[source] std::io::Error),
    /// There are no threads left.
    #[error("cannot start the threads of the server")]
    Threads(#[source] io::Error),
}

/// A server that runs on threads of its own until it is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    folder: PathBuf,
    fingerprint: String,
    thumbprint: String,
    certificate: String,
    username: String,
    password: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one. Port 0 takes any free one. Disks are made below `folder`, which outlives the server, and go with it.
    pub fn start(
        scenario: &Scenario,
        listen: SocketAddr,
        folder: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let certificate = certificate::of(folder).map_err(StartError::Certificate)?;
        let world = World::new(scenario, folder, clock.now(), &certificate.thumbprint)
            .map_err(StartError::Scenario)?;
        let shared = Arc::new(Shared::new(world, clock));
        shared.enter(World::disks_changed);
        let refused = |source| StartError::Listen { address: listen, source };
        let listener = std::net::TcpListener::bind(listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("vsphere")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(refused)?
        };
        let (stop, stopped) = oneshot::channel();
        let serving = server::serve(listener, certificate.acceptor, shared.clone(), stopped);
        let thread = std::thread::Builder::new().name("vsphere".to_owned()).spawn(move || {
            runtime.block_on(serving);
            runtime.shutdown_timeout(STOP);
        });
        Ok(Self {
            shared,
            address,
            folder: folder.to_owned(),
            fingerprint: certificate.fingerprint,
            thumbprint: certificate.thumbprint,
            certificate: certificate.pem,
            username: scenario.username.clone(),
            password: scenario.password.clone(),
            stop: Some(stop),
            thread: Some(thread.map_err(StartError::Threads)?),
        })
    }

    /// Returns where the API is, `https://127.0.0.1:8989/sdk`.
    pub fn url(&self) -> String {
        format!("https://{}/sdk", self.address)
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the SHA-256 of its certificate, `AA:BB:…`.
    pub fn sha256_fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Returns the SHA-1 of its certificate, `AA:BB:…`, as VMware's products pin it.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Returns its certificate in PEM; it is its own authority.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Returns the user and the password that it lets in.
    pub fn login(&self) -> (&str, &str) {
        (&self.username, &self.password)
    }

    /// Returns the file that lists the disks for another peer.
    pub fn disks(&self) -> PathBuf {
        self.folder.join("disks.json")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns the names of the methods that a server knows.
pub fn method_names() -> impl Iterator<Item = &'static str> {
    methods::METHODS.iter().map(|method| method.name)
}

/// Makes a uuid out of a seed and a label: equal ones are equal.
fn seeded_uuid(seed: u64, label: &str) -> String {
    let hash = blake3::keyed_hash(blake3::hash(&seed.to_le_bytes()).as_bytes(), label.as_bytes());
    let hex = hash.to_hex();
    let part = |from: usize, to: usize| &hex[from..to];
    format!("{}-{}-4{}-a{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
}

/// Makes the uuid of a tracking as change ids write it, `52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63`.
fn seeded_tracking(seed: u64, label: &str) -> String {
    let uuid = seeded_uuid(seed, label).replace('-', "");
    let bytes: Vec<&str> = (0..16).map(|at| &uuid[at * 2..at * 2 + 2]).collect();
    format!("{}-{}", bytes[..8].join(" "), bytes[8..].join(" "))
}
