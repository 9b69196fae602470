//! All that the server knows, under one lock, and the time that passes in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::build::{BuildError, Built, build};
use super::disk::Store;
use super::event::Event;
use super::inventory::Inventory;
use super::lease::Leases;
use super::scenario::{FaultSpec, Scenario};
use super::seeded_uuid;
use super::session::Sessions;
use super::task::Tasks;
use super::value::{Ref, Value};

/// The state.
#[derive(Debug)]
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) inventory: Inventory,
    pub(super) fields: Vec<String>,
    pub(super) store: Store,
    pub(super) folder: PathBuf,
    pub(super) sessions: Sessions,
    pub(super) tasks: Tasks,
    pub(super) leases: Leases,
    pub(super) events: Vec<Event>,
    /// What happens later, by its time and in the order of planning.
    due: BTreeMap<(Duration, u64), Due>,
    pub(super) faults: Vec<(FaultSpec, u32)>,
    /// The time since the start.
    pub(super) elapsed: Duration,
    pub(super) now: Timestamp,
    /// What the server is reached at, and its certificate's SHA-1.
    pub(super) thumbprint: String,
    next: u32,
    made: u64,
    /// Requests so far.
    requests: u64,
    /// What happened besides changes of the inventory.
    happened: u64,
    disks_changed: bool,
    /// Snapshots that were removed so far.
    pub(super) removals: u32,
}

/// What happens later.
#[derive(Clone, Debug)]
pub(super) enum Due {
    TaskRuns(Ref),
    TaskGoesOn(Ref, u8),
    TaskEnds(Ref),
    TaskVanishes(Ref),
    /// The VM, and how often its power had changed.
    GuestIsDown(Ref, u64),
    LeaseIsReady(Ref),
    LeaseExpires(Ref),
    /// The VM, and the place of its disk.
    GuestWrites(Ref, usize),
}

impl World {
    pub(super) fn new(
        scenario: &Scenario,
        folder: &Path,
        now: Timestamp,
        thumbprint: &str,
    ) -> Result<Self, BuildError> {
        let broken = |source| BuildError::Folder { path: folder.to_owned(), source };
        let mut store = Store::new(folder).map_err(broken)?;
        let Built { inventory, fields, next } = build(scenario, &mut store, now, thumbprint)?;
        let mut world = Self {
            inventory,
            fields,
            store,
            folder: folder.to_owned(),
            sessions: Sessions::default(),
            tasks: Tasks::default(),
            leases: Leases::default(),
            events: Vec::new(),
            due: BTreeMap::new(),
            faults: scenario.faults.iter().map(|fault| (fault.clone(), 0)).collect(),
            elapsed: Duration::ZERO,
            now,
            thumbprint: thumbprint.to_owned(),
            next,
            made: 0,
            requests: 0,
            happened: 0,
            disks_changed: false,
            removals: 0,
            scenario: scenario.clone(),
        };
        let vms: Vec<Ref> = world.inventory.vms().map(|(object, _)| object.me.clone()).collect();
        for vm in vms {
            world.plan_writes(&vm);
        }
        Ok(world)
    }

    /// Returns the uuid that belongs to a label.
    pub(super) fn uuid(&self, label: &str) -> String {
        seeded_uuid(self.scenario.seed, label)
    }

    /// Returns a uuid that was never there.
    pub(super) fn new_uuid(&mut self) -> String {
        self.made += 1;
        self.uuid(&format!("made {}", self.made))
    }

