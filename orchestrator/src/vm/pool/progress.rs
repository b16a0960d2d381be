//! How a pool gets on with what it makes.

use std::sync::Arc;

use crate::vm::launcher::LaunchError;

/// Tells whoever waits for the pool that something ended, and of what it failed.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) failures: u64,
    pub(super) last_failure: Option<Arc<LaunchError>>,
}
