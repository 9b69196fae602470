//! Snapshots: the chain of a VM's disks grows and shrinks, and what changed between two of them.

use super::disk::{BLOCK, Disk};
use super::fault::Fault;
use super::machine::{Machine, Snapshot};
use super::methods::{Call, Reply};
use super::scenario::Power;
use super::soap::{number, truth};
use super::task::Work;
use super::value::{Data, Ref, list, long};
use super::world::World;

impl World {
    pub(super) fn create_snapshot(
        &mut self,
        vm: &Ref,
        name: String,
        description: String,
        quiesce: bool,
    ) -> Result<Ref, Fault> {
        let (now, number) = (self.now, self.next());
        let (esxi, maximum) = (self.scenario.esxi, self.scenario.snapshots.maximum);
        let machine = self.inventory.change_vm(&vm.id).ok_or_else(|| Fault::not_found(vm))?;
        if machine.snapshots.len() >= maximum {
            let message = "The virtual machine has as many levels of snapshots as there can be.";
            return Err(Fault::new("TooManySnapshotLevels", message));
        }
        machine.snapshots_made += 1;
        let id = machine.snapshots_made;
        let text =
            if esxi { format!("{}-snapshot-{id}", vm.id) } else { format!("snapshot-{number}") };
        let me = Ref::new("VirtualMachineSnapshot", &text);
        let disks = machine.disks.iter_mut().map(|disk| disk.freeze(id)).collect();
        machine.snapshots.push(Snapshot {
            me: me.clone(),
            id,
            name,
            description,
            created: now,
            // Without tools, or with the VM off, the flag is ignored.
            quiesced: quiesce && machine.tools_run(),
            power: machine.power,
            disks,
            removed: false,
        });
        machine.reconfigured(now);
        // After the disks were frozen: a snapshot that begins a tracking has no change id yet.
        self.stun(vm);
        self.disks_changed();
        Ok(me)
    }

    pub(super) fn remove_snapshot(
        &mut self,
        vm: &Ref,
        snapshot: &Ref,
        with_children: bool,
        consolidate: bool,
    ) -> Result<(), Fault> {
        self.removals += 1;
        let every = self.scenario.snapshots.unmerged_every;
        let merges = consolidate && (every == 0 || !self.removals.is_multiple_of(every));
        let now = self.now;
        let machine = self.inventory.change_vm(&vm.id).ok_or_else(|| Fault::not_found(vm))?;
        let is_it = |kept: &Snapshot| kept.me == *snapshot && !kept.removed;
        let at = machine.snapshots.iter().position(is_it);
        let at = at.ok_or_else(|| Fault::not_found(snapshot))?;
        let end = if with_children { machine.snapshots.len() } else { at + 1 };
        for snapshot in &mut machine.snapshots[at..end] {
            snapshot.removed = true;
        }
        machine.reconfigured(now);
        if merges {
            machine.merge();
        }
        self.stun(vm);
        self.disks_changed();
        Ok(())
    }

    pub(super) fn consolidate(&mut self, vm: &Ref) -> Result<(), Fault> {
        let now = self.now;
        let machine = self.inventory.change_vm(&vm.id).ok_or_else(|| Fault::not_found(vm))?;
        machine.merge();
        machine.reconfigured(now);
        self.disks_changed();
        Ok(())
    }
}

impl Machine {
    /// Merges the files of removed snapshots into the next of the chain, which takes their names.
    fn merge(&mut self) {
        while let Some(at) = self.snapshots.iter().position(|snapshot| snapshot.removed) {
            let gone = self.snapshots.remove(at);
            let next = match self.snapshots.get_mut(at) {
                Some(next) => &mut next.disks,
                None => &mut self.disks,
            };
            for disk in next {
                if let Some(below) = gone.disks.iter().find(|below| below.key == disk.key) {
                    disk.delta = below.delta;
                }
            }
        }
    }
}

/// Answers `CreateSnapshot_Task`.
pub(super) fn create(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let machine = world.called_vm(call)?;
    if machine.spec.template {
        return Err(Fault::new("NotSupported", "A template has no snapshots."));
    }
    let text = |name| call.arguments.text_of(name).unwrap_or_default().to_owned();
    let work = Work::CreateSnapshot {
        name: text("name"),
        description: text("description"),
        quiesce: truth(call.arguments, "quiesce")?,
    };
    let name = ("CreateSnapshot_Task", "VirtualMachine.createSnapshot");
    Ok(Reply::Value(world.start_task(call, &call.this, name, work)?.into()))
}

/// Answers `RemoveSnapshot_Task`.
pub(super) fn remove(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let found = world.inventory.vm_of_snapshot(&call.this.id);
    let vm = found.ok_or_else(|| Fault::not_found(&call.this))?.0.me.clone();
    let consolidate = call.arguments.child("consolidate").is_none();
    let work = Work::RemoveSnapshot {
        snapshot: call.this.clone(),
        with_children: truth(call.arguments, "removeChildren")?,
        consolidate: consolidate || truth(call.arguments, "consolidate")?,
    };
    let name = ("RemoveSnapshot_Task", "vm.Snapshot.remove");
    Ok(Reply::Value(world.start_task(call, &vm, name, work)?.into()))
}

