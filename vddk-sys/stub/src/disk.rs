//! Open disks and requests to them.

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::{SeekFrom, seek};
use vddk_sys::raw::{VixDiskLibCompletionCB, VixError};

use crate::config::{Does, On};
use crate::connection::{Connection, INVALID_ARG, Refusal};
use crate::memory::misuse;
use crate::session::{Level, Session};

const OUT_OF_MEMORY: Refusal = 2;
const TCP_CONN_LOST: Refusal = 14_011;
const FILE_ERROR: Refusal = 7;
const DISK_OUTOFRANGE: Refusal = 16_007;
const INVALID_CONNECTION: Refusal = 16_054;

/// The bit that is wrong where one is.
const FLIPPED: usize = 1234;

/// Bytes on their way, of all disks.
static ON_THEIR_WAY: AtomicU64 = AtomicU64::new(0);

/// An open disk.
pub(crate) struct Disk {
    file: File,
    pub(crate) sectors: u64,
    pub(crate) connection: Arc<Connection>,
    /// A call is going on.
    busy: AtomicBool,
    /// Requests that are not answered, and whether somebody waited since the last one.
    waiting: Mutex<(usize, bool)>,
    answered: Condvar,
}

/// Never returns.
pub(crate) fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// A call that is going on; there is one at a time.
pub(crate) struct Call<'a>(&'a Disk);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::SeqCst);
    }
}

impl Disk {
    pub(crate) fn new(file: File, sectors: u64, connection: Arc<Connection>) -> Self {
        let (waiting, answered) = (Mutex::new((0, true)), Condvar::new());
        Self { file, sectors, connection, busy: AtomicBool::new(false), waiting, answered }
    }

    /// Begins a call.
    pub(crate) fn call(&self, name: &str) -> Call<'_> {
        if self.busy.swap(true, Ordering::SeqCst) {
            misuse(&format!("{name} while another call on the disk is going on"));
        }
        Call(self)
    }

    /// Waits until every request is answered.
    pub(crate) fn wait(&self) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.answered.wait_while(waiting, |waiting| waiting.0 > 0);
        waited.unwrap_or_else(PoisonError::into_inner).1 = true;
    }

    /// Checks that nothing is on its way.
    pub(crate) fn close(&self) {
        if *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) != (0, true) {
            misuse("Close without Wait");
        }
    }

    /// Returns what holds data of a range of sectors, rounded out to chunks, as starts and counts.
    pub(crate) fn allocated(
        &self,
        start: u64,
        count: u64,
        chunk: u64,
    ) -> Result<Vec<(u64, u64)>, Refusal> {
        let session = Session::get();
        std::thread::sleep(std::time::Duration::from_micros(session.config.query_micros));
        let aligned = chunk >= 128 && start.is_multiple_of(chunk) && count.is_multiple_of(chunk);
        if !aligned || count == 0 || count / chunk > 524_288 || start + count > self.sectors {
            return Err(INVALID_ARG);
        }
        match session.fault(On::Query) {
            Some(Does::Error(error)) => return Err(error),
            Some(Does::Lose) => self.connection.lost.store(true, Ordering::SeqCst),
            Some(Does::Hang) => hang(),
            Some(Does::Crash | Does::Flip) | None => {}
        }
        if self.connection.lost.load(Ordering::SeqCst) {
            return Err(INVALID_CONNECTION);
        }
        let mut blocks: Vec<(u64, u64)> = Vec::new();
        let (mut at, end) = (start * 512, (start + count) * 512);
        while at < end {
            // Behind the last data there is an error.
            let Ok(data) = seek(&self.file, SeekFrom::Data(at)) else { break };
            if data >= end {
                break;
            }
            let hole = seek(&self.file, SeekFrom::Hole(data)).unwrap_or(end).min(end);
            let from = data / 512 / chunk * chunk;
            let to = (hole.div_ceil(512)).next_multiple_of(chunk).min(start + count);
            match blocks.last_mut() {
                Some((last, length)) if *last + *length >= from => *length = to - *last,
                _ => blocks.push((from, to - from)),
            }
            at = to * 512;
        }
        Ok(blocks)
    }
}

