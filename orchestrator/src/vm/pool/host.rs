//! The resources shared by all pools of a host, other than memory.

use std::sync::Arc;

use super::active_spawns::ActiveSpawns;
use super::standby_set::StandbySets;
use super::starts::Starts;

/// One for each [budget](super::Budget) that is not within another.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) starts: Arc<Starts>,
    pub(super) active_spawns: ActiveSpawns,
    pub(super) standby: StandbySets,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            starts: Starts::new(),
            active_spawns: ActiveSpawns::default(),
            standby: StandbySets::default(),
        }
    }
}
