//! Disks of vSphere, read through VMware's VDDK. In a worker process only: the library may crash, hang and leak, and brings its own
//! OpenSSL, which no other process may meet.
//!
//! # Flow
//! ```text
//!  readers: read ─► budget ─► lend ─► post ─┐                        ┌─► answer wakes the reader
//!                                           ▼                        │
//!  one thread (keeper): Open, QueryAllocatedBlocks, ReadAsync ─► VDDK's threads
//! ```
//!
//! # Guarantees
//! - A read that succeeds was answered in full. Zeros are claimed only where VDDK says that nothing is allocated, of a chain of
//!   disks opened as a whole; where it cannot tell, everything is read.
//! - A connection that is lost is made again a few times, and what was on its way is asked again. A disk whose size changed
//!   meanwhile is refused.
//! - A server without memory for more requests is asked for half as much at once, and for more again when it is well.
//! - Nothing that VDDK logs is shown with the password or the session in it.
//!
//! # Assumptions
//! The process was started with the library's `lib64` in `LD_LIBRARY_PATH`, and its controller ends it when it says nothing for
//! too long: calls of VDDK have no deadline, and a buffer that is lent to it cannot be taken back.
//!
//! # Errors
//! Lost connections, servers without memory and sessions that ended may pass; a disk or snapshot that is gone, and refusals, do not.

mod budget;
mod failure;
mod keeper;
mod log;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use vddk_sys::{Block, CHUNK_SECTORS, CHUNKS_MAX, Library, SECTOR_BYTES, lend};

use crate::adapter::flight::Adapted;
use crate::adapter::secret::Secret;
use crate::adapter::vddk::budget::Budget;
use crate::adapter::vddk::failure::{Class, Failure, unloaded};
use crate::adapter::vddk::keeper::{Found, Keeper, Number};
use crate::adapter::vddk::log::Log;
use crate::extent::{Content, Extent};
use crate::journal::record::Mend;
use crate::port::{Blocks, PortError};

/// How many requests may be on their way from one disk: with the engine's requests of 1 MiB as much as [`budget::BYTES_MAX`].
const IN_FLIGHT: usize = 16;

/// How often one request is sent again because its connection was lost.
const AGAINS_MAX: u32 = 5;

/// How often one request is sent again because the server had no memory: while others are served, too, so often that it is not for
/// long.
const REFUSALS_MAX: u32 = 30;

/// What one question about allocation covers.
const WINDOW_BYTES: u64 = CHUNK_SECTORS * CHUNKS_MAX * SECTOR_BYTES;

/// How long, and how often, a server is waited for.
#[derive(Clone, Debug)]
struct Patience {
    /// The pauses before each try to connect again.
    pauses: Vec<Duration>,
    /// After how long without an answer it is said.
    slow: Duration,
    /// The pause before a request that the server had no memory for is sent again.
    refused: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // A restart of a server's services takes a minute; who started this worker tries again later anyway.
            pauses: [0, 1, 4, 15, 40].map(Duration::from_secs).to_vec(),
            slow: Duration::from_secs(30),
            refused: Duration::from_millis(100),
        }
    }
}

/// Where a disk is, and how it is reached.
#[derive(Debug)]
pub struct Place {
    /// The name or address of a vCenter or an `ESXi` host.
    pub server: String,
    /// The port of its API: 443.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The user's password; with a session its library asks for it as well.
    pub password: Secret,
    /// The cookie of a session of the API, which saves a login.
    pub session: Option<Secret>,
    /// SHA-1 of the server's certificate: pairs of hexadecimal digits, joined by colons.
    pub thumbprint: String,
    /// The VM's managed object there (`vm-123`).
    pub vm: String,
    /// The snapshot that is read (`snapshot-123`); the disk as it is, without one.
    pub snapshot: Option<String>,
    /// The disk, as the device list of that snapshot has it: `[datastore] folder/disk.vmdk`.
    pub disk: String,
    /// How it may be read, in the order in which it is tried: `nbdssl:nbd`. The library's order, without.
    pub transports: Option<String>,
}

impl Place {
    /// Returns the server and its port.
    fn address(&self) -> String {
        format!("{}:{}", self.server, self.port)
    }
}

/// Names the disk.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot.as_ref().map(|id| format!(" at {id}")).unwrap_or_default();
        write!(f, "`{}` of {}{snapshot} on {}", self.disk, self.vm, self.address())
    }
}

/// The library, started. A process starts it once.
pub struct Vddk {
    keeper: Arc<Keeper>,
    log: Arc<Log>,
    version: String,
    patience: Patience,
}

