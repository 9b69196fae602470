//! What people write in git: bytes become documents and diagnostics, never an error that hides the rest.

pub mod diagnostic;
pub mod document;
pub mod parse;
pub mod schema;
