//! Each misuse ends the process, with a message that names it: a stand-in that forgives proves nothing.

#![expect(unsafe_code, reason = "the library is called as C calls it")]
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "each call is one that nobody should make, or leads to it"
)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![expect(clippy::disallowed_methods, reason = "each misuse is a process of its own")]

use std::ffi::{CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::thread;

use vddk_stub::config::{Config, Does, Fault, On, install};
use vddk_sys::raw::{
    __va_list_tag, VixDiskLib, VixDiskLibCompletionCB, VixDiskLibConnectParams,
    VixDiskLibConnection, VixDiskLibCredType, VixDiskLibCreds, VixDiskLibGenericLogFunc,
    VixDiskLibHandle, VixDiskLibUidPasswdCreds, VixError,
};

const CASE: &str = "VDDK_STUB_TEST_CASE";
const FOLDER: &str = "VDDK_STUB_TEST_FOLDER";

/// The library as a careless program has it, whose threads may call anything at any time.
#[derive(Clone, Copy)]
struct Careless {
    functions: &'static VixDiskLib,
    connection: VixDiskLibConnection,
}

unsafe impl Send for Careless {}

/// An open disk, wherever it goes.
#[derive(Clone, Copy)]
struct Open(VixDiskLibHandle);

unsafe impl Send for Open {}

unsafe extern "C" fn unheard(_: *const c_char, _: *mut __va_list_tag) {}

unsafe extern "C" fn unwatched(_: *mut c_void, _: VixError) {}

fn load(folder: &Path) -> &'static VixDiskLib {
    let file = folder.join("lib64/libvixDiskLib.so.8");
    Box::leak(Box::new(unsafe { VixDiskLib::new(file) }.unwrap()))
}

fn start(functions: &VixDiskLib, folder: &Path) -> VixError {
    let folder = CString::new(folder.as_os_str().as_bytes()).unwrap();
    let log: VixDiskLibGenericLogFunc = Some(unheard);
    unsafe { functions.VixDiskLib_InitEx(6, 5, log, log, log, folder.as_ptr(), ptr::null()) }
}

impl Careless {
    fn connected(folder: &Path) -> Self {
        let functions = load(folder);
        assert_eq!(start(functions, folder), 0);
        let parameters = unsafe { functions.VixDiskLib_AllocateConnectParams() };
        let text = |text: &str| CString::new(text).unwrap().into_raw();
        let uid = VixDiskLibUidPasswdCreds { userName: text("u"), password: text("p") };
        let filled = VixDiskLibConnectParams {
            vmxSpec: text("moref=vm-1"),
            serverName: text("s"),
            thumbPrint: text("AA"),
            credType: VixDiskLibCredType::VIXDISKLIB_CRED_UID,
            creds: VixDiskLibCreds { uid },
            ..VixDiskLibConnectParams::default()
        };
        unsafe { parameters.write(filled) };
        let mut connection = ptr::null_mut();
        let connected = unsafe {
            functions.VixDiskLib_ConnectEx(
                parameters,
                1,
                ptr::null(),
                ptr::null(),
                &raw mut connection,
            )
        };
        assert_eq!(connected, 0);
        Self { functions, connection }
    }

    fn open(self) -> Open {
        let mut handle = ptr::null_mut();
        let opened = unsafe {
            self.functions.VixDiskLib_Open(
                self.connection,
                c"[ds] a.vmdk".as_ptr(),
                4,
                &raw mut handle,
            )
        };
        assert_eq!(opened, 0);
        Open(handle)
    }

    fn ask(self, disk: Open) {
        let mut list = ptr::null_mut();
        unsafe {
            self.functions.VixDiskLib_QueryAllocatedBlocks(disk.0, 0, 128, 128, &raw mut list)
        };
    }

    fn post(self, disk: Open) {
        let buffer = Box::leak(vec![0_u8; 512].into_boxed_slice()).as_mut_ptr();
        let done: VixDiskLibCompletionCB = Some(unwatched);
        unsafe { self.functions.VixDiskLib_ReadAsync(disk.0, 0, 1, buffer, done, ptr::null_mut()) };
    }
}

