//! The adapters translate the world into ports. They never choose.

mod checksum;
pub mod clock;
pub mod confine;
pub mod convert;
mod distrust;
mod flight;
pub mod git;
pub mod image;
pub mod local;
pub mod location;
pub mod lock;
pub mod nbd;
pub mod ova;
pub mod secret;
pub mod source;
pub mod store;
pub mod url;
pub mod vddk;
pub mod vsphere;
pub mod worker;
