//! Readers and writers of the simulated disks, as a worker opens them.

use libdeflater::{CompressionLvl, Compressor};

use super::chance::{Call, Mishap};
use super::disk::{Outside, SimDisk, size};
use super::{SimWorld, State, lasting, passing};
use crate::copy::tree::LEAF_BYTES;
use crate::domain::id::RunId;
use crate::domain::unit::Bytes;
use crate::domain::vm::{Disk, TargetDisk};
use crate::journal::record::Mend;
use crate::port::{BlockReader, BlockWriter, Images, Piece, PortError, Position, Stored};

/// The longest piece of the simulated reader, in leaves.
const PIECE_LEAVES_MAX: usize = 3;

/// Opens simulated disks for one worker.
pub(super) struct SimImages {
    pub(super) world: SimWorld,
    pub(super) run: RunId,
}

impl SimImages {
    fn call<T>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        data_call(&self.world, &self.run, call, effect)
    }
}

/// Makes a call of a worker. One that was killed makes none.
fn data_call<T>(
    world: &SimWorld,
    run: &RunId,
    call: Call,
    effect: impl FnOnce(&mut State) -> Result<T, PortError>,
) -> Result<T, PortError> {
    let mut state = world.lock();
    if state.killed(run) {
        return Err(killed());
    }
    match state.draw(call) {
        Some(Mishap::Passing) => Err(passing(call)),
        Some(Mishap::Full) => Err(full()),
        Some(_) => Err(lasting(call)),
        None => effect(&mut state),
    }
}

impl Images for SimImages {
    fn reader(&self, disk: &Disk, resume: Option<&str>) -> Result<Box<dyn BlockReader>, PortError> {
        self.call(Call::ImageReader, |state| {
            let (vm, index) = state.source_disk(disk)?;
            let at = match resume {
                None => 0,
                Some(text) => leaf_of(text).ok_or_else(|| {
                    let text = format!("{text} is no position of a simulated reader");
                    PortError::lasting(text, "start from the beginning", Mend::Person)
                })?,
            };
            let leaves = &state.vms[vm].disks[index];
            let read = leaves.iter().take(at).filter(|byte| **byte != 0).count();
            let (world, run) = (self.world.clone(), self.run.clone());
            let reader = SimReader { world, run, disk: disk.clone(), at, read };
            let reader: Box<dyn BlockReader> = Box::new(reader);
            Ok(reader)
        })
    }

    fn writer(&self, disk: &TargetDisk) -> Result<Box<dyn BlockWriter>, PortError> {
        self.call(Call::ImageWriter, |state| {
            let areas = state.target.areas.values();
            let mut areas = areas.filter(|area| area.disks.iter().any(|(_, other)| other == disk));
            if areas.any(|area| area.power.is_some()) {
                state.slip(format!("{} is opened for writing although its VM was made", disk.0));
            }
            let found = state.disk_mut(disk)?;
            if found.locked {
                let text = format!("another worker holds {}", disk.0);
                return Err(PortError::passing(text, "wait until it has ended"));
            }
            found.locked = true;
            let (world, run) = (self.world.clone(), self.run.clone());
            let writer: Box<dyn BlockWriter> =
                Box::new(SimWriter { world, run, disk: disk.clone() });
            Ok(writer)
        })
    }
}

impl State {
    /// Finds a disk of a source: the VM and the disk's number.
    fn source_disk(&self, disk: &Disk) -> Result<(usize, usize), PortError> {
        let gone = || {
            let text = format!("the simulated source does not give {} away", disk.source.0);
            PortError::lasting(text, "bring the VM back", Mend::Source)
        };
        if self.source_gap {
            return Err(PortError::passing("the simulated source does not answer", "wait"));
        }
        let (id, index) = disk.source.0.rsplit_once('#').ok_or_else(gone)?;
        let index: usize = index.parse().map_err(|_| gone())?;
        let mut vms = self.vms.iter();
        let vm = vms.position(|vm| vm.present && vm.id.to_string() == id).ok_or_else(gone)?;
        let same = self.vms[vm].disks.get(index).is_some_and(|leaves| {
            u64::try_from(leaves.len())
                .is_ok_and(|count| Bytes(count * LEAF_BYTES) == disk.capacity)
        });
        if same { Ok((vm, index)) } else { Err(gone()) }
    }

    pub(super) fn disk_mut(&mut self, disk: &TargetDisk) -> Result<&mut SimDisk, PortError> {
        self.target.disks.get_mut(&disk.0).ok_or_else(|| {
            let text = format!("the simulated target has no disk {}", disk.0);
            PortError::lasting(text, "find out who took it away", Mend::Target)
        })
    }
}

