//! VMware's VDDK (`libvixDiskLib`), which reads virtual disks of vSphere over the network: declarations of our own, loaded at
//! run time, and one safe door to them.
//!
//! ```text
//!  Library::load ─► Library ──start──► Session ──connect──► Connection ──open──► Disk ──read_async──► lend's caller
//!  (symbols checked)                   (InitEx; Exit)       (ConnectEx; Disconnect)   (Open; Wait, Close)
//! ```
//!
//! # Guarantees
//! - A symbol that the library lacks is found when it is loaded, or is one of those that a reader does without.
//! - `InitEx` is called once a process. What comes of a session stays on the thread that started it: `Open` and `Close` come from
//!   one thread, and no two calls on a disk overlap.
//! - A buffer is the library's from when a request is posted until it was answered: [`lend`] returns no earlier.
//! - Each thing is given back to the function that belongs to it, in the order that the library asks for.
//!
//! # Assumptions
//! The library keeps to its documentation: each request that it accepts is answered once, and it writes nowhere else.
//!
//! The library may not be redistributed, and nothing of its headers is in here: `include/vixDiskLib.h` is written from public
//! facts. `src/bindings.rs` is made of it by bindgen: `cargo build -p vddk-sys --features buildtime-bindgen`, then copy
//! `bindings.rs` out of the build's folder.

#![expect(unsafe_code, reason = "a C library is called")]

mod disk;
mod lent;
mod library;
pub mod raw;
mod session;

pub use disk::{Block, CHUNK_SECTORS, CHUNKS_MAX, Disk, SECTOR_BYTES};
pub use lent::{Request, lend};
pub use library::{Library, LoadError, NAMES};
pub use session::{Connection, Credential, Level, Login, Session, StartError};

/// An error of the library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VDDK answered {call} with error {code} ({text})")]
pub struct VddkError {
    /// The library's number, `VIX_E_…`: the low 16 bits of what it returned.
    pub code: u16,
    /// The call, without its prefix.
    pub call: &'static str,
    /// The library's own words for the number; empty where it was not asked for them.
    pub text: String,
}

/// Returns the number of an error; 0 is success. What stands above the low 16 bits is not a part of it.
fn code(error: raw::VixError) -> u16 {
    u16::try_from(error & 0xffff).expect("16 bits fit")
}
