//! The functions, as the library exports them.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use vddk_sys::raw::{
    VIX_ASYNC, VIXDISKLIB_FLAG_OPEN_READ_ONLY, VixDiskLibAdapterType, VixDiskLibBlock,
    VixDiskLibBlockList, VixDiskLibCompletionCB, VixDiskLibConnectParams, VixDiskLibConnection,
    VixDiskLibGenericLogFunc, VixDiskLibHandle, VixDiskLibInfo, VixError,
};

use crate::config::{Does, On};
use crate::connection::{Connection, FAIL, INVALID_ARG, Refusal};
use crate::disk::{Asker, Disk, Request, hang};
use crate::memory::{Kind, hand_out, misuse, take_back};
use crate::session::{Level, Session};

/// Every so manyth request is answered before `ReadAsync` returns, where nothing takes time.
const AT_ONCE: u64 = 7;

/// The request from which on they are counted for that.
static REQUESTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// What of `VixDiskLibInfo` version 6 has.
const INFO_BYTES_OF_6: usize = 56;

/// Bits that may stand above an error's code.
const ABOVE: VixError = 0x00ab_0000;

fn error(code: Refusal) -> VixError {
    if code == 0 { 0 } else { ABOVE | VixError::from(code) }
}

/// Reads a text; `None` where it is null.
fn text(text: *const c_char) -> Option<String> {
    let there = !text.is_null();
    there.then(|| {
        // SAFETY: It is not null, and a C string by the interface.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    })
}

/// Looks at an open disk.
fn disk(handle: VixDiskLibHandle) -> Arc<Disk> {
    if handle.is_null() {
        misuse("a null handle");
    }
    let disk: *const Disk = handle.cast_const().cast();
    // SAFETY: It comes from Open and was not closed, by the interface.
    unsafe { Arc::increment_strong_count(disk) };
    // SAFETY: As above; the count was raised for it.
    unsafe { Arc::from_raw(disk) }
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_InitEx(
    major: u32,
    minor: u32,
    log: VixDiskLibGenericLogFunc,
    warn: VixDiskLibGenericLogFunc,
    panic: VixDiskLibGenericLogFunc,
    folder: *const c_char,
    _configuration: *const c_char,
) -> VixError {
    if [log, warn, panic].iter().any(Option::is_none) {
        misuse("InitEx without all three log functions");
    }
    let Some(folder) = text(folder) else { misuse("InitEx without a folder") };
    if (major, minor) < (5, 0) {
        return error(INVALID_ARG);
    }
    match Session::start(Path::new(OsStr::from_bytes(folder.as_bytes())), [log, warn, panic]) {
        Ok(()) => 0,
        Err(why) => misuse(&format!("its configuration: {why}")),
    }
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_Exit() {
    Session::get().end();
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_GetErrorText(of: VixError, locale: *const c_char) -> *mut c_char {
    if !locale.is_null() {
        misuse("GetErrorText with a locale");
    }
    let words = match of & 0xffff {
        1 => "Unknown error".to_owned(),
        2 => "Memory allocation failed. Out of memory".to_owned(),
        35 => "Insufficient permissions in the host operating system".to_owned(),
        code => format!("words for {code}"),
    };
    let memory = hand_out(Kind::ErrorText, words.len() + 1).cast::<c_char>();
    // SAFETY: There is room for the words; the NUL behind them is there.
    unsafe { ptr::copy_nonoverlapping(words.as_ptr().cast(), memory, words.len()) };
    memory
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_FreeErrorText(text: *mut c_char) {
    take_back(Kind::ErrorText, text.cast());
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_AllocateConnectParams() -> *mut VixDiskLibConnectParams {
    hand_out(Kind::ConnectParams, size_of::<VixDiskLibConnectParams>()).cast()
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_FreeConnectParams(parameters: *mut VixDiskLibConnectParams) {
    take_back(Kind::ConnectParams, parameters.cast());
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_ConnectEx(
    parameters: *const VixDiskLibConnectParams,
    read_only: c_char,
    snapshot: *const c_char,
    transports: *const c_char,
    out: *mut VixDiskLibConnection,
) -> VixError {
    let session = Session::get();
    if parameters.is_null() || read_only == 0 {
        misuse("ConnectEx without parameters, or for writing");
    }
    if let Some(Does::Error(code)) = session.fault(On::Connect) {
        return error(code);
    }
    // SAFETY: It is not null, and filled by the interface.
    let parameters = unsafe { &*parameters };
    match Connection::open(parameters, text(snapshot), text(transports)) {
        Ok(connection) => {
            session.connections.fetch_add(1, Ordering::SeqCst);
            let connection = Arc::into_raw(Arc::new(connection)).cast_mut().cast();
            // SAFETY: By the interface there is room for the answer.
            unsafe { out.write(connection) };
            0
        }
        Err(code) => error(code),
    }
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_Disconnect(connection: VixDiskLibConnection) -> VixError {
    // SAFETY: It comes from ConnectEx and is not used any more, by the interface.
    let connection = unsafe { Arc::from_raw(connection.cast_const().cast::<Connection>()) };
    if connection.disks.load(Ordering::SeqCst) > 0 {
        misuse("Disconnect with an open disk");
    }
    Session::get().connections.fetch_sub(1, Ordering::SeqCst);
    0
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_Open(
    connection: VixDiskLibConnection,
    path: *const c_char,
    flags: u32,
    out: *mut VixDiskLibHandle,
) -> VixError {
    let session = Session::get();
    session.opening("Open");
    if flags & VIXDISKLIB_FLAG_OPEN_READ_ONLY == 0 {
        misuse("Open for writing");
    }
    let raw: *const Connection = connection.cast_const().cast();
    // SAFETY: It comes from ConnectEx and was not ended, by the interface.
    unsafe { Arc::increment_strong_count(raw) };
    // SAFETY: As above; the count was raised for it.
    let connection = unsafe { Arc::from_raw(raw) };
    let Some(path) = text(path) else { misuse("Open without a path") };
    match session.fault(On::Open) {
        Some(Does::Error(code)) => return error(code),
        Some(Does::Hang) => hang(),
        Some(Does::Crash | Does::Lose | Does::Flip) | None => {}
    }
    match connection.find(&path) {
        Ok((file, sectors)) => {
            session.say(Level::Info, &format!("NBD_ClientOpen: opened {path}"));
            connection.disks.fetch_add(1, Ordering::SeqCst);
            let disk = Arc::into_raw(Arc::new(Disk::new(file, sectors, connection)));
            // SAFETY: By the interface there is room for the answer.
            unsafe { out.write(disk.cast_mut().cast()) };
            0
        }
        Err(code) => {
            if code == FAIL {
                session.say(Level::Warning, "SSL: the thumbprint does not match the certificate");
            }
            error(code)
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_Close(handle: VixDiskLibHandle) -> VixError {
    Session::get().opening("Close");
    let disk = disk(handle);
    let _call = disk.call("Close");
    disk.close();
    disk.connection.disks.fetch_sub(1, Ordering::SeqCst);
    // SAFETY: It comes from Open and is not used any more, by the interface.
    unsafe { Arc::decrement_strong_count(handle.cast_const().cast::<Disk>()) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_GetTransportMode(handle: VixDiskLibHandle) -> *const c_char {
    disk(handle).connection.transport.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_GetInfo(
    handle: VixDiskLibHandle,
    out: *mut *mut VixDiskLibInfo,
) -> VixError {
    let disk = disk(handle);
    let _call = disk.call("GetInfo");
    let info = VixDiskLibInfo {
        capacity: disk.sectors,
        adapterType: VixDiskLibAdapterType::VIXDISKLIB_ADAPTER_SCSI_LSILOGIC,
        numLinks: 1,
        logicalSectorSize: 512,
        physicalSectorSize: 512,
        ..VixDiskLibInfo::default()
    };
    let old = Session::get().config.pose_as < 7;
    let bytes = if old { INFO_BYTES_OF_6 } else { size_of::<VixDiskLibInfo>() };
    let memory = hand_out(Kind::Info, bytes);
    // SAFETY: Both have so many bytes, and are apart.
    unsafe { ptr::copy_nonoverlapping((&raw const info).cast::<c_void>(), memory, bytes) };
    // SAFETY: By the interface there is room for the answer.
    unsafe { out.write(memory.cast()) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_FreeInfo(info: *mut VixDiskLibInfo) {
    take_back(Kind::Info, info.cast());
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_Read(
    handle: VixDiskLibHandle,
    start: u64,
    count: u64,
    buffer: *mut u8,
) -> VixError {
    let disk = disk(handle);
    let _call = disk.call("Read");
    let (sender, receiver) = channel();
    let request = Request::new(&disk, (start, count), buffer, Asker::Waiting(sender));
    let wire = Session::get().wire;
    if wire.is_instant() {
        request.answer();
    } else {
        wire.send(request);
    }
    // One that is never answered keeps its sender for ever.
    receiver.recv().map_or_else(|_| misuse("a request was lost"), error)
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_ReadAsync(
    handle: VixDiskLibHandle,
    start: u64,
    count: u64,
    buffer: *mut u8,
    callback: VixDiskLibCompletionCB,
    data: *mut c_void,
) -> VixError {
    let disk = disk(handle);
    let _call = disk.call("ReadAsync");
    if count == 0 {
        return error(INVALID_ARG);
    }
    let asker = Asker::Callback(callback, data.expose_provenance());
    let request = Request::new(&disk, (start, count), buffer, asker);
    let wire = Session::get().wire;
    let number = REQUESTS.fetch_add(1, Ordering::SeqCst);
    if wire.is_instant() && number % AT_ONCE == AT_ONCE - 1 {
        request.answer();
    } else {
        wire.send(request);
    }
    VixError::from(VIX_ASYNC)
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_Wait(handle: VixDiskLibHandle) -> VixError {
    let disk = disk(handle);
    let _call = disk.call("Wait");
    disk.wait();
    0
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_QueryAllocatedBlocks(
    handle: VixDiskLibHandle,
    start: u64,
    count: u64,
    chunk: u64,
    out: *mut *mut VixDiskLibBlockList,
) -> VixError {
    let disk = disk(handle);
    let _call = disk.call("QueryAllocatedBlocks");
    let blocks = match disk.allocated(start, count, chunk) {
        Ok(blocks) => blocks,
        Err(code) => return error(code),
    };
    let bytes = size_of::<VixDiskLibBlockList>() + blocks.len() * size_of::<VixDiskLibBlock>();
    let list: *mut VixDiskLibBlockList = hand_out(Kind::BlockList, bytes).cast();
    // SAFETY: There is room for it.
    let number = unsafe { &raw mut (*list).numBlocks };
    // SAFETY: As above.
    unsafe { number.write(u32::try_from(blocks.len()).expect("there are fewer chunks")) };
    // SAFETY: As above; only the address is taken.
    let first = unsafe { &raw mut (*list).blocks }.cast::<VixDiskLibBlock>();
    for (nth, (offset, length)) in blocks.into_iter().enumerate() {
        // SAFETY: There is room for as many as there are.
        let place = unsafe { first.add(nth) };
        // SAFETY: As above.
        unsafe { place.write(VixDiskLibBlock { offset, length }) };
    }
    // SAFETY: By the interface there is room for the answer.
    unsafe { out.write(list) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn VixDiskLib_FreeBlockList(list: *mut VixDiskLibBlockList) -> VixError {
    take_back(Kind::BlockList, list.cast());
    0
}
