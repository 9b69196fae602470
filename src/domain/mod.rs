//! The words that every other module speaks: identifiers, quantities, and a VM in no vendor's terms.

pub mod id;
pub mod unit;
pub mod vm;
