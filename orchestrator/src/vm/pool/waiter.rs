//! A spawn that waits for room in a pool.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::core::{Channel, Core, Granted};
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
    /// Creates a spawn in the queue, and the channel to it.
    pub(super) fn new(core: &Arc<Core>, id: WaiterId) -> (Channel, Self) {
        let (channel, granted) = oneshot::channel();
        let core = Arc::clone(core);
        (channel, Self { id, granted, core })
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
        // A grant that comes later is returned to its sender.
        self.granted.close();
        if let Ok(granted) = self.granted.try_recv() {
            drop(turn(&self.core, granted));
        }
        self.core.wake(effects);
    }
}

/// Passes on a grant of the state.
pub(super) fn grant(core: &Arc<Core>, channel: Channel, granted: Granted) {
    // Without the spawn, the lease is released, and the clone ends.
    if let Err(granted) = channel.send(granted) {
        drop(turn(core, granted));
    }
}

fn turn(core: &Arc<Core>, granted: Granted) -> Turn {
    let lease = Lease::new(granted.lease, granted.share, core);
    (lease, granted.placement)
}
