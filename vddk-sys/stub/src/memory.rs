//! What was handed out, and by which function it comes back; and how misuse ends the process.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// What a piece of memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ErrorText,
    ConnectParams,
    Info,
    BlockList,
}

/// What is handed out, by its address.
static HANDED_OUT: Mutex<Option<HashMap<usize, (Kind, Layout)>>> = Mutex::new(None);

/// Ends the process: the caller did what the library's documentation forbids.
#[expect(clippy::print_stderr, reason = "it is read where the process ended")]
pub(crate) fn misuse(what: &str) -> ! {
    eprintln!("vddk-stub: misuse: {what}");
    std::process::abort()
}

/// Hands out so many bytes of zeros, aligned for everything.
pub(crate) fn hand_out(kind: Kind, bytes: usize) -> *mut c_void {
    let layout = Layout::from_size_align(bytes.max(1), 16).expect("it is small");
    // SAFETY: The layout is not empty.
    let memory = unsafe { alloc_zeroed(layout) };
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    handed_out.get_or_insert_default().insert(memory.addr(), (kind, layout));
    memory.cast()
}

/// Takes it back; null is taken, too.
pub(crate) fn take_back(kind: Kind, memory: *mut c_void) {
    if memory.is_null() {
        return;
    }
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    match handed_out.get_or_insert_default().remove(&memory.addr()) {
        Some((was, layout)) if was == kind => {
            // SAFETY: It was allocated with this layout, and is handed out no more.
            unsafe { dealloc(memory.cast(), layout) }
        }
        Some((was, _)) => misuse(&format!("a {was:?} is freed as a {kind:?}")),
        None => {
            misuse(&format!("what is freed as a {kind:?} was never handed out, or twice freed"))
        }
    }
}

/// Tells what of a kind is handed out.
pub(crate) fn is_out(kind: Kind, memory: usize) -> bool {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    handed_out.get_or_insert_default().get(&memory).is_some_and(|(was, _)| *was == kind)
}
