//! Buffers that are lent to the library while it fills them.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{VddkError, code, raw};

/// `VIX_E_CANCELLED`: the answer to a request that was never issued.
const CANCELLED: raw::VixError = 10;

/// A buffer on its way to the library, and back to who lent it. One that is dropped is answered as cancelled.
pub struct Request {
    /// `None` once the library has it.
    slot: Option<Arc<Slot>>,
    address: *mut u8,
    length: usize,
}

// SAFETY: It is the only way to the buffer until it was answered, as `&mut [u8]` is, which may go to another thread.
unsafe impl Send for Request {}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            slot.answer(CANCELLED);
        }
    }
}

/// Where the answer lands.
#[derive(Debug, Default)]
struct Slot {
    answer: Mutex<Option<raw::VixError>>,
    answered: Condvar,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<raw::VixError>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first answer counts.
    fn answer(&self, result: raw::VixError) {
        self.lock().get_or_insert(result);
        self.answered.notify_one();
    }

    /// Waits for the answer, at most for a time.
    fn wait(&self, time: Duration) -> Option<raw::VixError> {
        let waited = self.answered.wait_timeout_while(self.lock(), time, |answer| answer.is_none());
        let (answer, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *answer
    }
}

/// Waits for the answer on every way out: until then the buffer is not its owner's.
struct Back<'a>(&'a Slot);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        while self.0.wait(Duration::MAX).is_none() {}
    }
}

/// Lends a buffer: `post` hands it to the thread of the disk, which issues it by [`crate::Disk::read_async`]. Returns once it
/// was answered, however long that takes; `slow` is called each time another `patience` passed without an answer.
pub fn lend(
    buffer: &mut [u8],
    post: impl FnOnce(Request),
    patience: Duration,
    mut slow: impl FnMut(),
) -> Result<(), VddkError> {
    let slot = Arc::new(Slot::default());
    let back = Back(&slot);
    post(Request {
        slot: Some(Arc::clone(&slot)),
        address: buffer.as_mut_ptr(),
        length: buffer.len(),
    });
    let answer = loop {
        match slot.wait(patience) {
            Some(answer) => break answer,
            None => slow(),
        }
    };
    drop(back);
    match code(answer) {
        0 => Ok(()),
        code => Err(VddkError { code, call: "ReadAsync", text: String::new() }),
    }
}

impl Request {
    /// Returns how many bytes it asks for.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns the buffer, and what [`answered`] takes once.
    pub(crate) fn give(mut self) -> (*mut u8, *mut c_void) {
        let slot = self.slot.take().expect("a request is given once");
        (self.address, Arc::into_raw(slot).cast_mut().cast())
    }
}

/// Takes the answer to a request that was given away. It runs on the library's threads: it neither waits nor calls the library.
///
/// # Safety
/// `data` comes from [`Request::give`], and no answer to it came before.
pub(crate) unsafe extern "C" fn answered(data: *mut c_void, result: raw::VixError) {
    // SAFETY: By the contract it is the pointer of an `Arc<Slot>` that nobody else takes back.
    let slot = unsafe { Arc::from_raw(data.cast_const().cast::<Slot>()) };
    slot.answer(result);
}
