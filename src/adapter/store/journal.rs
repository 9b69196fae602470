//! The journal in a redb file: a number for each record, the record as JSON.
//!
//! redb writes copy-on-write pages and a commit is durable when it returns. The mode `SingleWriter` locks byte ranges, so
//! that readers of other processes see one commit or the next beside a running writer.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use redb::{
    Builder, ConcurrencyMode, Database, Durability, ReadOnlyDatabase, ReadableDatabase,
    ReadableTable, TableDefinition,
};
use serde::Deserialize;

use crate::adapter::store::{fill_randomly, full, is_full, release_reserve, reserve, take_lock};
use crate::domain::id::JournalId;
use crate::journal::record::{Entry, Mend, RECORD_VERSION, Record};
use crate::port::{JournalStore, PortError};

/// The version of the tables. A file of a higher one is refused.
const FORMAT: u32 = 1;
/// How much of the file is kept in memory: a journal is read once and then only appended to.
const CACHE_BYTES: usize = 16 << 20;

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const META_ID: &str = "id";
const META_FORMAT: &str = "format";
/// The highest version of any record, so that a start need not read them all to refuse.
const META_NEWEST: &str = "newest-record";

/// The journal, open for writing.
pub struct Journal {
    folder: PathBuf,
    id: JournalId,
    /// redb lets a handle do nothing more after a failed write, so a new one takes its place; `None` where that failed too,
    /// and the next append tries again.
    database: Option<Database>,
    /// The number of the next record. A write that failed may be durable all the same: the next one takes its numbers, so that
    /// nothing stands there that nobody believed.
    next: u64,
    /// The room of the reserve is given away; what is left of it is for finishing and undoing.
    reserve_spent: bool,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("folder", &self.folder)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The journal, open for reading beside a writer.
pub struct JournalReader {
    folder: PathBuf,
    id: JournalId,
    database: ReadOnlyDatabase,
}

impl std::fmt::Debug for JournalReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournalReader")
            .field("folder", &self.folder)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal of a state folder, or makes it. The caller holds the folder's lock.
    pub(super) fn open(folder: &Path) -> Result<Self, PortError> {
        let database = open_database(folder)?;
        let id = begin(&database).map_err(|error| failed("begin", folder, error))?;
        let next = behind(&database).map_err(|error| failed("read", folder, error))?;
        // A new file is there after a power loss only when its folder says so.
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failed("sync the folder of", folder, error.into()))?;
        let journal = Self {
            folder: folder.to_owned(),
            id,
            database: Some(database),
            next,
            reserve_spent: !folder.join("reserve").exists(),
        };
        check_versions(&journal.folder, journal.database()?)?;
        Ok(journal)
    }

    fn database(&self) -> Result<&Database, PortError> {
        self.database.as_ref().ok_or_else(|| full(&self.folder))
    }

    fn write(&mut self, records: &[Vec<u8>]) -> Result<(), redb::Error> {
        let database = match &mut self.database {
            Some(database) => database,
            closed => closed.insert(builder().create(path(&self.folder))?),
        };
        match append(database, records, self.next) {
            Ok(next) => {
                self.next = next;
                Ok(())
            }
            Err(error) => {
                self.database = None;
                self.database = builder().create(path(&self.folder)).ok();
                Err(error)
            }
        }
    }
}

impl JournalStore for Journal {
    fn id(&self) -> JournalId {
        self.id.clone()
    }

    fn read(&self) -> Result<Vec<Record>, PortError> {
        read(&self.folder, self.database()?)
    }

