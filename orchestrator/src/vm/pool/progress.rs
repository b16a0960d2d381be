//! The progress of a pool's own operations.

use std::sync::Arc;

use crate::vm::launcher::LaunchError;

/// Notifies those who wait for the pool that an operation ended, and of its error.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) failures: u64,
    pub(super) last_failure: Option<Arc<LaunchError>>,
}
