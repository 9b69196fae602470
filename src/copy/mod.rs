//! The data plane: reader → writer, bounded in flight, hashed, checkpointed, cancellable at a boundary.

pub mod protocol;