/// Answers `ConsolidateVMDisks_Task`.
pub(super) fn consolidate(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    world.called_vm(call)?;
    let name = ("ConsolidateVMDisks_Task", "VirtualMachine.consolidateDisks");
    Ok(Reply::Value(world.start_task(call, &call.this, name, Work::Consolidate)?.into()))
}

/// Answers `QueryChangedDiskAreas`.
pub(super) fn changed_areas(world: &mut World, call: &Call<'_>) -> Result<Reply, Fault> {
    let machine = world.called_vm(call)?;
    let text = |name| call.arguments.text_of(name).unwrap_or_default();
    let key: u32 = number(call.arguments, "deviceKey")?.unwrap_or(0);
    let start: u64 = number(call.arguments, "startOffset")?.unwrap_or(0);
    let live = machine.disks.iter().find(|disk| disk.key == key);
    let live = live.ok_or_else(|| Fault::invalid_argument("deviceKey"))?;
    let seen = match call.arguments.child("snapshot") {
        Some(snapshot) => {
            let wanted = world.resolve(call, snapshot)?;
            let snapshot = machine.visible().find(|snapshot| snapshot.me == wanted);
            let snapshot = snapshot.ok_or_else(|| Fault::invalid_argument("snapshot"))?;
            let frozen = snapshot.disks.iter().find(|disk| disk.key == key);
            frozen.ok_or_else(|| Fault::invalid_argument("deviceKey"))?
        }
        None if machine.power == Power::Off => live,
        None => return Err(Fault::invalid_argument("snapshot")),
    };
    if start >= seen.capacity {
        return Err(Fault::invalid_argument("startOffset"));
    }
    let areas = changed(live, seen, text("changeId"))?;
    let pages = &world.scenario.pages;
    let end = start.saturating_add(pages.window.0).min(seen.capacity);
    let mut later = areas.into_iter().filter(|(from, to)| *to > start && *from < end);
    let page: Vec<(u64, u64)> = later.by_ref().take(pages.areas).collect();
    // What the answer covers ends where the first area begins that has no place in it.
    let end = later.next().map_or(end, |(next, _)| next);
    let extents = page.into_iter().map(|(from, to)| {
        let (from, to) = (from.max(start), to.min(end));
        Data::new("DiskChangeExtent").with("start", long(from)).with("length", long(to - from))
    });
    let info = Data::new("DiskChangeInfo")
        .with("startOffset", long(start))
        .with("length", long(end - start))
        .with("changedArea", list("DiskChangeExtent", extents));
    Ok(Reply::Value(info.into()))
}

/// Returns what changed of a disk between a change id and what was seen, as ranges in their order.
fn changed(live: &Disk, seen: &Disk, change_id: &str) -> Result<Vec<(u64, u64)>, Fault> {
    let lost = || Fault::new("FileFault", "Error caused by file").with("file", seen.file_name());
    let (Some(tracking), Some(until)) = (&live.tracking, &seen.tracking) else {
        return Err(lost());
    };
    if change_id == "*" {
        let broken = |error| Fault::system(format!("cannot read the disk: {error}"));
        let allocated = seen.content.allocated().map_err(broken)?;
        let blocks = allocated.into_iter().flat_map(|(from, to)| from / BLOCK..to.div_ceil(BLOCK));
        return Ok(ranges(blocks.collect(), seen.capacity));
    }
    let (uuid, sequence) =
        change_id.rsplit_once('/').ok_or_else(|| Fault::invalid_argument("changeId"))?;
    let since: u64 = sequence.parse().map_err(|_| Fault::invalid_argument("changeId"))?;
    if uuid != tracking.uuid || until.uuid != tracking.uuid {
        return Err(lost());
    }
    // Of a snapshot what came before it counts, of the disk itself everything.
    let until = if std::ptr::eq(live, seen) { u64::MAX } else { until.sequence };
    if since > tracking.sequence {
        return Err(Fault::invalid_argument("changeId"));
    }
    let epochs = tracking.written.range(since.min(until)..until);
    Ok(ranges(epochs.flat_map(|(_, blocks)| blocks).copied().collect(), seen.capacity))
}

/// Joins blocks to ranges of bytes, clipped to the disk.
fn ranges(blocks: std::collections::BTreeSet<u64>, capacity: u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for block in blocks {
        let (from, to) = (block * BLOCK, ((block + 1) * BLOCK).min(capacity));
        match ranges.last_mut() {
            _ if from >= capacity => break,
            Some((_, end)) if *end == from => *end = to,
            _ => ranges.push((from, to)),
        }
    }
    ranges
}