impl fmt::Debug for Vddk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vddk").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Vddk {
    /// Loads the library that is unpacked in a folder, and starts it.
    pub fn start(folder: &Path) -> Result<Self, PortError> {
        Self::start_with(folder, Patience::default())
    }

    fn start_with(folder: &Path, patience: Patience) -> Result<Self, PortError> {
        let library = Library::load(folder).map_err(unloaded)?;
        let version = library.version();
        tracing::info!(version, file = %library.file().display(), "loaded VDDK");
        let log = Arc::new(Log::default());
        let keeper = Keeper::start(library, Arc::clone(&log), patience.clone())?;
        Ok(Self { keeper: Arc::new(keeper), log, version, patience })
    }

    /// Returns the library's version, as its file's name tells it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Opens a disk for reading.
    pub fn open(&self, place: Place) -> Result<Arc<dyn Blocks>, PortError> {
        for secret in place.session.iter().chain([&place.password]) {
            self.log.hide(secret.expose());
        }
        let place = Arc::new(place);
        let opened = self.keeper.open(Arc::clone(&place));
        let (number, found) =
            opened.map_err(|failure| failure.told("open", &place, None, &self.log.told()))?;
        if !found.tells {
            tracing::warn!(%place, "VDDK does not tell what is allocated: all of it is read");
        }
        Ok(Arc::new(Adapted::new(Arc::new(RemoteDisk {
            keeper: Arc::clone(&self.keeper),
            log: Arc::clone(&self.log),
            place,
            number,
            found,
            connection: AtomicU64::new(0),
            budget: Budget::new(),
            window: Mutex::new(None),
            patience: self.patience.clone(),
        }))))
    }
}

/// A disk that is open. Its requests are not bounded in number: [`Adapted`] does that.
struct RemoteDisk {
    keeper: Arc<Keeper>,
    log: Arc<Log>,
    place: Arc<Place>,
    number: Number,
    found: Found,
    /// The connection that is there as far as readers know.
    connection: AtomicU64,
    budget: Budget,
    /// What the last window that was asked about holds, and its number.
    window: Mutex<Option<(u64, Vec<Extent>)>>,
    patience: Patience,
}

impl Drop for RemoteDisk {
    fn drop(&mut self) {
        self.keeper.close(self.number);
    }
}

impl Blocks for RemoteDisk {
    fn size(&self) -> u64 {
        self.found.size
    }

    fn in_flight(&self) -> usize {
        IN_FLIGHT
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>, PortError> {
        self.within(offset, length)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let number = offset / WINDOW_BYTES;
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.as_ref().is_none_or(|(asked, _)| *asked != number) {
            let what = "ask what is allocated of";
            let told = self.ask(number).map_err(|failure| self.told(&failure, what, offset))?;
            *window = Some((number, told));
        }
        let extents = window.iter().flat_map(|(_, extents)| extents);
        Ok(extents.filter_map(|extent| cut(*extent, offset, offset + length)).collect())
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        self.within(offset, length)?;
        if offset.is_multiple_of(SECTOR_BYTES) && length.is_multiple_of(SECTOR_BYTES) {
            return self.fill(offset, buffer);
        }
        let from = offset - offset % SECTOR_BYTES;
        let mut whole = vec![0; index((offset + length).next_multiple_of(SECTOR_BYTES) - from)];
        self.fill(from, &mut whole)?;
        buffer.copy_from_slice(&whole[index(offset - from)..][..buffer.len()]);
        Ok(())
    }
}

impl RemoteDisk {
    /// Refuses what is not within the disk.
    fn within(&self, offset: u64, length: u64) -> Result<(), PortError> {
        if offset.checked_add(length).is_some_and(|end| end <= self.found.size) {
            return Ok(());
        }
        Err(PortError::lasting(
            format!(
                "cannot read {length} bytes of {} at byte {offset}: it has {} bytes",
                self.place, self.found.size
            ),
            "the disk became shorter than it was observed: begin again",
            Mend::Source,
        ))
    }

    fn told(&self, failure: &Failure, what: &str, offset: u64) -> PortError {
        failure.told(what, &self.place, Some(offset), &self.log.told())
    }

