//! An open disk.

use std::ffi::CStr;
use std::ptr;
use std::slice;

use crate::lent::answered;
use crate::raw::{self, VixDiskLibHandle};
use crate::{Connection, Request, VddkError, code};

/// A sector.
pub const SECTOR_BYTES: u64 = 512;

/// The smallest chunk of an allocation query, in sectors.
pub const CHUNK_SECTORS: u64 = 128;

/// The most chunks of one allocation query.
pub const CHUNKS_MAX: u64 = 524_288;

/// `VIX_E_NOT_SUPPORTED`.
const NOT_SUPPORTED: u16 = 6;

/// A part of a disk that is allocated, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it starts.
    pub start: u64,
    /// How long it is.
    pub count: u64,
}

/// An open disk. It stays on the thread that opened it, which issues everything for it.
pub struct Disk {
    handle: VixDiskLibHandle,
    connection: Connection,
    /// Something was issued that nobody waited for.
    issued: bool,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    pub(crate) fn new(connection: Connection, handle: VixDiskLibHandle) -> Self {
        Self { handle, connection, issued: false }
    }

    fn functions(&self) -> &raw::VixDiskLib {
        self.connection.session.0.functions()
    }

    fn check(&self, call: &'static str, error: raw::VixError) -> Result<(), VddkError> {
        self.connection.session.0.check(call, error)
    }

    /// Returns how many sectors it has. The sector sizes behind the capacity are not looked at: before version 7 they are not
    /// there.
    pub fn sectors(&mut self) -> Result<u64, VddkError> {
        let mut info = ptr::null_mut();
        // SAFETY: The handle is open, and no other call on it is going on: it is this thread's.
        let told = unsafe { self.functions().VixDiskLib_GetInfo(self.handle, &raw mut info) };
        self.check("GetInfo", told)?;
        // SAFETY: It succeeded, so the answer is there until it is freed.
        let sectors = unsafe { (*info).capacity };
        // SAFETY: It comes from `GetInfo` and is not used any more.
        unsafe { self.functions().VixDiskLib_FreeInfo(info) }
        Ok(sectors)
    }

    /// Returns how it is read: `nbdssl`, `nbd`, `hotadd`, `san` or `file`.
    pub fn transport(&mut self) -> String {
        // SAFETY: The handle is open and this thread's.
        let text = unsafe { self.functions().VixDiskLib_GetTransportMode(self.handle) };
        if text.is_null() {
            return "an unknown transport".to_owned();
        }
        // SAFETY: It is not null, so it is a C string, which is static.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// Tells what is allocated of a range, in ascending order; a library that cannot tell says that it is not supported. `start` and
    /// `count` are multiples of [`CHUNK_SECTORS`], and of those at most [`CHUNKS_MAX`].
    pub fn allocated(&mut self, start: u64, count: u64) -> Result<Vec<Block>, VddkError> {
        const CALL: &str = "QueryAllocatedBlocks";
        let functions = self.functions();
        let there = functions.VixDiskLib_QueryAllocatedBlocks.is_ok()
            && functions.VixDiskLib_FreeBlockList.is_ok();
        if !there {
            let text = "it is older than 6.7".to_owned();
            return Err(VddkError { code: NOT_SUPPORTED, call: CALL, text });
        }
        let mut list = ptr::null_mut();
        // SAFETY: Both functions are there, the handle is open and this thread's, and bad numbers are refused.
        let told = unsafe {
            functions.VixDiskLib_QueryAllocatedBlocks(
                self.handle,
                start,
                count,
                CHUNK_SECTORS,
                &raw mut list,
            )
        };
        self.check(CALL, told)?;
        // SAFETY: It succeeded, so the answer is there until it is freed.
        let length = unsafe { (*list).numBlocks };
        // SAFETY: As above; only the address is taken: the array is as long as the number says, not as it is declared.
        let first = unsafe { &raw const (*list).blocks };
        let length = usize::try_from(length).expect("32 bits fit");
        // SAFETY: So many blocks stand there, until they are freed.
        let blocks = unsafe { slice::from_raw_parts(first.cast::<raw::VixDiskLibBlock>(), length) };
        let block =
            |block: &raw::VixDiskLibBlock| Block { start: block.offset, count: block.length };
        let blocks = blocks.iter().map(block).collect();
        // SAFETY: It comes from `QueryAllocatedBlocks` and is not used any more.
        let freed = unsafe { functions.VixDiskLib_FreeBlockList(list) };
        self.check("FreeBlockList", freed)?;
        Ok(blocks)
    }

    /// Reads whole sectors from a sector on, and waits.
    pub fn read(&mut self, start: u64, buffer: &mut [u8]) -> Result<(), VddkError> {
        let count = sectors(buffer.len());
        let (functions, handle) = (self.functions(), self.handle);
        // SAFETY: The handle is open and this thread's, and the buffer is as long as `count` says.
        let read = unsafe { functions.VixDiskLib_Read(handle, start, count, buffer.as_mut_ptr()) };
        self.check("Read", read)
    }

    /// Issues a request for whole sectors from a sector on. Its answer goes to who lent the buffer.
    pub fn read_async(&mut self, start: u64, request: Request) {
        self.issued = true;
        let count = sectors(request.length());
        let (buffer, data) = request.give();
        let (functions, handle) = (self.functions(), self.handle);
        // SAFETY: The handle is open and this thread's. The buffer is as long as `count` says, and nobody touches it before the
        // answer, which `answered` takes once.
        let issued = unsafe {
            functions.VixDiskLib_ReadAsync(handle, start, count, buffer, Some(answered), data)
        };
        if u32::from(code(issued)) != raw::VIX_ASYNC {
            // A request that reads as accepted and answered at once is none: nobody said that the buffer is filled.
            let error =
                if code(issued) == 0 { raw::VixError::from(raw::VIX_ASYNC) } else { issued };
            // SAFETY: The request was not accepted, so no other answer comes.
            unsafe { answered(data, error) }
        }
    }

    /// Waits until everything that was issued is answered.
    pub fn wait(&mut self) -> Result<(), VddkError> {
        // SAFETY: The handle is open and this thread's.
        let waited = unsafe { self.functions().VixDiskLib_Wait(self.handle) };
        self.issued = false;
        self.check("Wait", waited)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.issued {
            // A handle that is closed under a request is worse than one whose failures nobody hears of.
            let _ = self.wait();
        }
        // SAFETY: The handle is open, nothing is going on, and this is the thread that opens and closes.
        let closed = unsafe { self.functions().VixDiskLib_Close(self.handle) };
        // Whatever it says, it is not used any more.
        let _ = closed;
    }
}

/// Counts sectors.
fn sectors(bytes: usize) -> u64 {
    let bytes = u64::try_from(bytes).expect("lengths fit 64 bits");
    assert!(bytes.is_multiple_of(SECTOR_BYTES), "whole sectors are read, not {bytes} bytes");
    bytes / SECTOR_BYTES
}