    /// On a full disk facts that finish or undo a VM are written into the room of the reserve; all others fail, until the
    /// reserve could be set aside again.
    fn append(&mut self, at: Timestamp, entries: &[Entry]) -> Result<(), PortError> {
        let records: Vec<_> = entries
            .iter()
            .map(|entry| Record { version: RECORD_VERSION, at, entry: entry.clone() })
            .map(|record| serde_json::to_vec(&record).expect("records have string keys only"))
            .collect();
        let may_use_reserve = entries.iter().all(Entry::may_use_reserve);
        if self.reserve_spent && !may_use_reserve {
            self.reserve_spent = !reserve(&self.folder)?;
            if self.reserve_spent {
                return Err(full(&self.folder));
            }
        }
        let appended = match self.write(&records) {
            Err(error) if is_full_error(&error) && may_use_reserve && !self.reserve_spent => {
                self.reserve_spent = true;
                release_reserve(&self.folder)?;
                self.write(&records)
            }
            appended => appended,
        };
        appended.map_err(|error| failed("append to", &self.folder, error))
    }
}

impl JournalReader {
    /// Opens the journal of a state folder for reading; `None` where there is none yet.
    pub fn open(folder: &Path) -> Result<Option<Self>, PortError> {
        if !path(folder).exists() {
            return Ok(None);
        }
        let database = match builder().open_read_only(path(folder)) {
            // The writer was killed. Reading does not mend; a writer does, and nobody is one.
            Err(redb::DatabaseError::RepairAborted) => {
                let _lock = take_lock(folder)?;
                drop(open_database(folder)?);
                builder().open_read_only(path(folder))
            }
            opened => opened,
        };
        let database = database.map_err(|error| failed("open", folder, error.into()))?;
        let Some(id) = read_id(&database).map_err(|error| failed("read", folder, error))? else {
            return Ok(None);
        };
        check_versions(folder, &database)?;
        Ok(Some(Self { folder: folder.to_owned(), id, database }))
    }

    /// Returns the journal's own random id.
    pub fn id(&self) -> JournalId {
        self.id.clone()
    }

    /// Reads everything up to the last commit, in order.
    pub fn read(&self) -> Result<Vec<Record>, PortError> {
        read(&self.folder, &self.database)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("journal.redb")
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter).set_cache_size(CACHE_BYTES);
    builder
}

fn open_database(folder: &Path) -> Result<Database, PortError> {
    builder().create(path(folder)).map_err(|error| failed("open", folder, error.into()))
}

/// Makes the tables and the id where they are missing: also after a crash between making the file and this.
fn begin(database: &Database) -> Result<JournalId, redb::Error> {
    let transaction = database.begin_read()?;
    if let Ok(meta) = transaction.open_table(META)
        && let Some(id) = meta.get(META_ID)?
    {
        return Ok(JournalId::new(id.value()));
    }
    drop(transaction);
    let mut bytes = [0; 16];
    fill_randomly(&mut bytes)?;
    let id = hex::encode(bytes);
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_ID, id.as_str())?;
        meta.insert(META_FORMAT, FORMAT.to_string().as_str())?;
        meta.insert(META_NEWEST, RECORD_VERSION.to_string().as_str())?;
        transaction.open_table(RECORDS)?;
    }
    transaction.commit()?;
    Ok(JournalId::new(id))
}

/// Writes records from a number on, over whatever stands there, and returns the number behind them.
fn append(database: &Database, records: &[Vec<u8>], first: u64) -> Result<u64, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let next = {
        let mut table = transaction.open_table(RECORDS)?;
        let behind = table.last()?.map_or(0, |(number, _)| number.value() + 1);
        for number in first..behind {
            table.remove(number)?;
        }
        let mut next = first;
        for record in records {
            table.insert(next, record.as_slice())?;
            next += 1;
        }
        let newest = RECORD_VERSION.to_string();
        let mut meta = transaction.open_table(META)?;
        let stands = meta.get(META_NEWEST)?.is_some_and(|stands| stands.value() == newest);
        if !stands {
            meta.insert(META_NEWEST, newest.as_str())?;
        }
        next
    };
    transaction.commit()?;
    Ok(next)
}

