//! One stream to a guest, and the session on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::error::GuestError;
use crate::vm::exit_reason::ExitReason;

/// The stream, which its line may replace by another one.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: UnixStream,
    /// What the guest repeats, so that its answer is told from what an older session left.
    pub(super) session: u64,
    greeted: AtomicBool,
    replaced: [Notify; 2],
}

/// Who has to know of another wire.
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

    /// There is another one; whatever waits for this one sees its end.
    pub(super) fn replace(&self) {
        self.replaced.iter().for_each(Notify::notify_one);
        self.shut_down();
    }

    /// Resolves when there is another one, once for each task.
    pub(super) async fn was_replaced(&self, task: WireTask) {
        self.replaced[task as usize].notified().await;
    }

    /// Whatever still waits for the socket, here or in the VMM, sees its end.
    pub(super) fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
    }
}
