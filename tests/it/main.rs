//! The integration tests, in one binary: what the project promises about its own text, what the built program does from
//! outside, and (with the feature `peers`) what QEMU and libvirt make of its results.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_methods, reason = "tests start the program and bound their waits")]

mod canary;
mod codes;
mod commands;
#[cfg(feature = "peers")]
mod conversion;
mod copy;
mod course;
mod dependencies;
#[cfg(feature = "peers")]
mod device;
#[cfg(feature = "peers")]
mod editor;
#[cfg(feature = "peers")]
mod eio;
mod faults;
#[cfg(feature = "peers")]
mod full;
#[cfg(feature = "peers")]
mod guest;
mod kill;
#[cfg(feature = "peers")]
mod libvirt;
#[cfg(feature = "peers")]
mod nbd;
#[cfg(feature = "peers")]
mod peers;
mod project;
#[cfg(feature = "peers")]
mod pyvmomi;
#[cfg(feature = "peers")]
mod remote;
mod samples;
mod sandbox;
mod shop;
mod sim;
mod story;
mod tidy;
#[cfg(feature = "peers")]
mod vcsim;
mod vsphere;
mod watching;
#[cfg(feature = "peers")]
mod web01;
mod worker;
