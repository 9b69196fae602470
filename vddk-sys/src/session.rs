//! A started library, and connections of it.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt as _;
use std::ptr;
use std::rc::Rc;
use std::sync::OnceLock;

use zeroize::Zeroizing;

use crate::raw::{self, VixDiskLib, VixDiskLibConnectParams, VixDiskLibConnection};
use crate::{Disk, Library, VddkError, code};

/// The level of the interface that is asked for, of every version: nbdkit asks for 6.5 as well.
const API: (u32, u32) = (6, 5);

/// `VIX_E_INVALID_ARG`.
const INVALID_ARG: u16 = 3;

/// How important the library calls what it logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It goes on.
    Info,
    /// Something is wrong.
    Warning,
    /// It is about to give up.
    Panic,
}

type Log = Box<dyn Fn(Level, &str) + Send + Sync>;

/// Who is told what the library logs. The callbacks carry nothing that would tell one session from another; there is one.
static LOG: OnceLock<Log> = OnceLock::new();

/// Why the library was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It was, before: it can be started once a process.
    #[error("VDDK was started in this process before")]
    Again,
    /// It refused.
    #[error(transparent)]
    Refused(VddkError),
}

/// The library, started. It and what comes of it stay on one thread.
#[derive(Clone)]
pub struct Session(pub(crate) Rc<Started>);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.library.fmt(f)
    }
}

pub(crate) struct Started {
    library: Library,
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: It was started, and every connection and disk, which hold this, is closed.
        unsafe { self.library.functions.VixDiskLib_Exit() }
    }
}

impl Started {
    pub(crate) fn functions(&self) -> &VixDiskLib {
        &self.library.functions
    }

    /// Makes a result of what a call returned.
    pub(crate) fn check(&self, call: &'static str, error: raw::VixError) -> Result<(), VddkError> {
        match code(error) {
            0 => Ok(()),
            code => Err(VddkError { code, call, text: self.words(error) }),
        }
    }

    /// Returns the library's words for an error.
    fn words(&self, error: raw::VixError) -> String {
        // SAFETY: Any number may be asked about; the locale must be null.
        let text = unsafe { self.functions().VixDiskLib_GetErrorText(error, ptr::null()) };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: It is not null, so it is a C string that stays until it is freed.
        let words = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        // SAFETY: It comes from `GetErrorText` and is not used any more.
        unsafe { self.functions().VixDiskLib_FreeErrorText(text) }
        words
    }
}

unsafe extern "C" {
    fn ferry_vddk_info(format: *const c_char, arguments: *mut raw::__va_list_tag);
    fn ferry_vddk_warning(format: *const c_char, arguments: *mut raw::__va_list_tag);
    fn ferry_vddk_panic(format: *const c_char, arguments: *mut raw::__va_list_tag);
}

/// Hears a line of the library's log from `log.c`, on any thread.
///
/// # Safety
/// `text` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn ferry_vddk_logged(level: c_int, text: *const c_char) {
    // SAFETY: By the contract; `log.c` keeps it during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let level = match level {
        0 => Level::Info,
        1 => Level::Warning,
        _ => Level::Panic,
    };
    if let Some(log) = LOG.get() {
        log(level, text.trim_end());
    }
}

impl Library {
    /// Starts the library: once a process, on the thread that opens the disks. `log` is called by threads of the library's until
    /// the process ends, and must not wait.
    pub fn start(
        self,
        log: impl Fn(Level, &str) + Send + Sync + 'static,
    ) -> Result<Session, StartError> {
        LOG.set(Box::new(log)).map_err(|_| StartError::Again)?;
        let folder = CString::new(self.folder.as_os_str().as_bytes());
        let folder = folder.map_err(|_| StartError::Refused(holds_nul("InitEx")))?;
        let log = [ferry_vddk_info, ferry_vddk_warning, ferry_vddk_panic];
        let [info, warning, panic] = log.map(Some);
        // SAFETY: It is called once, by `LOG`. The folder is a C string during the call, the callbacks stay for ever, and
        // without a configuration file the library looks for the machine's.
        let started = unsafe {
            self.functions.VixDiskLib_InitEx(
                API.0,
                API.1,
                info,
                warning,
                panic,
                folder.as_ptr(),
                ptr::null(),
            )
        };
        // One that refused to start has nothing to end.
        let session = ManuallyDrop::new(Started { library: self });
        session.check("InitEx", started).map_err(StartError::Refused)?;
        Ok(Session(Rc::new(ManuallyDrop::into_inner(session))))
    }
}

/// What a server asks for.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// A password.
    Password(&'a str),
    /// A session of the vSphere API, and the password of its user.
    Session {
        /// The value of its cookie.
        cookie: &'a str,
        /// The password.
        password: &'a str,
    },
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Where to connect, and as whom.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// The name or address of a vCenter or an `ESXi` host.
    pub server: &'a str,
    /// The port of its API.
    pub port: u16,
    /// The user.
    pub user: &'a str,
    /// The user's proof.
    pub credential: Credential<'a>,
    /// SHA-1 of the server's certificate: pairs of hexadecimal digits, joined by colons.
    pub thumbprint: &'a str,
    /// Which VM: the id of its managed object there (`vm-123`).
    pub vm: &'a str,
    /// Which snapshot (`snapshot-123`); the VM as it is, without one.
    pub snapshot: Option<&'a str>,
    /// How disks may be read, in the order in which it is tried, joined by colons; the library's order, without.
    pub transports: Option<&'a str>,
}