type Case = (&'static str, fn(&Path));

/// What ends the process, by what it says then.
const CASES: [Case; 10] = [
    ("a call before InitEx", |folder| unsafe { load(folder).VixDiskLib_Exit() }),
    ("InitEx is called twice", |folder| {
        let functions = load(folder);
        start(functions, folder);
        start(functions, folder);
    }),
    ("Exit with open connections", |folder| {
        let careless = Careless::connected(folder);
        unsafe { careless.functions.VixDiskLib_Exit() };
    }),
    ("Open from a second thread", |folder| {
        let careless = Careless::connected(folder);
        careless.open();
        thread::spawn(move || careless.open().0.addr()).join().unwrap_or_default();
    }),
    ("Open for writing", |folder| {
        let careless = Careless::connected(folder);
        let mut handle = ptr::null_mut();
        let path = c"[ds] a.vmdk".as_ptr();
        unsafe {
            careless.functions.VixDiskLib_Open(careless.connection, path, 0, &raw mut handle)
        };
    }),
    ("Disconnect with an open disk", |folder| {
        let careless = Careless::connected(folder);
        careless.open();
        unsafe { careless.functions.VixDiskLib_Disconnect(careless.connection) };
    }),
    ("Close without Wait", |folder| {
        let careless = Careless::connected(folder);
        let disk = careless.open();
        careless.post(disk);
        unsafe { careless.functions.VixDiskLib_Close(disk.0) };
    }),
    ("while another call on the disk is going on", |folder| {
        let careless = Careless::connected(folder);
        let disk = careless.open();
        // The first question is never answered: the other call comes meanwhile, whoever is first.
        thread::spawn(move || careless.ask(disk));
        loop {
            unsafe { careless.functions.VixDiskLib_Wait(disk.0) };
            thread::yield_now();
        }
    }),
    ("a Info is freed as a BlockList", |folder| {
        let careless = Careless::connected(folder);
        let disk = careless.open();
        let mut info = ptr::null_mut();
        unsafe { careless.functions.VixDiskLib_GetInfo(disk.0, &raw mut info) };
        unsafe { careless.functions.VixDiskLib_FreeBlockList(info.cast()) };
    }),
    ("or twice freed", |folder| {
        let careless = Careless::connected(folder);
        let disk = careless.open();
        let mut info = ptr::null_mut();
        unsafe { careless.functions.VixDiskLib_GetInfo(disk.0, &raw mut info) };
        unsafe { careless.functions.VixDiskLib_FreeInfo(info) };
        unsafe { careless.functions.VixDiskLib_FreeInfo(info) };
    }),
];

#[test]
fn each_misuse_ends_the_process() {
    if let (Ok(case), Some(folder)) = (std::env::var(CASE), std::env::var_os(FOLDER)) {
        let case = CASES.iter().find(|(said, _)| *said == case).unwrap();
        return case.1(&PathBuf::from(folder));
    }
    let own = std::env::current_exe().unwrap();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("misuse");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.raw"), vec![7; 1 << 20]).unwrap();
    std::fs::write(
        folder.join("disks.json"),
        r#"{"username": "u", "password": "p", "thumbprint": "AA", "disks": [
            {"vm": "vm-1", "key": 2000, "snapshot": null, "path": "[ds] a.vmdk", "file": "a.raw", "capacity": 1048576}]}"#,
    )
    .unwrap();
    let hangs = Fault { on: On::Query, nth: 1, times: 1, does: Does::Hang };
    let config = Config { sim: folder.clone(), faults: vec![hangs], ..Config::default() };
    install(&own.with_file_name("libvddk_stub.so"), &folder, &config).unwrap();
    for (said, _) in CASES {
        let mut command = Command::new(&own);
        let output =
            command.arg("--nocapture").env(CASE, said).env(FOLDER, &folder).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{said}: {log}");
        assert!(log.contains("vddk-stub: misuse: ") && log.contains(said), "{said}: {log}");
    }
}
