//! Which clusters of an image are used: one bit for each, and the refcount blocks that say so in the file.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::adapter::image::qcow2::layout::CLUSTER_BYTES;

/// How many clusters one refcount block counts: two bytes for each.
pub(super) const BLOCK_COUNTS: u32 = 32 << 10;

/// How many refcount blocks there may be: as many as one cluster of places names.
pub(super) const BLOCKS_MAX: u32 = 8 << 10;

/// The longest image, in clusters: 16 TiB.
pub(super) const CLUSTERS_MAX: u32 = BLOCKS_MAX * BLOCK_COUNTS;

/// The clusters of one image, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    used: Vec<u64>,
    /// No cluster before this one is free.
    next: u32,
    /// The blocks that the file does not know.
    pub(super) touched: BTreeSet<u32>,
}

impl Clusters {
    /// Takes the first free clusters that lie side by side, at most `count` and at least one; `None` where the image is as
    /// long as it may be.
    pub(super) fn take(&mut self, count: u32) -> Option<Range<u32>> {
        let first = self.first_free();
        let most = count.min(CLUSTERS_MAX.saturating_sub(first));
        let taken = (0..most).take_while(|nth| !self.is_used(first + nth)).count();
        let end = first + u32::try_from(taken).expect("at most as many as were asked for");
        for cluster in first..end {
            self.mark(cluster);
        }
        self.next = end;
        (first < end).then_some(first..end)
    }

    /// Marks a cluster as used; returns whether it was free.
    pub(super) fn mark(&mut self, cluster: u32) -> bool {
        if self.is_used(cluster) {
            return false;
        }
        let (word, bit) = place(cluster);
        if self.used.len() <= word {
            self.used.resize(word + 1, 0);
        }
        self.used[word] |= bit;
        self.touched.insert(cluster / BLOCK_COUNTS);
        true
    }

    /// Marks a cluster as free.
    pub(super) fn release(&mut self, cluster: u32) {
        assert!(self.is_used(cluster), "cluster {cluster} was free");
        let (word, bit) = place(cluster);
        self.used[word] &= !bit;
        self.next = self.next.min(cluster);
        self.touched.insert(cluster / BLOCK_COUNTS);
    }

    /// Returns how many blocks count all of the used clusters.
    pub(super) fn blocks(&self) -> u32 {
        let clusters = u32::try_from(self.used.len() * 64).expect("the image's length is bounded");
        clusters.div_ceil(BLOCK_COUNTS)
    }

    /// Returns a refcount block as it stands in the file.
    pub(super) fn block(&self, number: u32) -> Vec<u8> {
        let first = number * BLOCK_COUNTS;
        let counts =
            (first..first + BLOCK_COUNTS).flat_map(|cluster| [0, u8::from(self.is_used(cluster))]);
        let block: Vec<u8> = counts.collect();
        assert_eq!(block.len(), CLUSTER_BYTES, "a block fills a cluster");
        block
    }

    fn is_used(&self, cluster: u32) -> bool {
        let (word, bit) = place(cluster);
        self.used.get(word).is_some_and(|used| used & bit != 0)
    }

    fn first_free(&self) -> u32 {
        let mut at = self.next;
        loop {
            let (word, _) = place(at);
            if self.used.get(word) == Some(&u64::MAX) {
                at = (at / 64 + 1) * 64;
            } else if self.is_used(at) {
                at += 1;
            } else {
                return at;
            }
        }
    }
}

fn place(cluster: u32) -> (usize, u64) {
    (usize::try_from(cluster / 64).expect("four bytes fit"), 1 << (cluster % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_clusters_are_taken_side_by_side() {
        let mut clusters = Clusters::default();
        assert_eq!(clusters.take(200), Some(0..200));
        for cluster in [3, 70, 71, 72, 199] {
            clusters.release(cluster);
        }
        assert_eq!(clusters.take(2), Some(3..4));
        assert_eq!(clusters.take(2), Some(70..72));
        assert_eq!(clusters.take(9), Some(72..73));
        assert!(!clusters.mark(5) && clusters.mark(201));
        assert_eq!(clusters.take(9), Some(199..201));
        assert_eq!(clusters.take(9), Some(202..211));
        assert_eq!((clusters.blocks(), clusters.touched.len()), (1, 1));
        let block = clusters.block(0);
        assert_eq!(block[2 * 209..2 * 213], [0, 1, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn an_image_has_a_longest_length() {
        let last = CLUSTERS_MAX - 1;
        let mut clusters = Clusters { next: last, ..Clusters::default() };
        assert_eq!(clusters.take(9), Some(last..CLUSTERS_MAX));
        assert_eq!(clusters.take(9), None);
        assert_eq!(clusters.blocks(), BLOCKS_MAX);
    }
}
