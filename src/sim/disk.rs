//! A disk of the simulated target with the block map beside it: what is readable now, and what of it survives a loss of power.

use std::collections::BTreeSet;

use super::chance::Chance;
use crate::copy::tree::LEAF_BYTES;

/// The bytes of one entry of the block map, which survives or is lost as a whole.
const MAP_ENTRY_BYTES: usize = 16;

/// What one leaf holds. Content is made of uniform leaves, so that a disk costs a few bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// The same byte everywhere.
    Fill(u8),
    /// Anything else.
    Torn(Box<[u8]>),
}

impl Leaf {
    fn of(bytes: &[u8]) -> Self {
        match bytes.split_first() {
            None => Self::Fill(0),
            Some((first, rest)) if *rest == bytes[..rest.len()] => Self::Fill(*first),
            Some(_) => Self::Torn(bytes.into()),
        }
    }

    fn bytes(&self, length: usize) -> Vec<u8> {
        match self {
            Self::Fill(byte) => vec![*byte; length],
            Self::Torn(bytes) => bytes.to_vec(),
        }
    }
}

/// A disk, its block map and what of both is not durable yet.
#[derive(Clone, Debug)]
pub(super) struct SimDisk {
    capacity: u64,
    readable: Vec<Leaf>,
    durable: Vec<Leaf>,
    unsynced: BTreeSet<usize>,
    map: Vec<u8>,
    durable_map: Vec<u8>,
    unsynced_map: BTreeSet<usize>,
    /// Whether a writer has it open.
    pub(super) locked: bool,
}

/// A range that lies outside the disk.
#[derive(Debug)]
pub(super) struct Outside;

impl SimDisk {
    pub(super) fn new(capacity: u64) -> Self {
        let count = size(capacity.div_ceil(LEAF_BYTES));
        Self {
            capacity,
            readable: vec![Leaf::Fill(0); count],
            durable: vec![Leaf::Fill(0); count],
            unsynced: BTreeSet::new(),
            map: Vec::new(),
            durable_map: Vec::new(),
            unsynced_map: BTreeSet::new(),
            locked: false,
        }
    }

    pub(super) fn leaf_length(&self, leaf: usize) -> usize {
        let start = u64::try_from(leaf).unwrap_or(u64::MAX).saturating_mul(LEAF_BYTES);
        size(LEAF_BYTES.min(self.capacity.saturating_sub(start)))
    }

