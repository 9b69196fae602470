//! What people write in git: bytes become documents and diagnostics, never an error that hides the rest.

pub mod code;
pub mod diagnostic;
pub mod document;
pub mod edit;
mod judge;
mod message;
pub mod parse;
pub mod schema;
mod suggest;
mod tree;
mod unsupported;

pub(crate) use judge::is_secret;
pub use message::refused;
pub(crate) use message::{is_invisible, reference, shown};
pub(crate) use suggest::nearest;
