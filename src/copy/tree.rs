//! The hash tree over a disk: what the guest should read, leaf by leaf, and one root for the report.
//!
//! A leaf is the first [`HASH_BYTES`] of BLAKE3 over 64 KiB of the disk (the last one over what is left of it), a node BLAKE3
//! over the hashes of 64 leaves (4 MiB), the root BLAKE3 over the nodes in order. In the block map, the file beside a disk, 16
//! zero bytes stand for a leaf of zeros, so that a thin disk has a thin map; the tree is computed over the real hash of zeros.

use std::collections::BTreeMap;

use crate::domain::unit::Bytes;

/// The bytes under one hash of the block map.
pub const LEAF_BYTES: u64 = 64 << 10;

/// The bytes of one hash of the block map.
pub const HASH_BYTES: usize = 16;

/// The leaves under one node.
pub const NODE_LEAVES: u64 = 64;

/// The largest disk. vSphere ends at 62 TiB; far beyond it a hostile header would make the tree itself exhaust the machine.
pub const CAPACITY_MAX: Bytes = Bytes(64 << 40);

/// The bytes of the block map under one node.
const NODE_MAP_BYTES: u64 = NODE_LEAVES * 16;

/// What [`is_zero`] compares with.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The hash of one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafHash([u8; HASH_BYTES]);

impl LeafHash {
    /// Hashes what stands in a leaf.
    pub fn of(leaf: &[u8]) -> Self {
        let hash = blake3::hash(leaf);
        let (front, _) = hash.as_bytes().split_at(HASH_BYTES);
        Self(front.try_into().expect("split at that length"))
    }

    /// Hashes a leaf of so many zeros.
    pub fn of_zeros(length: u64) -> Self {
        let length = usize::try_from(length.min(LEAF_BYTES)).expect("a leaf fits into memory");
        Self::of(&ZEROS[..length])
    }
}

/// Tells whether bytes are all zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// What a saved block map has to do with a disk: nothing.
#[derive(Debug, thiserror::Error)]
#[error(
    "the block map has {found} bytes, the disk needs at most {needed}: it belongs to another disk"
)]
pub struct ForeignMap {
    found: usize,
    needed: u64,
}

/// The hashes of a disk's leaves. What was never set is zeros. Memory follows the data, not the capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMap {
    capacity: Bytes,
    nodes: BTreeMap<u64, Node>,
}

/// `None` is a leaf of zeros.
type Node = [Option<LeafHash>; 64];

const EMPTY_NODE: Node = [None; 64];

impl BlockMap {
    /// Makes the map of a disk of zeros.
    pub fn new(capacity: Bytes) -> Self {
        Self { capacity, nodes: BTreeMap::new() }
    }

    /// Reads a map as it was saved. It may end early: the rest is zeros.
    pub fn parse(capacity: Bytes, saved: &[u8]) -> Result<Self, ForeignMap> {
        let mut map = Self::new(capacity);
        let needed = map.leaves() * 16;
        if u64::try_from(saved.len()).is_ok_and(|found| found > needed) {
            return Err(ForeignMap { found: saved.len(), needed });
        }
        for (leaf, entry) in (0..).zip(saved.chunks(HASH_BYTES)) {
            if !is_zero(entry) {
                let mut hash = [0; HASH_BYTES];
                hash[..entry.len()].copy_from_slice(entry);
                map.set(leaf, Some(LeafHash(hash)));
            }
        }
        Ok(map)
    }

    /// Returns how many leaves the disk has.
    pub fn leaves(&self) -> u64 {
        self.capacity.0.div_ceil(LEAF_BYTES)
    }

    /// Returns how long a leaf is: 64 KiB but at the end of the disk.
    pub fn leaf_length(&self, leaf: u64) -> u64 {
        (self.capacity.0 - leaf * LEAF_BYTES).min(LEAF_BYTES)
    }

    /// Returns a leaf's hash; `None` for zeros.
    pub fn get(&self, leaf: u64) -> Option<LeafHash> {
        self.nodes.get(&(leaf / NODE_LEAVES)).and_then(|node| node[slot(leaf)])
    }

    /// Sets a leaf's hash; `None` for zeros.
    pub fn set(&mut self, leaf: u64, hash: Option<LeafHash>) {
        let node = leaf / NODE_LEAVES;
        if hash.is_some() || self.nodes.contains_key(&node) {
            self.nodes.entry(node).or_insert(EMPTY_NODE)[slot(leaf)] = hash;
        }
    }

    /// Returns the part of the saved map under one node: where it stands, and its bytes.
    pub fn part(&self, node: u64) -> (u64, Vec<u8>) {
        let leaves = NODE_LEAVES.min(self.leaves().saturating_sub(node * NODE_LEAVES));
        let hashes = self.nodes.get(&node).unwrap_or(&EMPTY_NODE);
        let bytes = (0..leaves)
            .flat_map(|leaf| hashes[slot(leaf)].map_or([0; HASH_BYTES], |hash| hash.0))
            .collect();
        (node * NODE_MAP_BYTES, bytes)
    }

