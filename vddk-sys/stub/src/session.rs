//! The started library: how it behaves, whom it tells what it logs, and what of it is open.

use std::ffi::{CString, c_char};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;

use vddk_sys::raw::VixDiskLibGenericLogFunc;

use crate::config::{Config, Does, FILE, On};
use crate::memory::misuse;
use crate::wire::Wire;

static SESSION: OnceLock<Session> = OnceLock::new();

pub(crate) struct Session {
    pub(crate) config: Config,
    pub(crate) wire: &'static Wire,
    logs: [VixDiskLibGenericLogFunc; 3],
    process: u32,
    /// The thread that opens and closes.
    opener: Mutex<Option<ThreadId>>,
    /// How often each kind of call came.
    calls: [AtomicU64; 4],
    pub(crate) connections: AtomicUsize,
    ended: AtomicBool,
}

unsafe extern "C" {
    fn vddk_stub_say(log: VixDiskLibGenericLogFunc, format: *const c_char, ...);
}

/// The levels that the library logs at.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    Info = 0,
    Warning = 1,
    Panic = 2,
}

impl Session {
    /// Starts it.
    pub(crate) fn start(folder: &Path, logs: [VixDiskLibGenericLogFunc; 3]) -> Result<(), String> {
        let file = folder.join(FILE);
        let config = std::fs::read(&file)
            .map_err(|error| error.to_string())
            .and_then(|text| {
                serde_json::from_slice::<Config>(&text).map_err(|error| error.to_string())
            })
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let session = Self {
            wire: Wire::start(&config),
            config,
            logs,
            process: std::process::id(),
            opener: Mutex::new(None),
            calls: [const { AtomicU64::new(0) }; 4],
            connections: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        };
        if SESSION.set(session).is_err() {
            misuse("InitEx is called twice");
        }
        let session = Self::get();
        session.say(Level::Info, &format!("stub of VDDK {} started", session.config.pose_as));
        session.say(Level::Panic, "VDDK_PhoneHome: VddkPhoneHomeInit: Get CEIP status failed.");
        Ok(())
    }

    /// Returns it, in the process that started it and not later than its end.
    pub(crate) fn get() -> &'static Self {
        let Some(session) = SESSION.get() else { misuse("a call before InitEx") };
        if session.ended.load(Ordering::SeqCst) {
            misuse("a call after Exit");
        }
        if session.process != std::process::id() {
            misuse("a call in a process that was forked after InitEx");
        }
        session
    }

    pub(crate) fn end(&self) {
        if self.connections.load(Ordering::SeqCst) > 0 {
            misuse("Exit with open connections");
        }
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Logs a line.
    pub(crate) fn say(&self, level: Level, line: &str) {
        let line = CString::new(line).expect("lines hold no NUL");
        let log = match level {
            Level::Info => self.logs[0],
            Level::Warning => self.logs[1],
            Level::Panic => self.logs[2],
        };
        // SAFETY: The function was given for it, and the format asks for the one text that follows.
        unsafe { vddk_stub_say(log, c"%s\n".as_ptr(), line.as_ptr()) }
    }

    /// Checks that disks are opened and closed by one thread only.
    pub(crate) fn opening(&self, call: &str) {
        let own = std::thread::current().id();
        let mut opener = self.opener.lock().unwrap_or_else(PoisonError::into_inner);
        if *opener.get_or_insert(own) != own {
            misuse(&format!("{call} from a second thread"));
        }
    }

    /// Counts a call and tells what goes wrong at it.
    pub(crate) fn fault(&self, on: On) -> Option<Does> {
        let at = match on {
            On::Connect => 0,
            On::Open => 1,
            On::Query => 2,
            On::Read => 3,
        };
        let nth = self.calls[at].fetch_add(1, Ordering::SeqCst) + 1;
        let faults = &self.config.faults;
        let now = faults.iter().find(|fault| {
            fault.on == on && (fault.nth..fault.nth.saturating_add(fault.times)).contains(&nth)
        });
        let does = now.map(|fault| fault.does);
        if does == Some(Does::Crash) {
            std::process::abort();
        }
        does
    }
}