    /// Visits the parts of a range, leaf by leaf: the leaf, where in it, and where in the range.
    fn parts(
        &self,
        offset: u64,
        length: usize,
    ) -> Result<Vec<(usize, usize, std::ops::Range<usize>)>, Outside> {
        let end = offset.checked_add(u64::try_from(length).map_err(|_| Outside)?).ok_or(Outside)?;
        if end > self.capacity {
            return Err(Outside);
        }
        let mut parts = Vec::new();
        let (mut at, mut done) = (offset, 0);
        while done < length {
            let (leaf, within) = (size(at / LEAF_BYTES), size(at % LEAF_BYTES));
            let take = (self.leaf_length(leaf) - within).min(length - done);
            parts.push((leaf, within, done..done + take));
            done += take;
            at += u64::try_from(take).map_err(|_| Outside)?;
        }
        Ok(parts)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Outside> {
        for (leaf, within, range) in self.parts(offset, bytes.len())? {
            let length = self.leaf_length(leaf);
            let new = if range.len() == length {
                Leaf::of(&bytes[range])
            } else {
                let mut whole = self.readable[leaf].bytes(length);
                whole[within..within + range.len()].copy_from_slice(&bytes[range]);
                Leaf::of(&whole)
            };
            self.readable[leaf] = new;
            self.unsynced.insert(leaf);
        }
        Ok(())
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Outside> {
        for (leaf, within, range) in self.parts(offset, buffer.len())? {
            match &self.readable[leaf] {
                Leaf::Fill(byte) => buffer[range].fill(*byte),
                Leaf::Torn(bytes) => {
                    let length = range.len();
                    buffer[range].copy_from_slice(&bytes[within..within + length]);
                }
            }
        }
        Ok(())
    }

    pub(super) fn map(&self) -> &[u8] {
        &self.map
    }

    pub(super) fn write_map(&mut self, offset: u64, bytes: &[u8]) {
        let start = size(offset);
        let end = start + bytes.len();
        if self.map.len() < end {
            self.map.resize(end, 0);
        }
        self.map[start..end].copy_from_slice(bytes);
        for entry in start / MAP_ENTRY_BYTES..end.div_ceil(MAP_ENTRY_BYTES) {
            self.unsynced_map.insert(entry);
        }
    }

    /// Makes everything durable that can still become so.
    pub(super) fn sync(&mut self) {
        for leaf in std::mem::take(&mut self.unsynced) {
            self.durable[leaf] = self.readable[leaf].clone();
        }
        for entry in std::mem::take(&mut self.unsynced_map) {
            self.keep_map_entry(entry);
        }
    }

    /// Fails to: what was not durable stays readable, counts as clean, and is lost with the power.
    pub(super) fn fail_sync(&mut self) {
        self.unsynced.clear();
        self.unsynced_map.clear();
    }

    /// Power is lost: a part of what was not durable survives, a leaf perhaps in half.
    pub(super) fn lose_power(&mut self, chance: &mut Chance) {
        for leaf in std::mem::take(&mut self.unsynced) {
            let length = self.leaf_length(leaf);
            match chance.below(3) {
                0 => self.durable[leaf] = self.readable[leaf].clone(),
                1 => {
                    let mut half = self.durable[leaf].bytes(length);
                    let new = self.readable[leaf].bytes(length);
                    half[..length / 2].copy_from_slice(&new[..length / 2]);
                    self.durable[leaf] = Leaf::of(&half);
                }
                _ => {}
            }
        }
        for entry in std::mem::take(&mut self.unsynced_map) {
            if chance.below(2) == 0 {
                self.keep_map_entry(entry);
            }
        }
        self.readable.clone_from(&self.durable);
        self.map.clone_from(&self.durable_map);
        self.locked = false;
    }

    fn keep_map_entry(&mut self, entry: usize) {
        let range = entry * MAP_ENTRY_BYTES..((entry + 1) * MAP_ENTRY_BYTES).min(self.map.len());
        if self.durable_map.len() < range.end {
            self.durable_map.resize(range.end, 0);
        }
        self.durable_map[range.clone()].copy_from_slice(&self.map[range]);
    }

    /// Says which of the first leaves, or of their entries in the block map, is not durable as it reads.
    pub(super) fn not_durable(&self, leaves: usize) -> Option<String> {
        let differs = |leaf: &usize| self.durable[*leaf] != self.readable[*leaf];
        if let Some(leaf) = (0..leaves.min(self.durable.len())).find(differs) {
            return Some(format!("leaf {leaf} is not durable"));
        }
        let entry = |map: &[u8], entry: usize| {
            let entry = map.iter().skip(entry * MAP_ENTRY_BYTES).take(MAP_ENTRY_BYTES);
            entry.copied().collect::<Vec<u8>>()
        };
        let lost = |at: &usize| entry(&self.map, *at) != entry(&self.durable_map, *at);
        let at = (0..leaves).find(lost)?;
        Some(format!("the block map's entry {at} is not durable"))
    }

    /// Says where what survives differs from what a source holds, over the first leaves.
    pub(super) fn difference(&self, content: &[u8], leaves: usize) -> Option<String> {
        if self.durable.len() != content.len() {
            return Some(format!("{} leaves instead of {}", self.durable.len(), content.len()));
        }
        let mut pairs = self.durable.iter().zip(content).take(leaves);
        let at = pairs.position(|(leaf, byte)| *leaf != Leaf::Fill(*byte))?;
        Some(format!("leaf {at} differs"))
    }

    /// Returns what each leaf reads as; of one that is not uniform its first byte.
    pub(super) fn fills(&self) -> Vec<u8> {
        let fill = |leaf: &Leaf| match leaf {
            Leaf::Fill(byte) => *byte,
            Leaf::Torn(bytes) => bytes.first().copied().unwrap_or(0),
        };
        self.readable.iter().map(fill).collect()
    }

    /// Returns how much is stored, zeros left out.
    pub(super) fn stored(&self) -> u64 {
        let stored = self.readable.iter().filter(|leaf| **leaf != Leaf::Fill(0)).count();
        u64::try_from(stored).unwrap_or(u64::MAX).saturating_mul(LEAF_BYTES)
    }
}

/// Turns a size of the simulation, which is small, into an index.
pub(super) fn size(count: u64) -> usize {
    usize::try_from(count).expect("simulated disks are small")
}

#[cfg(test)]
mod tests {
    use super::super::chance::FaultPlan;
    use super::*;

    const LEAF: usize = 64 << 10;

    fn disk() -> SimDisk {
        SimDisk::new(4 * LEAF_BYTES - 512)
    }

    #[test]
    fn it_reads_what_was_written_across_leaves() {
        let mut disk = disk();
        disk.write(LEAF_BYTES - 10, &[7; 20]).unwrap();
        disk.write(3 * LEAF_BYTES, &vec![9; LEAF - 512]).unwrap();
        let mut read = [0; 30];
        disk.read(LEAF_BYTES - 15, &mut read).unwrap();
        assert_eq!(read[..5], [0; 5]);
        assert_eq!(read[5..25], [7; 20]);
        assert_eq!(disk.readable[3], Leaf::Fill(9));
        assert_eq!(disk.stored(), 3 * LEAF_BYTES);
        assert!(disk.write(4 * LEAF_BYTES - 512, &[1]).is_err());
    }

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_not() {
        let mut lost = 0;
        for seed in 0..20 {
            let mut disk = disk();
            disk.write(0, &vec![1; LEAF]).unwrap();
            disk.write_map(0, &[1; 16]);
            disk.sync();
            assert_eq!(disk.not_durable(4), None);
            disk.write(LEAF_BYTES, &vec![2; LEAF]).unwrap();
            disk.write_map(16, &[2; 16]);
            assert_eq!(disk.not_durable(1), None);
            assert_eq!(disk.not_durable(2).unwrap(), "leaf 1 is not durable");
            disk.lose_power(&mut Chance::new(FaultPlan { seed, ..FaultPlan::default() }));
            assert_eq!(disk.durable[0], Leaf::Fill(1));
            assert_eq!(disk.map()[..16], [1; 16]);
            lost += usize::from(disk.readable[1] == Leaf::Fill(0));
        }
        assert!((1..20).contains(&lost), "{lost}");
    }

    #[test]
    fn after_a_failed_sync_a_second_one_proves_nothing() {
        let mut disk = disk();
        disk.write(0, &vec![1; LEAF]).unwrap();
        disk.fail_sync();
        disk.sync();
        assert_eq!(disk.not_durable(1).unwrap(), "leaf 0 is not durable");
        assert_eq!(disk.difference(&[1, 0, 0, 0], 4).unwrap(), "leaf 0 differs");
        disk.write(0, &vec![1; LEAF]).unwrap();
        disk.sync();
        assert_eq!(disk.difference(&[1, 0, 0, 0], 4), None);
    }
}
