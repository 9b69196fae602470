//! What all connections share: the world behind its lock, and the time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::watch;

use super::fault::Fault;
use super::world::World;
use crate::port::Clock;

/// Versions of the API that a server knows besides its newest, newest first.
const VERSIONS: [&str; 10] = [
    "8.0.2.0", "8.0.1.0", "8.0.0.1", "7.0.3.0", "7.0.2.0", "7.0.0.0", "6.9.1", "6.7", "6.5", "6.0",
];

/// The world and its clock.
pub(super) struct Shared {
    world: Mutex<World>,
    /// Counts what happened.
    changed: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
    /// The clock's time at the start.
    start: SignedDuration,
    /// How far the time was moved.
    moved: Mutex<Duration>,
    pub(super) latency: Duration,
    /// The document about the versions.
    pub(super) versions: String,
    version: Vec<u32>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(world: World, clock: Arc<dyn Clock>) -> Self {
        let newest = world.scenario.api_version.clone();
        let version = numbers(&newest);
        let prior = VERSIONS.into_iter().filter(|known| numbers(known) < version);
        let prior: Vec<String> = prior.map(|known| format!("<version>{known}</version>")).collect();
        let prior = prior.concat();
        let versions = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<namespaces version=\"1.0\"><namespace>\
             <name>urn:vim25</name><version>{newest}</version><priorVersions>{prior}</priorVersions>\
             </namespace></namespaces>\n"
        );
        Self {
            latency: world.scenario.latency.0,
            world: Mutex::new(world),
            changed: watch::Sender::new(0),
            start: clock.elapsed(),
            clock,
            moved: Mutex::default(),
            versions,
            version,
        }
    }

    /// Lets the time pass, does something, and tells those who wait where anything happened.
    pub(super) fn enter<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = Duration::try_from(self.clock.elapsed() - self.start).unwrap_or_default();
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let before = world.happened();
        world.now = self.clock.now() + SignedDuration::try_from(moved).unwrap_or_default();
        world.settle(passed + moved);
        let result = act(&mut world);
        world.write_disks();
        if world.happened() != before {
            self.changed.send_modify(|count| *count += 1);
        }
        result
    }

    /// Moves the time on.
    pub(super) fn advance(&self, time: Duration) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) += time;
        self.enter(|_| ());
        self.changed.send_modify(|count| *count += 1);
    }

    /// Returns what tells that something happened.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells whether the version that a request asks for is known.
    pub(super) fn supports(&self, action: &str) -> Result<(), Fault> {
        let action = action.trim_matches('"');
        let version = match action.split_once("vim25/") {
            Some(("urn:" | "urn:internal", version)) => numbers(version),
            None if matches!(action, "" | "urn:vim25" | "urn:internalvim25") => return Ok(()),
            Some(_) | None => Vec::new(),
        };
        if version.is_empty() || version > self.version {
            let text = format!("Unsupported version URI \"{action}\"");
            return Err(Fault::invalid_request(text));
        }
        Ok(())
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}
