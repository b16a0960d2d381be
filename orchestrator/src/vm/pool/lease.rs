//! What a VM that was handed out holds of its pool.

use std::sync::{Arc, Weak};

use super::budget::Share;
use super::core::Core;
use super::state::LeaseId;

/// Room in the budget, and a claim on the snapshot. Both are given back when it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    id: LeaseId,
    pool: Weak<Core>,
    /// Here, because other pools may share the budget, and this one may be gone before the VM.
    _share: Share,
}

impl Lease {
    pub(super) fn new(id: LeaseId, share: Share, pool: &Arc<Core>) -> Self {
        Self {
            id,
            pool: Arc::downgrade(pool),
            _share: share,
        }
    }

    pub(super) fn id(&self) -> LeaseId {
        self.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(core) = self.pool.upgrade() {
            core.apply(|state, _| state.released(self.id));
        }
    }
}