    /// Fills whole sectors, in requests as large as the server stands.
    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<(), PortError> {
        let (mut agains, mut refusals) = (0, 0);
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let length = rest.len().min(index(self.budget.largest()));
            match self.request(at, &mut rest[..length]) {
                Ok(()) => {
                    rest = &mut rest[length..];
                    at += u64::try_from(length).unwrap_or(u64::MAX);
                }
                Err(failure) => match failure.class() {
                    Class::Less if refusals < REFUSALS_MAX => {
                        refusals += 1;
                        thread::sleep(self.patience.refused);
                    }
                    Class::Again if agains < AGAINS_MAX => agains += 1,
                    _ => return Err(self.told(&failure, "read", at)),
                },
            }
        }
        Ok(())
    }

    /// Sends one request and waits for its answer. After a lost connection there is a new one, or what stands against it is the
    /// failure.
    fn request(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        let taken = self.budget.take(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        let connection = self.connection.load(Ordering::SeqCst);
        let refused_before = self.log.without_memory();
        let post = |request| self.keeper.read(self.number, offset / SECTOR_BYTES, request);
        let mut waited = 0;
        let slow = || {
            waited += self.patience.slow.as_secs();
            let place = &self.place;
            tracing::warn!(what = "read", offset, %place, seconds = waited, "waiting for VDDK");
        };
        let Err(error) = lend(buffer, post, self.patience.slow, slow) else {
            taken.came();
            return Ok(());
        };
        let failure = match Failure::from(error.clone()) {
            failure if failure.class() == Class::Less => failure,
            _ if self.log.without_memory() != refused_before => Failure::NoMemory(error),
            failure => failure,
        };
        match failure.class() {
            Class::Less => taken.refused(),
            Class::Again => {
                drop(taken);
                self.again(connection)?;
            }
            Class::Later | Class::Changed | Class::Stop => {}
        }
        Err(failure)
    }

    /// Has a connection made after one that was lost.
    fn again(&self, lost: u64) -> Result<(), Failure> {
        let now = self.keeper.again(self.number, lost)?;
        self.connection.fetch_max(now, Ordering::SeqCst);
        Ok(())
    }

    /// Asks what a window holds.
    fn ask(&self, number: u64) -> Result<Vec<Extent>, Failure> {
        let start = number * WINDOW_BYTES;
        let end = self.found.size.min(start + WINDOW_BYTES);
        let chunk = CHUNK_SECTORS * SECTOR_BYTES;
        // The end of a disk that is no whole chunk cannot be asked about.
        let asked = (end - start) / chunk * chunk;
        let everything =
            vec![Extent { offset: start, length: end - start, content: Content::Data }];
        if !self.found.tells || asked == 0 {
            return Ok(everything);
        }
        let mut agains = 0;
        loop {
            let connection = self.connection.load(Ordering::SeqCst);
            let range = (start / SECTOR_BYTES, asked / SECTOR_BYTES);
            match self.keeper.allocated(self.number, range) {
                Ok(blocks) => {
                    return Ok(extents(&blocks, (start, start + asked), end).unwrap_or_else(|| {
                        tracing::warn!(place = %self.place, start, "VDDK tells of blocks in no order: all is read");
                        everything
                    }));
                }
                Err(failure)
                    if agains < AGAINS_MAX
                        // A disk that is not open is not asked, which reads as if nobody could be.
                        && (failure.class() == Class::Again || failure == Failure::Gone) =>
                {
                    agains += 1;
                    self.again(connection)?;
                }
                Err(failure) => {
                    tracing::warn!(place = %self.place, start, %failure, "what is allocated is not known: all is read");
                    return Ok(everything);
                }
            }
        }
    }
}

/// Makes extents of the blocks that are allocated in a range; what is behind it up to the end holds data. `None` where the blocks
/// do not ascend within the range.
fn extents(blocks: &[Block], (start, asked): (u64, u64), end: u64) -> Option<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut at = start;
    let mut until = |to: u64, content, at: &mut u64| {
        if to > *at {
            extents.push(Extent { offset: *at, length: to - *at, content });
            *at = to;
        }
    };
    for Block { start, count } in blocks {
        let from = start.checked_mul(SECTOR_BYTES)?;
        let to = start.checked_add(*count)?.checked_mul(SECTOR_BYTES)?;
        if from < at || to > asked {
            return None;
        }
        until(from, Content::Zero, &mut at);
        until(to, Content::Data, &mut at);
    }
    until(asked, Content::Zero, &mut at);
    until(end, Content::Data, &mut at);
    Some(extents)
}

/// Returns what of an extent is within a range.
fn cut(extent: Extent, from: u64, to: u64) -> Option<Extent> {
    let (from, to) = (extent.offset.max(from), extent.end().min(to));
    (from < to).then(|| Extent { offset: from, length: to - from, ..extent })
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("requests fit into memory")
}
