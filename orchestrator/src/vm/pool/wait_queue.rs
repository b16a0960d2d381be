//! The queue of spawns that wait for room.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::state::WaiterId;

/// The channels to the waiting spawns; `G` is what a spawn is granted.
#[derive(Debug)]
pub(super) struct WaitQueue<G>(Mutex<HashMap<WaiterId, oneshot::Sender<G>>>);

impl<G> Default for WaitQueue<G> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<G> WaitQueue<G> {
    fn waiters(&self) -> MutexGuard<'_, HashMap<WaiterId, oneshot::Sender<G>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a spawn; returns its end of the channel.
    pub(super) fn join(&self, waiter: WaiterId) -> oneshot::Receiver<G> {
        let (sender, receiver) = oneshot::channel();
        self.waiters().insert(waiter, sender);
        receiver
    }

    /// Passes on a grant; returns it if the spawn is gone.
    pub(super) fn grant(&self, waiter: WaiterId, grant: G) -> Result<(), G> {
        let sender = self.waiters().remove(&waiter);
        match sender {
            Some(sender) => sender.send(grant),
            None => Err(grant),
        }
    }

    /// Removes a spawn.
    pub(super) fn leave(&self, waiter: WaiterId) {
        self.waiters().remove(&waiter);
    }

    /// Closes the queue: all waiting spawns fail.
    pub(super) fn close(&self) {
        self.waiters().clear();
    }
}
