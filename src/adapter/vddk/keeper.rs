//! The thread that calls VDDK: it starts the library, opens and closes disks, and issues everything for them.
//!
//! Whoever reads posts a request and waits for its answer, which comes from VDDK's own threads. So one thread keeps as many
//! requests on their way as there are readers, and no two calls on a disk overlap.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vddk_sys::{
    Block, CHUNK_SECTORS, Credential, Disk, Library, Login, Request, SECTOR_BYTES, Session,
    StartError,
};

use crate::adapter::vddk::failure::{Class, Failure, unstarted};
use crate::adapter::vddk::log::Log;
use crate::adapter::vddk::{Patience, Place};
use crate::port::PortError;

/// Names a disk that is open.
pub(super) type Number = u64;

/// What a disk turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its size in bytes.
    pub(super) size: u64,
    /// How it is read.
    pub(super) transport: String,
    /// Whether VDDK tells what of it is allocated.
    pub(super) tells: bool,
}

type Reply<T> = Sender<Result<T, Failure>>;

/// What the thread is asked for.
enum Command {
    /// Opens a disk.
    Open(Arc<Place>, Reply<(Number, Found)>),
    /// Issues a request for a disk's sectors from one on.
    Read(Number, u64, Request),
    /// Asks what of a range is allocated.
    Allocated(Number, (u64, u64), Reply<Vec<Block>>),
    /// Connects again, unless that was done since the connection of this number.
    Again(Number, u64, Reply<u64>),
    /// Closes a disk.
    Close(Number),
}

/// The thread, as others see it. It ends with this, and the library with it.
pub(super) struct Keeper {
    commands: Mutex<Option<Sender<Command>>>,
    thread: Option<JoinHandle<()>>,
    /// After how long without an answer it is said.
    slow: Duration,
}

impl Keeper {
    /// Starts the library on a thread of its own.
    pub(super) fn start(
        library: Library,
        log: Arc<Log>,
        patience: Patience,
    ) -> Result<Self, PortError> {
        let (commands, asked) = channel();
        let (started, ready) = channel();
        let slow = patience.slow;
        let keep = move || keep(library, &log, &patience, &asked, &started);
        let thread = thread::Builder::new().name("vddk".to_owned()).spawn(keep);
        let thread = thread.map_err(|error| {
            PortError::passing(
                format!("cannot start a thread: {error}"),
                "the machine has no room for it",
            )
        })?;
        let keeper = Self { commands: Mutex::new(Some(commands)), thread: Some(thread), slow };
        match ready.recv() {
            Ok(Ok(())) => Ok(keeper),
            Ok(Err(error)) => Err(unstarted(error)),
            Err(_) => Err(PortError::passing(
                Failure::Gone.to_string(),
                "report it with the worker's log",
            )),
        }
    }

    /// Opens a disk.
    pub(super) fn open(&self, place: Arc<Place>) -> Result<(Number, Found), Failure> {
        self.ask("open a disk", |reply| Command::Open(place, reply))
    }

    /// Posts a request. Where it cannot be issued, it is answered as cancelled.
    pub(super) fn read(&self, disk: Number, sector: u64, request: Request) {
        self.post(Command::Read(disk, sector, request));
    }

    /// Asks what of a range of sectors is allocated.
    pub(super) fn allocated(&self, disk: Number, range: (u64, u64)) -> Result<Vec<Block>, Failure> {
        self.ask("tell what is allocated", |reply| Command::Allocated(disk, range, reply))
    }

    /// Makes a connection after the one of a number; returns the number of the one there is now.
    pub(super) fn again(&self, disk: Number, after: u64) -> Result<u64, Failure> {
        self.ask("connect again", |reply| Command::Again(disk, after, reply))
    }

    /// Closes a disk.
    pub(super) fn close(&self, disk: Number) {
        self.post(Command::Close(disk));
    }

