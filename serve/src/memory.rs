//! The memory of a sandbox on disk, which any number of sandboxes go on from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ironclaw_orchestrator::vm::snapshot::{Snapshot, SnapshotError, SnapshotId, SnapshotStore};

/// A checkpoint in use, that may be needed again; cheap to clone. It is deleted once it is
/// [given up](Self::give_up) and everybody has [left](Self::leave) it.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    snapshot: Snapshot,
    store: SnapshotStore,
    owner: Arc<str>,
    is_given_up: Arc<AtomicBool>,
}

impl Memory {
    /// Takes a checkpoint of `owner` out of the store.
    pub(crate) fn new(snapshot: Snapshot, store: SnapshotStore, owner: Arc<str>) -> Self {
        Self {
            snapshot,
            store,
            owner,
            is_given_up: Arc::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(crate) fn id(&self) -> SnapshotId {
        self.snapshot.id()
    }

    /// Says that nobody begins from it any more, whoever still goes on from it.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }

    /// Leaves it, whose files are not read any more, and deletes it if it is given up and nobody else
    /// needs it. What can't be deleted, or is dropped instead, goes when the next daemon starts.
    pub(crate) async fn leave(self) {
        let Self {
            snapshot,
            store,
            owner,
            is_given_up,
        } = self;
        let id = snapshot.id();
        drop(snapshot);
        if !is_given_up.load(Ordering::Acquire) {
            return;
        }
        let deleted = tokio::task::spawn_blocking(move || store.delete_checkpoint(id, &owner));
        match deleted.await {
            // Who still uses it deletes it then; another may have done so by now.
            Ok(Ok(()) | Err(SnapshotError::InUse { .. } | SnapshotError::NotFound { .. })) => {}
            Ok(Err(error)) => tracing::warn!(%id, %error, "a checkpoint stays on the disk"),
            // The runtime shuts down.
            Err(_) => {}
        }
    }
}