    /// Returns the first leaf from one on that is not zeros.
    pub fn next_data(&self, from: u64) -> Option<u64> {
        self.nodes.range(from / NODE_LEAVES..).find_map(|(node, hashes)| {
            let leaves = (node * NODE_LEAVES..).zip(hashes);
            leaves.filter(|(leaf, _)| *leaf >= from).find_map(|(leaf, hash)| hash.map(|_| leaf))
        })
    }

    /// Computes the root, in hexadecimal.
    pub fn root(&self) -> String {
        let zeros = LeafHash::of_zeros(LEAF_BYTES);
        let node_of_zeros = node_hash(&[zeros; 64]);
        let mut root = blake3::Hasher::new();
        let mut hashes = Vec::with_capacity(64);
        for node in 0..self.leaves().div_ceil(NODE_LEAVES) {
            let first = node * NODE_LEAVES;
            let last = (first + NODE_LEAVES).min(self.leaves());
            let whole = last * LEAF_BYTES <= self.capacity.0 && last - first == NODE_LEAVES;
            if whole && !self.nodes.contains_key(&node) {
                root.update(&node_of_zeros);
                continue;
            }
            hashes.clear();
            hashes.extend((first..last).map(|leaf| {
                self.get(leaf).unwrap_or_else(|| match self.leaf_length(leaf) {
                    LEAF_BYTES => zeros,
                    shorter => LeafHash::of_zeros(shorter),
                })
            }));
            root.update(&node_hash(&hashes));
        }
        root.finalize().to_hex().to_string()
    }
}

fn slot(leaf: u64) -> usize {
    usize::try_from(leaf % NODE_LEAVES).expect("below 64")
}

fn node_hash(leaves: &[LeafHash]) -> [u8; 32] {
    let mut node = blake3::Hasher::new();
    for leaf in leaves {
        node.update(&leaf.0);
    }
    *node.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tree as the module's text describes it, over the plain bytes.
    fn root_of(disk: &[u8]) -> String {
        let leaves: Vec<Vec<u8>> = disk
            .chunks(64 << 10)
            .map(|leaf| blake3::hash(leaf).as_bytes()[..16].to_vec())
            .collect();
        let mut root = Vec::new();
        for node in leaves.chunks(64) {
            root.extend_from_slice(blake3::hash(&node.concat()).as_bytes());
        }
        blake3::hash(&root).to_hex().to_string()
    }

    fn map_of(disk: &[u8]) -> BlockMap {
        let mut map = BlockMap::new(Bytes(u64::try_from(disk.len()).unwrap()));
        for (leaf, bytes) in (0..).zip(disk.chunks(64 << 10)) {
            map.set(leaf, (!is_zero(bytes)).then(|| LeafHash::of(bytes)));
        }
        map
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_root_is_that_of_the_bytes_and_survives_the_file(
            leaves in 0_usize..140, rest in 0_usize..(64 << 10), data in proptest::collection::vec(any::<u16>(), 0..20),
        ) {
            let mut disk = vec![0; leaves * (64 << 10) + rest];
            for place in data {
                let at = usize::from(place) * 977;
                if at < disk.len() { disk[at] = 1; }
            }
            let map = map_of(&disk);
            prop_assert_eq!(map.root(), root_of(&disk));
            let mut file = Vec::new();
            for node in 0..map.leaves().div_ceil(NODE_LEAVES) {
                let (offset, bytes) = map.part(node);
                prop_assert_eq!(usize::try_from(offset).unwrap(), file.len());
                file.extend(bytes);
            }
            let again = BlockMap::parse(map.capacity, &file).unwrap();
            prop_assert_eq!(again.root(), map.root());
            let thin = BlockMap::parse(map.capacity, &file[..file.len() / 16 * 16 / 2 / 16 * 16]).unwrap();
            prop_assert!(thin.leaves() == map.leaves());
        }
    }

    #[test]
    fn a_map_of_a_larger_disk_is_foreign() {
        assert!(BlockMap::parse(Bytes(1), &[0; 16]).is_ok());
        assert!(BlockMap::parse(Bytes(1), &[0; 17]).is_err());
    }

    #[test]
    fn data_is_found_leaf_by_leaf() {
        let mut map = BlockMap::new(Bytes::mib(100));
        for leaf in [3, 64, 700] {
            map.set(leaf, Some(LeafHash::of(b"x")));
        }
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(leaf) = map.next_data(from) {
            found.push(leaf);
            from = leaf + 1;
        }
        assert_eq!(found, [3, 64, 700]);
    }
}