/// A connection to a server, for one disk of one VM.
pub struct Connection {
    pub(crate) session: Session,
    handle: VixDiskLibConnection,
    parameters: Parameters,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Session {
    /// Connects, for reading.
    pub fn connect(&self, login: &Login<'_>) -> Result<Connection, VddkError> {
        let parameters = Parameters::new(self, login)?;
        let text = |text: Option<&str>| text.map(c_text).transpose();
        let (snapshot, transports) = (text(login.snapshot)?, text(login.transports)?);
        let pointer = |text: &Option<Zeroizing<Vec<u8>>>| {
            text.as_ref().map_or(ptr::null(), |text| text.as_ptr().cast::<c_char>())
        };
        let mut connection = ptr::null_mut();
        // SAFETY: The parameters are filled and stay until Disconnect; the texts are C strings or null.
        let connected = unsafe {
            self.0.functions().VixDiskLib_ConnectEx(
                parameters.pointer,
                1,
                pointer(&snapshot),
                pointer(&transports),
                &raw mut connection,
            )
        };
        self.0.check("ConnectEx", connected)?;
        Ok(Connection { session: self.clone(), handle: connection, parameters })
    }
}

impl Connection {
    /// Opens a disk, `[datastore] folder/disk.vmdk`, for reading.
    pub fn open(self, path: &str) -> Result<Disk, VddkError> {
        let path = c_text(path)?;
        let functions = self.session.0.functions();
        let mut handle = ptr::null_mut();
        // SAFETY: The connection is open, the path a C string, and this is the thread that opens and closes.
        let opened = unsafe {
            functions.VixDiskLib_Open(
                self.handle,
                path.as_ptr().cast(),
                raw::VIXDISKLIB_FLAG_OPEN_READ_ONLY,
                &raw mut handle,
            )
        };
        self.session.0.check("Open", opened)?;
        Ok(Disk::new(self, handle))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Self { session, handle, parameters: _freed_after_it } = self;
        // SAFETY: It is open, and its disk, which held it, is closed.
        let ended = unsafe { session.0.functions().VixDiskLib_Disconnect(*handle) };
        // Whatever it says, it is not used any more.
        let _ = ended;
    }
}

/// What `ConnectEx` takes, with the texts that it points to.
struct Parameters {
    session: Session,
    pointer: *mut VixDiskLibConnectParams,
    /// Of a library that cannot make them itself.
    own: Option<Box<[u64; OWN_WORDS]>>,
    _texts: [Zeroizing<Vec<u8>>; 6],
}

/// Room for the parameters, in a form that is longer than any known one.
const OWN_WORDS: usize = 64;

impl Parameters {
    fn new(session: &Session, login: &Login<'_>) -> Result<Self, VddkError> {
        let Login { server, port, user, credential, thumbprint, vm, snapshot: _, transports: _ } =
            *login;
        let (kind, cookie, password) = match credential {
            Credential::Password(password) => {
                (raw::VixDiskLibCredType::VIXDISKLIB_CRED_UID, "", password)
            }
            Credential::Session { cookie, password } => {
                (raw::VixDiskLibCredType::VIXDISKLIB_CRED_SESSIONID, cookie, password)
            }
        };
        let vm = format!("moref={vm}");
        let mut texts = Vec::new();
        for text in [&vm, server, thumbprint, user, password, cookie] {
            texts.push(c_text(text)?);
        }
        let texts: [_; 6] = texts.try_into().expect("there are six");
        let [vm, server, thumbprint, user, password, cookie] =
            texts.each_ref().map(|text| text.as_ptr().cast_mut().cast::<c_char>());
        let mut own = None;
        let functions = session.0.functions();
        let pointer = if functions.VixDiskLib_AllocateConnectParams.is_ok() {
            // SAFETY: The function is there; what it returns is freed below.
            unsafe { functions.VixDiskLib_AllocateConnectParams() }
        } else {
            own.insert(Box::new([0; OWN_WORDS])).as_mut_ptr().cast()
        };
        if pointer.is_null() {
            return Err(VddkError {
                code: 2,
                call: "AllocateConnectParams",
                text: "it returned nothing".to_owned(),
            });
        }
        // SAFETY: It is not null, aligned, zeroed or filled by the library, and nobody else's.
        let parameters = unsafe { &mut *pointer };
        parameters.vmxSpec = vm;
        parameters.serverName = server;
        parameters.thumbPrint = thumbprint;
        parameters.port = u32::from(port);
        parameters.credType = kind;
        parameters.specType = raw::VixDiskLibSpecType::VIXDISKLIB_SPEC_VMX;
        parameters.creds = match credential {
            Credential::Password(_) => raw::VixDiskLibCreds {
                uid: raw::VixDiskLibUidPasswdCreds { userName: user, password },
            },
            Credential::Session { .. } => raw::VixDiskLibCreds {
                sessionId: raw::VixDiskLibSessionIdCreds { cookie, userName: user, key: password },
            },
        };
        Ok(Self { session: session.clone(), pointer, own, _texts: texts })
    }
}

impl Drop for Parameters {
    fn drop(&mut self) {
        if self.own.is_none() {
            // SAFETY: It comes from `AllocateConnectParams`, and its connection is ended. The texts are not the library's: it
            // frees what it allocated.
            unsafe { self.session.0.functions().VixDiskLib_FreeConnectParams(self.pointer) }
        }
    }
}

/// Makes a C string that is wiped when it goes.
fn c_text(text: &str) -> Result<Zeroizing<Vec<u8>>, VddkError> {
    if text.contains('\0') {
        return Err(holds_nul("ConnectEx"));
    }
    // Room for all of it at once: a buffer that grows leaves copies behind that nobody wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    Ok(bytes)
}

fn holds_nul(call: &'static str) -> VddkError {
    VddkError { code: INVALID_ARG, call, text: "a text holds a NUL".to_owned() }
}
