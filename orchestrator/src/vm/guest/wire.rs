//! A stream to a guest, and the session on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::error::GuestError;
use crate::vm::exit_reason::ExitReason;

/// A stream, which its line may replace by another.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: UnixStream,
    /// A number that the guest repeats, to tell its answer from leftovers of an older session.
    pub(super) session: u64,
    greeted: AtomicBool,
    replaced: [Notify; 2],
}

/// Notified of another wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum WireTask {
    Read,
    Flush,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Result<Arc<Self>, GuestError> {
        let session = getrandom::u64().map_err(|error| {
            let what = format!("the host has no random number for it: {error}");
            GuestError::closed(ExitReason::Host(what))
        })?;
        Ok(Arc::new(Self {
            stream,
            session,
            greeted: AtomicBool::new(false),
            replaced: [Notify::new(), Notify::new()],
        }))
    }

    /// Whether the guest answered in this session.
    pub(super) fn is_greeted(&self) -> bool {
        self.greeted.load(Ordering::Relaxed)
    }

    pub(super) fn greeted(&self) {
        self.greeted.store(true, Ordering::Relaxed);
    }

    /// Replaces it; everything that waits for this wire sees its end.
    pub(super) fn replace(&self) {
        self.replaced.iter().for_each(Notify::notify_one);
        self.shut_down();
    }

    /// Resolves when there is another one, once for each task.
    pub(super) async fn was_replaced(&self, task: WireTask) {
        self.replaced[task as usize].notified().await;
    }

    /// Ends the socket for everything that still waits for it, here or in the VMM.
    pub(super) fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
    }
}
