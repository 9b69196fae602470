//! Connections: who may read what.

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use serde::Deserialize;
use vddk_sys::raw::{VixDiskLibConnectParams, VixDiskLibCredType};

use crate::memory::{Kind, is_out, misuse};
use crate::session::{Level, Session};

/// What the simulated vSphere tells; what else stands there is not for us.
#[derive(Deserialize)]
struct Simulated {
    username: String,
    password: String,
    thumbprint: String,
    #[serde(default)]
    sessions: Vec<String>,
    disks: Vec<SimulatedDisk>,
}

#[derive(Deserialize)]
struct SimulatedDisk {
    vm: String,
    snapshot: Option<String>,
    path: String,
    file: PathBuf,
    capacity: u64,
}

/// A connection.
pub(crate) struct Connection {
    vm: String,
    snapshot: Option<String>,
    thumbprint: String,
    /// How disks are read.
    pub(crate) transport: &'static CStr,
    /// Everything fails from here on.
    pub(crate) lost: AtomicBool,
    /// How many disks are open over it.
    pub(crate) disks: AtomicUsize,
}

/// An error of the library.
pub(crate) type Refusal = u16;

pub(crate) const FAIL: Refusal = 1;
pub(crate) const INVALID_ARG: Refusal = 3;
pub(crate) const FILE_NOT_FOUND: Refusal = 4;
pub(crate) const AUTHENTICATION_FAIL: Refusal = 35;
pub(crate) const VM_NOT_FOUND: Refusal = 4000;
pub(crate) const SNAPSHOT_NOTFOUND: Refusal = 13_003;

impl Connection {
    /// Checks who asks and what for. The thumbprint is looked at when a disk is opened, as by the real library.
    pub(crate) fn open(
        parameters: &VixDiskLibConnectParams,
        snapshot: Option<String>,
        transports: Option<String>,
    ) -> Result<Self, Refusal> {
        let session = Session::get();
        let simulated = simulated(session)?;
        let own = is_out(Kind::ConnectParams, std::ptr::from_ref(parameters).addr());
        if !own
            && !session.config.without.iter().any(|name| name.ends_with("AllocateConnectParams"))
        {
            misuse("ConnectEx with parameters that AllocateConnectParams did not make");
        }
        text(parameters.serverName, "serverName");
        let thumbprint = text(parameters.thumbPrint, "thumbPrint");
        let spec = text(parameters.vmxSpec, "vmxSpec");
        let (user, proven) = match parameters.credType {
            VixDiskLibCredType::VIXDISKLIB_CRED_UID => {
                // SAFETY: The type says which one is filled.
                let creds = unsafe { parameters.creds.uid };
                let password = text(creds.password, "password");
                session.say(Level::Info, &format!("login with password {password}"));
                (text(creds.userName, "userName"), password == simulated.password)
            }
            VixDiskLibCredType::VIXDISKLIB_CRED_SESSIONID => {
                // SAFETY: The type says which one is filled.
                let creds = unsafe { parameters.creds.sessionId };
                let cookie = text(creds.cookie, "cookie");
                text(creds.key, "key");
                session.say(Level::Info, &format!("login with vmware_soap_session={cookie}"));
                (text(creds.userName, "userName"), simulated.sessions.contains(&cookie))
            }
            _ => return Err(INVALID_ARG),
        };
        if !proven || user != simulated.username {
            return Err(AUTHENTICATION_FAIL);
        }
        let Some(vm) = spec.strip_prefix("moref=") else { return Err(INVALID_ARG) };
        if !simulated.disks.iter().any(|disk| disk.vm == vm) {
            return Err(VM_NOT_FOUND);
        }
        if !simulated.disks.iter().any(|disk| disk.vm == vm && disk.snapshot == snapshot) {
            return Err(SNAPSHOT_NOTFOUND);
        }
        let first =
            transports.as_deref().and_then(|modes| modes.split(':').find(|mode| *mode != "file"));
        let transport = match first {
            Some("nbd") => c"nbd",
            _ => c"nbdssl",
        };
        let (vm, lost, disks) = (vm.to_owned(), AtomicBool::new(false), AtomicUsize::new(0));
        Ok(Self { vm, snapshot, thumbprint, transport, lost, disks })
    }

    /// Finds a disk: its file, and how many sectors it has.
    pub(crate) fn find(&self, path: &str) -> Result<(File, u64), Refusal> {
        let session = Session::get();
        let simulated = simulated(session)?;
        if !self.thumbprint.eq_ignore_ascii_case(&simulated.thumbprint) {
            return Err(FAIL);
        }
        let found = simulated
            .disks
            .iter()
            .find(|disk| disk.vm == self.vm && disk.snapshot == self.snapshot && disk.path == path);
        let disk = found.ok_or(FILE_NOT_FOUND)?;
        let file = File::open(session.config.sim.join(&disk.file)).map_err(|_| FILE_NOT_FOUND)?;
        Ok((file, disk.capacity / 512))
    }
}

fn simulated(session: &Session) -> Result<Simulated, Refusal> {
    let file = session.config.sim.join("disks.json");
    let read = std::fs::read(&file).map_err(|error| error.to_string());
    read.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string())).map_err(
        |error| {
            session.say(Level::Warning, &format!("{}: {error}", file.display()));
            FILE_NOT_FOUND
        },
    )
}

/// Reads a text that the library would follow without looking.
fn text(text: *const c_char, name: &str) -> String {
    if text.is_null() {
        misuse(&format!("{name} is null"));
    }
    // SAFETY: It is not null, and a C string by the interface.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