    /// Returns the number of the next id.
    pub(super) fn next(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// Returns the number of a request.
    pub(super) fn number(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// Counts what happened.
    pub(super) fn happened(&self) -> u64 {
        self.happened + self.inventory.revision()
    }

    /// Notes that something happened that waiters look for.
    pub(super) fn note(&mut self) {
        self.happened += 1;
    }

    /// Lets something happen later.
    pub(super) fn plan(&mut self, after: Duration, what: Due) {
        self.made += 1;
        self.due.insert((self.elapsed + after, self.made), what);
        self.note();
    }

    /// Returns how long it takes until something is due.
    pub(super) fn next_due(&mut self) -> Option<Duration> {
        self.due.keys().next().map(|(at, _)| at.saturating_sub(self.elapsed))
    }

    /// Lets happen what is due by now, each thing at its own time.
    pub(super) fn settle(&mut self, elapsed: Duration) {
        let now = self.now;
        while let Some(first) = self.due.first_entry().filter(|first| first.key().0 <= elapsed) {
            let ((at, _), what) = first.remove_entry();
            self.elapsed = at;
            self.now =
                now - SignedDuration::try_from(elapsed.saturating_sub(at)).unwrap_or_default();
            match what {
                Due::TaskRuns(task) => self.task_runs(&task, 0),
                Due::TaskGoesOn(task, progress) => self.task_runs(&task, progress),
                Due::TaskEnds(task) => self.task_ends(&task),
                Due::TaskVanishes(task) => self.task_vanishes(&task),
                Due::GuestIsDown(vm, power_changes) => self.guest_is_down(&vm, power_changes),
                Due::LeaseIsReady(lease) => self.lease_is_ready(&lease),
                Due::LeaseExpires(lease) => self.lease_expires(&lease),
                Due::GuestWrites(vm, disk) => self.guest_writes(&vm, disk),
            }
        }
        self.elapsed = elapsed;
        self.now = now;
        self.expire_sessions();
    }

    /// Returns what the scenario has in mind for this call of a method.
    pub(super) fn scripted(&mut self, method: &str) -> Option<FaultSpec> {
        let mut fired = None;
        for (fault, calls) in self.faults.iter_mut().filter(|(fault, _)| fault.method == method) {
            *calls += 1;
            if fired.is_none() && fault.call.is_none_or(|call| call == *calls) {
                fired = Some(fault.clone());
            }
        }
        fired
    }

    /// Notes that the list of disks is old.
    pub(super) fn disks_changed(&mut self) {
        self.disks_changed = true;
    }

    /// Writes the list of disks where it is old.
    pub(super) fn write_disks(&mut self) {
        if !std::mem::take(&mut self.disks_changed) {
            return;
        }
        let mut disks = Vec::new();
        for (object, machine) in self.inventory.vms() {
            let live = machine.disks.iter().map(|disk| (None, disk));
            let kept = machine.visible().flat_map(|snapshot| {
                snapshot.disks.iter().map(|disk| (Some(&*snapshot.me.id), disk))
            });
            for (snapshot, disk) in live.chain(kept) {
                let file =
                    disk.content.path.strip_prefix(&self.folder).unwrap_or(&disk.content.path);
                disks.push(serde_json::json!({
                    "vm": &*object.me.id, "key": disk.key, "snapshot": snapshot,
                    "path": disk.file_name(), "file": file, "capacity": disk.capacity,
                }));
            }
        }
        let list = serde_json::json!({
            "username": self.scenario.username, "password": self.scenario.password,
            "thumbprint": self.thumbprint, "disks": disks,
        });
        let written = self.folder.join("disks.json.new");
        // Another peer reads the list at any time: it is there whole or not yet.
        let result = std::fs::write(&written, list.to_string())
            .and_then(|()| std::fs::rename(&written, self.folder.join("disks.json")));
        if let Err(error) = result {
            tracing::error!(%error, "cannot write the list of disks");
        }
    }

    /// Returns a property of a managed object of the world; `None` = it is gone, or its type has no such property.
    pub(super) fn property(&self, of: &Ref, name: &str) -> Option<Value> {
        if let Some(object) = self.inventory.get(&of.id) {
            return super::entity::property(self, object, name);
        }
        if of.kind == "VirtualMachineSnapshot" {
            let (object, machine) = self.inventory.vm_of_snapshot(&of.id)?;
            let snapshot = machine.visible().find(|snapshot| snapshot.me == *of)?;
            return machine.snapshot_property(object, snapshot, name);
        }
        if let Some(task) = self.tasks.get(&of.id) {
            return (name == "info").then(|| task.info(&self.scenario.username).into());
        }
        self.leases.get(&of.id)?.property(self, name)
    }
}
