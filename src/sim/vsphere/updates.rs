//! Filters and updates.
use super::value::Ref;
use super::world::World;
/// x
#[derive(Debug, Default)]
pub(super) struct Collector {}
pub(super) fn exists(_world: &World, _cookie: Option<&str>, _of: &Ref) -> bool {
    false
}
