//! The resources of a pool that a VM which was handed out holds.

use std::sync::{Arc, Weak};

use super::budget::Share;
use super::core::Core;
use super::state::LeaseId;

/// Room in the budget, and a use of the snapshot. Drop releases both.
#[derive(Debug)]
pub(super) struct Lease {
    id: LeaseId,
    pool: Weak<Core>,
    /// Held here: other pools may share the budget, and this pool may be gone before the VM.
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
