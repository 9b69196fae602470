//! The simulated converter: it changes the first and the last leaf of each disk, on an overlay that is committed leaf by leaf.

use super::chance::Call;
use super::disk::SimDisk;
use super::worker::Slice;
use super::{State, lasting, passing};
use crate::copy::engine::Flow;
use crate::copy::protocol::{ConvertJob, News};
use crate::copy::tree::LEAF_BYTES;
use crate::domain::vm::TargetDisk;
use crate::port::PortError;

/// How often a conversion may be interrupted.
const STEPS: usize = 4;

/// What a converter makes of a leaf.
const CONVERTED: u8 = 0x55;

/// Returns what a conversion makes of a disk.
pub(super) fn converted(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    for leaf in changed(content.len()) {
        content[leaf] ^= CONVERTED;
    }
    content
}

fn changed(leaves: usize) -> Vec<usize> {
    let mut changed = vec![0, leaves.saturating_sub(1)];
    changed.dedup();
    changed.retain(|leaf| *leaf < leaves);
    changed
}

/// Leaves that are written over a disk's.
#[derive(Clone, Debug)]
pub(super) struct Overlay(Vec<(usize, u8)>);

impl Slice<'_> {
    /// Goes on with a conversion, or with committing it.
    pub(super) fn convert(&mut self, job: &ConvertJob) -> Result<Flow, PortError> {
        if job.converted {
            return self.commit(job);
        }
        while self.with_worker(|worker| worker.at < STEPS) {
            self.call(Call::Convert, |_| Ok(()))?;
            self.with_worker(|worker| worker.at += 1);
            if self.pause() == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        self.call(Call::Convert, |state| {
            for disk in &job.disks {
                let overlay = Overlay::over(state.copied(&disk.target)?);
                state.target.overlays.insert(disk.target.0.clone(), overlay);
            }
            Ok(())
        })?;
        self.say(News::Converted { warnings: vec!["the guest has no agent".to_owned()] });
        Ok(Flow::Continue)
    }

    fn commit(&mut self, job: &ConvertJob) -> Result<Flow, PortError> {
        let left = || job.disks.iter().filter(|disk| !disk.committed);
        while let Some(disk) = left().nth(self.with_worker(|worker| worker.at)) {
            let overlay = self.call(Call::Commit, |state| state.overlay(&disk.target))?;
            for (leaf, byte) in overlay.0 {
                self.call(Call::Commit, |state| {
                    let at = u64::try_from(leaf).unwrap_or(u64::MAX).saturating_mul(LEAF_BYTES);
                    let target = state.copied(&disk.target)?;
                    let bytes = vec![byte; target.leaf_length(leaf)];
                    target.write(at, &bytes).map_err(|_| lasting(Call::Commit))
                })?;
                if self.pause() == Flow::Stop {
                    return Ok(Flow::Stop);
                }
            }
            self.call(Call::ImageSync, |state| {
                state.copied(&disk.target)?.sync();
                Ok(())
            })?;
            self.say(News::Committed { disk: disk.disk.clone() });
            self.with_worker(|worker| worker.at += 1);
        }
        Ok(Flow::Continue)
    }

    fn call<T>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let mut state = self.world.lock();
        if state.killed(self.run) {
            return Err(passing(call));
        }
        match state.draw(call) {
            Some(super::Mishap::Lasting) => Err(lasting(call)),
            Some(_) => Err(passing(call)),
            None => effect(&mut state),
        }
    }
}

impl Overlay {
    fn over(disk: &SimDisk) -> Self {
        let content = disk.fills();
        let converted = converted(&content);
        Self(changed(content.len()).into_iter().map(|leaf| (leaf, converted[leaf])).collect())
    }
}

impl State {
    fn copied(&mut self, disk: &TargetDisk) -> Result<&mut SimDisk, PortError> {
        let mut areas = self.target.areas.values();
        let made = areas
            .any(|area| area.power.is_some() && area.disks.iter().any(|(_, other)| other == disk));
        if made {
            self.slip(format!("{} is converted although its VM was made", disk.0));
        }
        self.disk_mut(disk)
    }

    fn overlay(&mut self, disk: &TargetDisk) -> Result<Overlay, PortError> {
        let found = self.target.overlays.get(&disk.0).cloned();
        found.ok_or_else(|| {
            self.slip(format!("{} is committed, and nothing was converted", disk.0));
            lasting(Call::Commit)
        })
    }
}
