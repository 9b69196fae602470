//! A library with the interface of VMware's VDDK over plain files, for tests and measurements.
//!
//! It serves the disks of a simulated vSphere: `disks.json` in the folder that [`Config::sim`] names says which VM and snapshot has
//! which, and what a client must know to read them. It is read again at each connection.
//!
//! ```json
//! {"username": "…", "password": "…", "thumbprint": "AA:BB:…", "sessions": ["COOKIE"],
//!  "disks": [{"vm": "vm-12", "key": 2000, "snapshot": "snapshot-9", "path": "[ds1] web01/web01.vmdk",
//!             "file": "disks/0.raw", "capacity": 1073741824}]}
//! ```
//!
//! # What it models
//! - `ReadAsync` is answered on other threads, in another order, and sometimes before it returns.
//! - Each request takes a round trip; a link with a bandwidth is shared by all disks; a server works on so many requests at once.
//! - What is allocated is what the file's holes leave, rounded out to chunks, at a price for each question.
//! - Version 6 tells of a disk in 56 bytes.
//! - [`Config::faults`]: errors, a lost connection, a server without memory, a request that is never answered, crashes, flipped bits.
//! - A call that the library's documentation forbids ends the process, with a message on standard error: overlapping calls on one
//!   disk, opening from two threads, closing while something is on its way, freeing with the wrong function, a fork after the start.

#![expect(unsafe_code, reason = "it is a C library")]

mod calls;
pub mod config;
mod connection;
mod disk;
mod memory;
mod session;
mod wire;
