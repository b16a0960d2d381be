//! The spawns that wait for room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Core;
use super::lease::Lease;
use super::slots::{Granted, Served, Ticket};
use crate::vm::launcher::PausedClone;
use crate::vm::snapshot::Snapshot;

/// What a spawn that waited gets: nothing of it is lost if the spawn is gone meanwhile.
pub(super) type Turn = (Lease, Served<Snapshot, PausedClone>);

/// Who waits, by ticket.
#[derive(Debug, Default)]
pub(super) struct Line(Mutex<HashMap<Ticket, oneshot::Sender<Turn>>>);

/// A spawn in the line; leaves it when it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    ticket: Ticket,
    turn: oneshot::Receiver<Turn>,
    core: Arc<Core>,
}

impl Line {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<Ticket, oneshot::Sender<Turn>>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells all who wait that there is nothing to wait for.
    pub(super) fn close(&self) {
        self.with(HashMap::clear);
    }
}

impl Waiting {
    /// To be called while the slots are locked, so that the turn can't come before.
    pub(super) fn join(core: &Arc<Core>, ticket: Ticket) -> Self {
        let (sender, turn) = oneshot::channel();
        core.line.with(|line| line.insert(ticket, sender));
        Self {
            ticket,
            turn,
            core: Arc::clone(core),
        }
    }

    /// Resolves when it is this spawn's turn; `None` if the pool was closed.
    pub(super) async fn turn(&mut self) -> Option<Turn> {
        (&mut self.turn).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // What was granted and not taken goes with the channel, and its lease is released.
        self.core.slots().cancel(self.ticket);
        self.core.line.with(|line| line.remove(&self.ticket));
    }
}

/// Hands out what the slots granted.
pub(super) fn grant(core: &Arc<Core>, ticket: Ticket, granted: Granted<Snapshot, PausedClone>) {
    let lease = Lease::new(granted.lease, granted.share, core);
    if let Some(sender) = core.line.with(|line| line.remove(&ticket)) {
        // A spawn that went away drops its turn, and with it the lease and the clone.
        drop(sender.send((lease, granted.served)));
    }
}