/// Returns the leaf that a position stands before.
pub(super) fn leaf_of(resume: &str) -> Option<usize> {
    resume.strip_prefix("leaf:")?.parse().ok()
}

struct SimReader {
    world: SimWorld,
    run: RunId,
    disk: Disk,
    at: usize,
    read: usize,
}

impl BlockReader for SimReader {
    fn next(&mut self) -> Result<Option<Piece>, PortError> {
        let at = self.at;
        let found = data_call(&self.world, &self.run, Call::ImageNext, |state| {
            let (vm, index) = state.source_disk(&self.disk)?;
            let leaves = &state.vms[vm].disks[index];
            // What holds zeros is returned as such in half of all places, and not at all in the other half.
            let said = |leaf: &usize| leaves[*leaf] != 0 || leaf.is_multiple_of(2);
            let Some(start) = (at..leaves.len()).find(said) else { return Ok(None) };
            let same = leaves[start..].iter().take(PIECE_LEAVES_MAX);
            let zero = leaves[start] == 0;
            let count = same.take_while(|byte| (**byte == 0) == zero).count();
            Ok(Some((start, leaves[start..start + count].to_vec())))
        })?;
        let Some((start, leaves)) = found else { return Ok(None) };
        let count = u64::try_from(leaves.len()).unwrap_or(0);
        self.at = start + leaves.len();
        self.read += leaves.iter().filter(|byte| **byte != 0).count();
        let expand = |byte: &u8| vec![*byte; size(LEAF_BYTES)];
        let stored = match leaves.first() {
            None | Some(0) => Stored::Zero,
            Some(_) if start.is_multiple_of(3) => {
                Stored::Zlib(deflated(&leaves.iter().flat_map(expand).collect::<Vec<_>>()))
            }
            Some(_) => Stored::Raw(leaves.iter().map(expand).collect::<Vec<_>>().concat()),
        };
        let length = u32::try_from(count * LEAF_BYTES).unwrap_or(u32::MAX);
        let offset = u64::try_from(start).unwrap_or(0) * LEAF_BYTES;
        Ok(Some(Piece { offset, length, stored }))
    }

    fn position(&self) -> Result<Position, PortError> {
        let read = Bytes(u64::try_from(self.read).unwrap_or(0) * LEAF_BYTES);
        Ok(Position { resume: format!("leaf:{}", self.at), read })
    }

    fn finish(&mut self) -> Result<bool, PortError> {
        data_call(&self.world, &self.run, Call::ImageFinish, |state| {
            state.source_disk(&self.disk).map(|_| true)
        })
    }
}

struct SimWriter {
    world: SimWorld,
    run: RunId,
    disk: TargetDisk,
}

impl SimWriter {
    fn at_disk<T>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut SimDisk) -> Result<T, Outside>,
    ) -> Result<T, PortError> {
        data_call(&self.world, &self.run, call, |state| {
            let outcome = effect(state.disk_mut(&self.disk)?);
            outcome.map_err(|Outside| {
                state.slip(format!("a range outside {} was asked for", self.disk.0));
                lasting(call)
            })
        })
    }
}

impl BlockWriter for SimWriter {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.world.lock().target.free() < length {
            return Err(full());
        }
        self.at_disk(Call::ImageWrite, |disk| disk.write(offset, bytes))
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), PortError> {
        let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
        self.at_disk(Call::ImageZero, |disk| disk.write(offset, &zeros))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        self.at_disk(Call::ImageRead, |disk| disk.read(offset, buffer))
    }

    fn read_map(&self) -> Result<Vec<u8>, PortError> {
        self.at_disk(Call::ImageReadMap, |disk| Ok(disk.map().to_vec()))
    }

    fn write_map(&self, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        self.at_disk(Call::ImageWriteMap, |disk| {
            disk.write_map(offset, bytes);
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), PortError> {
        let mut state = self.world.lock();
        if state.killed(&self.run) {
            return Err(killed());
        }
        let mishap = state.draw(Call::ImageSync);
        let disk = state.disk_mut(&self.disk)?;
        if mishap.is_some() {
            disk.fail_sync();
            return Err(passing(Call::ImageSync));
        }
        disk.sync();
        Ok(())
    }
}

impl Drop for SimWriter {
    fn drop(&mut self) {
        if let Ok(disk) = self.world.lock().disk_mut(&self.disk) {
            disk.locked = false;
        }
    }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::fastest());
    let mut stream = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let length = compressor.zlib_compress(bytes, &mut stream).expect("the bound is enough");
    stream.truncate(length);
    stream
}

fn killed() -> PortError {
    PortError::passing("the simulated worker was killed", "start it again")
}

fn full() -> PortError {
    let mend = Mend::Space(Bytes(LEAF_BYTES));
    PortError::lasting("the simulated target is full", "free some space on it", mend)
}
