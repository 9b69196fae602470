//! What happened, and what that adds up to. [`record`] is what is written; [`phase`] folds it.

pub mod pace;
pub mod phase;
pub mod progress;
pub mod record;
#[cfg(test)]
mod tests;