    fn ask<T>(&self, what: &str, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Failure> {
        let (reply, answer) = channel();
        self.post(command(reply));
        let mut waited = 0;
        loop {
            match answer.recv_timeout(self.slow) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Gone),
                Err(RecvTimeoutError::Timeout) => waited += self.slow.as_secs(),
            }
            tracing::warn!(what, seconds = waited, "waiting for VDDK");
        }
    }

    fn post(&self, command: Command) {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        // What a thread that is gone does not take is dropped, which tells who waits for it.
        let _ = commands.as_ref().map(|commands| commands.send(command));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// An open disk, and how often it was connected to.
struct Held {
    place: Arc<Place>,
    /// `None` where the connection was lost and none came after it.
    disk: Option<Disk>,
    found: Found,
    connections: u64,
    given_up: Option<Failure>,
}

/// Does what is asked for, until nobody can ask any more.
fn keep(
    library: Library,
    log: &Arc<Log>,
    patience: &Patience,
    asked: &Receiver<Command>,
    started: &Sender<Result<(), StartError>>,
) {
    let hear = Arc::clone(log);
    let session = match library.start(move |level, line| hear.hear(level, line)) {
        Ok(session) => session,
        Err(error) => return started.send(Err(error)).unwrap_or_default(),
    };
    // Who asked and waits no more needs no answer, here and below.
    let _ = started.send(Ok(()));
    let mut disks: BTreeMap<Number, Held> = BTreeMap::new();
    let mut last = 0;
    for command in asked {
        match command {
            Command::Open(place, reply) => {
                let opened = open_patiently(&session, &place, patience).map(|(disk, found)| {
                    last += 1;
                    let held = Held {
                        place,
                        disk: Some(disk),
                        found: found.clone(),
                        connections: 0,
                        given_up: None,
                    };
                    disks.insert(last, held);
                    (last, found)
                });
                let _ = reply.send(opened);
            }
            Command::Read(number, sector, request) => {
                if let Some(disk) = disks.get_mut(&number).and_then(|held| held.disk.as_mut()) {
                    disk.read_async(sector, request);
                }
            }
            Command::Allocated(number, (start, count), reply) => {
                if let Some(disk) = disks.get_mut(&number).and_then(|held| held.disk.as_mut()) {
                    let _ = reply.send(disk.allocated(start, count).map_err(Failure::from));
                }
            }
            Command::Again(number, after, reply) => {
                if let Some(held) = disks.get_mut(&number) {
                    let _ = reply.send(held.again(after, &session, patience));
                }
            }
            Command::Close(number) => drop(disks.remove(&number)),
        }
    }
}

impl Held {
    /// Connects again, where nobody did since.
    fn again(
        &mut self,
        after: u64,
        session: &Session,
        patience: &Patience,
    ) -> Result<u64, Failure> {
        if self.connections != after {
            return Ok(self.connections);
        }
        if let Some(failure) = &self.given_up {
            return Err(failure.clone());
        }
        // What is on its way is answered first.
        self.disk = None;
        let opened = open_patiently(session, &self.place, patience);
        let same = opened.and_then(|(disk, found)| match (self.found.size, found.size) {
            (before, now) if before == now => Ok(disk),
            (before, now) => Err(Failure::Resized { before, now }),
        });
        match same {
            Ok(disk) => {
                tracing::warn!(place = %self.place, "the connection was lost and made again");
                self.disk = Some(disk);
                self.connections += 1;
                Ok(self.connections)
            }
            Err(failure) => {
                self.given_up = Some(failure.clone());
                Err(failure)
            }
        }
    }
}

/// Opens a disk, again after each pause as long as what stands against it may pass.
fn open_patiently(
    session: &Session,
    place: &Place,
    patience: &Patience,
) -> Result<(Disk, Found), Failure> {
    let mut opened = open(session, place);
    for pause in &patience.pauses {
        if !opened.as_ref().is_err_and(|failure| failure.class() == Class::Again) {
            break;
        }
        thread::sleep(*pause);
        opened = open(session, place);
    }
    opened
}

fn open(session: &Session, place: &Place) -> Result<(Disk, Found), Failure> {
    let Place {
        server,
        port,
        user,
        password,
        session: cookie,
        thumbprint,
        vm,
        snapshot,
        disk,
        transports,
    } = place;
    let login = Login {
        server,
        port: *port,
        user,
        credential: match cookie {
            Some(cookie) => {
                Credential::Session { cookie: cookie.expose(), password: password.expose() }
            }
            None => Credential::Password(password.expose()),
        },
        thumbprint,
        vm,
        snapshot: snapshot.as_deref(),
        transports: transports.as_deref(),
    };
    let mut disk = session.connect(&login)?.open(disk)?;
    let sectors = disk.sectors()?;
    // That it is there does not mean that it works.
    let tells = sectors >= CHUNK_SECTORS && probed(&mut disk);
    let size = sectors.saturating_mul(SECTOR_BYTES);
    let transport = disk.transport();
    tracing::info!(%place, transport, size, tells, "opened a disk");
    Ok((disk, Found { size, transport, tells }))
}

/// Finds out whether VDDK tells what is allocated.
fn probed(disk: &mut Disk) -> bool {
    let told = disk.allocated(0, CHUNK_SECTORS);
    if let Err(error) = &told {
        tracing::debug!(%error, "VDDK does not tell what is allocated");
    }
    told.is_ok()
}
