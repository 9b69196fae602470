//! The words that every other module speaks: identifiers, quantities, a VM in no vendor's terms, and text made safe to show.

pub mod filter;
pub mod id;
pub mod text;
pub mod unit;
pub mod vm;
pub mod window;
