//! The L2 tables of an image that is written, in memory: where each cluster of the disk stands.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::adapter::image::qcow2::layout::{CLUSTER_BYTES, COPIED, ENTRY_BYTES};

/// The bytes of a cluster.
pub(super) const CLUSTER: u64 = 64 << 10;

/// The entries of one table.
pub(super) const ENTRIES: usize = CLUSTER_BYTES / 8;

/// The tables of one image.
#[derive(Debug)]
pub(super) struct Tables {
    /// By their numbers; `None` where nothing of a table's range has a place.
    tables: Vec<Option<Table>>,
    /// Which entries of which tables the file does not know.
    changed: BTreeMap<usize, Range<usize>>,
}

#[derive(Debug)]
struct Table {
    /// The cluster that it stands in.
    home: Option<u32>,
    /// The cluster of each entry; 0 where it has none.
    entries: Box<[u32]>,
}

impl Tables {
    /// Makes the tables of a disk without any place.
    pub(super) fn new(capacity: u64) -> Self {
        let count = capacity.div_ceil(CLUSTER * number(ENTRIES));
        Self { tables: (0..count).map(|_| None).collect(), changed: BTreeMap::new() }
    }

    /// Returns how many tables cover the disk.
    pub(super) fn count(&self) -> u64 {
        number(self.tables.len())
    }

    /// Returns where a cluster of the disk stands.
    pub(super) fn get(&self, nth: u64) -> Option<u32> {
        let (table, entry) = place(nth);
        let cluster = self.tables[table].as_ref()?.entries[entry];
        (cluster != 0).then_some(cluster)
    }

    /// Says where a cluster of the disk stands.
    pub(super) fn set(&mut self, nth: u64, cluster: u32) {
        let (table, entry) = place(nth);
        let known = self.tables[table].get_or_insert_with(Table::empty);
        known.entries[entry] = cluster;
        self.change(table, entry);
    }

    /// Takes the places of a range of clusters away, and says which they were.
    pub(super) fn clear(&mut self, range: Range<u64>, mut taken: impl FnMut(u32)) {
        let mut at = range.start;
        while at < range.end {
            let (table, first) = place(at);
            let end = ENTRIES.min(first + index(range.end - at));
            let mut changes = Vec::new();
            if let Some(known) = &mut self.tables[table] {
                for (nth, place) in (first..).zip(&mut known.entries[first..end]) {
                    if *place != 0 {
                        taken(std::mem::take(place));
                        changes.push(nth);
                    }
                }
            }
            if let (Some(first), Some(last)) = (changes.first(), changes.last()) {
                self.change(table, *first);
                self.change(table, *last);
            }
            at += number(end - first);
        }
    }

    /// Tells whether nothing of a range of clusters has a place.
    pub(super) fn is_clear(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let (table, first) = place(at);
            let end = ENTRIES.min(first + index(range.end - at));
            let table = &self.tables[table];
            if table
                .as_ref()
                .is_some_and(|table| table.entries[first..end].iter().any(|one| *one != 0))
            {
                return false;
            }
            at += number(end - first);
        }
        true
    }

    /// Adds a table that the file has.
    pub(super) fn add(&mut self, table: usize, home: u32) {
        self.tables[table] = Some(Table { home: Some(home), ..Table::empty() });
    }

    /// Adds an entry that the file has.
    pub(super) fn load(&mut self, table: usize, entry: usize, cluster: u32) {
        if let Some(table) = &mut self.tables[table] {
            table.entries[entry] = cluster;
        }
    }

    /// Returns the tables that say something and stand nowhere.
    pub(super) fn homeless(&self) -> Vec<usize> {
        let homeless = |table: &&usize| {
            self.tables[**table].as_ref().is_some_and(|table| {
                table.home.is_none() && table.entries.iter().any(|one| *one != 0)
            })
        };
        self.changed.keys().filter(homeless).copied().collect()
    }

    /// Says where a table stands.
    pub(super) fn house(&mut self, table: usize, home: u32) {
        if let Some(table) = &mut self.tables[table] {
            table.home = Some(home);
        }
    }

    /// Returns where a table stands.
    pub(super) fn home(&self, table: usize) -> Option<u32> {
        self.tables[table].as_ref()?.home
    }

    /// Returns which entries of which tables changed since this was asked.
    pub(super) fn take_changed(&mut self) -> BTreeMap<usize, Range<usize>> {
        std::mem::take(&mut self.changed)
    }

    /// Returns entries as they stand in the file.
    pub(super) fn bytes(&self, table: usize, entries: Range<usize>) -> Vec<u8> {
        let known = self.tables[table].as_ref().map(|table| &table.entries[entries]);
        let entry = |cluster: &u32| match *cluster {
            0 => 0,
            cluster => (u64::from(cluster) * CLUSTER) | COPIED,
        };
        known.unwrap_or_default().iter().flat_map(|cluster| entry(cluster).to_be_bytes()).collect()
    }

    fn change(&mut self, table: usize, entry: usize) {
        let changed = self.changed.entry(table).or_insert(entry..entry + 1);
        *changed = changed.start.min(entry)..changed.end.max(entry + 1);
    }
}

impl Table {
    fn empty() -> Self {
        Self { home: None, entries: vec![0; ENTRIES].into() }
    }
}

fn place(nth: u64) -> (usize, usize) {
    let entries = CLUSTER / ENTRY_BYTES;
    (index(nth / entries), index(nth % entries))
}

/// Makes an index of a number.
pub(super) fn index(number: u64) -> usize {
    usize::try_from(number).expect("64 bits are an index here")
}

/// Makes a number of an index.
pub(super) fn number(index: usize) -> u64 {
    u64::try_from(index).expect("an index fits 64 bits")
}
