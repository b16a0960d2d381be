//! The failures of a pool's own operations.

use std::sync::Arc;

use crate::vm::launcher::LaunchError;

/// Notifies those who wait for the pool that an operation ended, and of its error.
#[derive(Debug, Clone, Default)]
pub(super) struct Failures {
    pub(super) number: u64,
    pub(super) last: Option<Arc<LaunchError>>,
}
