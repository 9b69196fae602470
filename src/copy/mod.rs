//! The data plane: reader to writer, bounded in flight, hashed, checkpointed, stopped at a boundary. It runs in a process of
//! its own.

pub mod engine;
pub mod frame;
mod lane;
#[cfg(test)]
pub(crate) mod memory;
pub mod plan;
pub mod protocol;
pub mod tree;
pub mod worker;
