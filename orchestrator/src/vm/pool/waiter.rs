//! A spawn that waits for room in a pool.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::core::{Core, Granted};
use super::lease::Lease;
use super::state::{Placement, WaiterId};
use crate::vm::launcher::PausedClone;
use crate::vm::snapshot::Snapshot;

/// What serves a waiting spawn, and its lease.
pub(super) type Turn = (Lease, Placement<Snapshot, PausedClone>);

/// A waiting spawn; dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Waiter {
    id: WaiterId,
    granted: oneshot::Receiver<Granted>,
    core: Arc<Core>,
}

impl Waiter {
    /// Joins the queue. Call this while the state is locked, so that the grant can't come before.
    pub(super) fn join(core: &Arc<Core>, id: WaiterId) -> Self {
        Self {
            id,
            granted: core.wait_queue.join(id),
            core: Arc::clone(core),
        }
    }

    /// Resolves when the spawn is granted room; `None` if the pool was closed.
    pub(super) async fn turn(&mut self) -> Option<Turn> {
        let granted = (&mut self.granted).await.ok()?;
        Some(turn(&self.core, granted))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let (_, effects) = self.core.update(|state, _| state.cancel(self.id));
        self.core.wait_queue.leave(self.id);
        // A grant that comes later is returned to its sender.
        self.granted.close();
        if let Ok(granted) = self.granted.try_recv() {
            drop(turn(&self.core, granted));
        }
        self.core.wake(effects);
    }
}

/// Passes on a grant of the state.
pub(super) fn grant(core: &Arc<Core>, waiter: WaiterId, granted: Granted) {
    // Without the spawn, the lease is released, and the clone ends.
    if let Err(granted) = core.wait_queue.grant(waiter, granted) {
        drop(turn(core, granted));
    }
}

fn turn(core: &Arc<Core>, granted: Granted) -> Turn {
    let lease = Lease::new(granted.lease, granted.share, core);
    (lease, granted.placement)
}
