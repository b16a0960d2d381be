//! Observes whether a guest has requests.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The number of open requests.
#[derive(Debug)]
pub(super) struct Requests(watch::Sender<usize>);

/// Counts as a request while it lives.
#[derive(Debug)]
pub(super) struct Busy(watch::Sender<usize>);

impl Requests {
    pub(super) fn none() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(super) fn begin(&self) -> Busy {
        self.0.send_modify(|open| *open += 1);
        Busy(self.0.clone())
    }

    pub(super) fn activity(&self) -> Activity {
        Activity(self.0.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// A view of a session's activity.
#[derive(Debug)]
pub(crate) struct Activity(watch::Sender<usize>);

impl Activity {
    /// Resolves when no request was open for `idle`, from now on.
    pub(crate) async fn none_for(&self, time: Duration) {
        let mut open = self.0.subscribe();
        // The sender is this value.
        while let Ok(_idle) = open.wait_for(|open| *open == 0).await.map(|_| ()) {
            if timeout(time, open.changed()).await.is_err() {
                return;
            }
        }
    }
}
