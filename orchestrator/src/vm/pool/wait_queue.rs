//! The queue of spawns that wait for room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::core::Core;
use super::lease::Lease;
use super::state::{Grant, Placement, WaiterId};
use crate::vm::launcher::PausedClone;
use crate::vm::snapshot::Snapshot;

/// The grant to a waiting spawn: dropping it, if the spawn is gone, loses nothing.
pub(super) type Turn = (Lease, Placement<Snapshot, PausedClone>);

/// The channels to the waiting spawns.
#[derive(Debug, Default)]
pub(super) struct WaitQueue(Mutex<HashMap<WaiterId, oneshot::Sender<Turn>>>);

/// A waiting spawn; dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Waiter {
    id: WaiterId,
    turn: oneshot::Receiver<Turn>,
    core: Arc<Core>,
}

impl WaitQueue {
    fn with<T>(
        &self,
        change: impl FnOnce(&mut HashMap<WaiterId, oneshot::Sender<Turn>>) -> T,
    ) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Closes the queue: all waiting spawns fail.
    pub(super) fn close(&self) {
        self.with(HashMap::clear);
    }
}

impl Waiter {
    /// Joins the queue. Call this while the state is locked, so that the grant can't come before.
    pub(super) fn join(core: &Arc<Core>, waiter: WaiterId) -> Self {
        let (sender, turn) = oneshot::channel();
        core.wait_queue
            .with(|waiters| waiters.insert(waiter, sender));
        Self {
            id: waiter,
            turn,
            core: Arc::clone(core),
        }
    }

    /// Resolves when the spawn is granted room; `None` if the pool was closed.
    pub(super) async fn turn(&mut self) -> Option<Turn> {
        (&mut self.turn).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // A grant that was not taken is dropped with the channel, and its lease released.
        let (_, effects) = self.core.update(|state, _| state.cancel(self.id));
        self.core
            .wait_queue
            .with(|waiters| waiters.remove(&self.id));
        self.core.wake(effects);
    }
}

/// Passes on a grant of the state.
pub(super) fn grant(core: &Arc<Core>, waiter: WaiterId, grant: Grant<Snapshot, PausedClone>) {
    let lease = Lease::new(grant.lease, grant.share, core);
    if let Some(sender) = core.wait_queue.with(|waiters| waiters.remove(&waiter)) {
        // A spawn that is gone drops the grant, and with it the lease and the clone.
        drop(sender.send((lease, grant.placement)));
    }
}