/// Returns the number behind the last record.
fn behind(database: &Database) -> Result<u64, redb::Error> {
    match database.begin_read()?.open_table(RECORDS) {
        Ok(table) => Ok(table.last()?.map_or(0, |(number, _)| number.value() + 1)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn read_id(database: &impl ReadableDatabase) -> Result<Option<JournalId>, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(meta) => Ok(meta.get(META_ID)?.map(|id| JournalId::new(id.value()))),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a journal that a newer Ferry wrote to.
fn check_versions(folder: &Path, database: &impl ReadableDatabase) -> Result<(), PortError> {
    let read = || -> Result<(u32, u32), redb::Error> {
        let meta = database.begin_read()?.open_table(META)?;
        let number = |key| -> Result<u32, redb::Error> {
            // What is missing or unreadable was written by nobody that we know.
            Ok(meta.get(key)?.and_then(|text| text.value().parse().ok()).unwrap_or(u32::MAX))
        };
        Ok((number(META_FORMAT)?, number(META_NEWEST)?))
    };
    let (format, newest) = read().map_err(|error| failed("read", folder, error))?;
    if format > FORMAT || newest > RECORD_VERSION {
        return Err(newer(folder, format.max(newest)));
    }
    Ok(())
}

fn newer(folder: &Path, version: u32) -> PortError {
    PortError::lasting(
        format!(
            "the journal in {} was written by a newer ferry: it holds version {version}, and this ferry reads up to {RECORD_VERSION}",
            folder.display()
        ),
        "start the newer ferry again; a journal cannot be taken back to an older one",
        Mend::Person,
    )
}

fn read(folder: &Path, database: &impl ReadableDatabase) -> Result<Vec<Record>, PortError> {
    let rows = || -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        let table = database.begin_read()?.open_table(RECORDS)?;
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (number, record) = row?;
            rows.push((number.value(), record.value().to_vec()));
        }
        Ok(rows)
    };
    let rows = rows().map_err(|error| failed("read", folder, error))?;
    rows.iter().map(|(number, record)| parse(folder, *number, record)).collect()
}

/// The version alone: the rest of a newer record may hold fields that this binary does not know.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn parse(folder: &Path, number: u64, record: &[u8]) -> Result<Record, PortError> {
    if let Ok(Version { version }) = serde_json::from_slice(record)
        && version > RECORD_VERSION
    {
        return Err(newer(folder, version));
    }
    serde_json::from_slice(record).map_err(|error| {
        PortError::lasting(
            format!("record {number} of the journal in {} cannot be read: {error}", folder.display()),
            "keep a copy of the folder and restore it from a backup; nothing is done without the journal",
            Mend::Person,
        )
    })
}

fn is_full_error(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(error) if is_full(error))
}

fn failed(verb: &str, folder: &Path, error: redb::Error) -> PortError {
    if is_full_error(&error) {
        return full(folder);
    }
    let remedy = match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            "another program has it open: end it first"
        }
        redb::Error::Corrupted(_) => {
            "keep a copy of the folder and restore it from a backup; nothing is done without the journal"
        }
        _ => "check the disk, and that ferry's user may read and write the folder",
    };
    PortError::lasting(
        format!("cannot {verb} the journal in {}: {error}", folder.display()),
        remedy,
        Mend::Person,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::CommitId;
    use crate::journal::record::RepoFact;

    #[test]
    fn a_write_that_failed_and_is_durable_all_the_same_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let at = Timestamp::UNIX_EPOCH;
        let said = |commit: &str| Entry::Repo(RepoFact::Accepted { commit: CommitId::new(commit) });
        let mut journal = Journal::open(folder.path()).unwrap();
        journal.append(at, &[said("one")]).unwrap();
        let believed = journal.next;
        journal.append(at, &[said("lost"), said("lost too")]).unwrap();
        // As after a commit whose error came although it had reached the disk.
        journal.next = believed;
        journal.append(at, &[said("two")]).unwrap();
        let read = |journal: &Journal| -> Vec<Entry> {
            journal.read().unwrap().into_iter().map(|record| record.entry).collect()
        };
        assert_eq!(read(&journal), [said("one"), said("two")]);
        drop(journal);
        let mut again = Journal::open(folder.path()).unwrap();
        again.append(at, &[said("three")]).unwrap();
        assert_eq!(read(&again), [said("one"), said("two"), said("three")]);
    }
}