/// Who is answered.
pub(crate) enum Asker {
    /// Who waits in `Read`.
    Waiting(std::sync::mpsc::Sender<Refusal>),
    /// The callback of `ReadAsync`, and what it is given.
    Callback(VixDiskLibCompletionCB, usize),
}

/// A request for sectors.
pub(crate) struct Request {
    disk: Arc<Disk>,
    start: u64,
    count: u64,
    buffer: usize,
    asker: Asker,
    /// What it is answered with; `None` with the data.
    verdict: Option<Does>,
}

impl Request {
    /// Begins one: it counts, and what goes wrong with it is known from here on.
    pub(crate) fn new(
        disk: &Arc<Disk>,
        (start, count): (u64, u64),
        buffer: *mut u8,
        asker: Asker,
    ) -> Self {
        let session = Session::get();
        let mut verdict = session.fault(On::Read);
        let memory = session.config.nfc_memory_bytes;
        let flying = ON_THEIR_WAY.fetch_add(count * 512, Ordering::SeqCst) + count * 512;
        if memory > 0 && flying > memory {
            let line =
                format!("NFC error 5: Failed to allocate the requested {} bytes", count * 512 + 24);
            session.say(Level::Warning, &line);
            verdict = Some(Does::Error(OUT_OF_MEMORY));
        }
        if verdict == Some(Does::Lose) {
            disk.connection.lost.store(true, Ordering::SeqCst);
        }
        let mut waiting = disk.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.0 += 1;
        // Who calls `Read` waits there.
        waiting.1 &= matches!(asker, Asker::Waiting(_));
        drop(waiting);
        Self {
            disk: Arc::clone(disk),
            start,
            count,
            buffer: buffer.expose_provenance(),
            asker,
            verdict,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.count * 512
    }

    /// Reads the data and answers.
    pub(crate) fn answer(self) {
        let Self { ref disk, .. } = self;
        let lost = disk.connection.lost.load(Ordering::SeqCst);
        let result = match self.verdict {
            Some(Does::Hang) => return,
            Some(Does::Error(error)) => error,
            Some(Does::Lose) => TCP_CONN_LOST,
            _ if lost => INVALID_CONNECTION,
            Some(Does::Flip | Does::Crash) | None => self.fill().err().unwrap_or(0),
        };
        ON_THEIR_WAY.fetch_sub(self.bytes(), Ordering::SeqCst);
        let disk = Arc::clone(disk);
        match self.asker {
            // One that waits no more is a bug of this library.
            Asker::Waiting(sender) => sender.send(result).expect("it waits"),
            Asker::Callback(callback, data) => {
                let Some(callback) = callback else { misuse("ReadAsync without a callback") };
                // SAFETY: It was given for this, once, with its data.
                unsafe {
                    callback(
                        std::ptr::with_exposed_provenance_mut::<c_void>(data),
                        VixError::from(result),
                    );
                }
            }
        }
        disk.waiting.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
        disk.answered.notify_all();
    }

    fn fill(&self) -> Result<(), Refusal> {
        if self.start + self.count > self.disk.sectors {
            return Err(DISK_OUTOFRANGE);
        }
        let length = usize::try_from(self.bytes()).expect("lengths fit");
        let buffer = std::ptr::with_exposed_provenance_mut::<u8>(self.buffer);
        // SAFETY: By the interface so many bytes stand there until the request is answered.
        let buffer = unsafe { slice::from_raw_parts_mut(buffer, length) };
        self.disk.file.read_exact_at(buffer, self.start * 512).map_err(|_| FILE_ERROR)?;
        if self.verdict == Some(Does::Flip) {
            buffer[FLIPPED % length] ^= 1;
        }
        Ok(())
    }
}
