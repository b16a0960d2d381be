//! Ends a soak early, at a signal.

use std::future::pending;

use anyhow::Result;
use ironclaw_console::signals::Interrupted;
use tokio::sync::watch;

/// Tells whether to stop; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Receiver<Option<Interrupted>>);

/// Asks to stop.
#[derive(Debug)]
pub(super) struct Ask(watch::Sender<Option<Interrupted>>);

impl Ask {
    pub(super) fn stop(&self, signal: Interrupted) {
        self.0.send_replace(Some(signal));
    }
}

impl Stop {
    pub(super) fn new() -> (Ask, Self) {
        let (ask, stop) = watch::channel(None);
        (Ask(ask), Self(stop))
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Runs `work` until it is time to stop, which drops it.
    ///
    /// # Errors
    /// [`Interrupted`], or that of the work.
    pub(super) async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            signal = self.asked() => Err(signal.into()),
            result = work => result,
        }
    }

    async fn asked(&self) -> Interrupted {
        let mut signal = self.0.clone();
        let asked = signal.wait_for(Option::is_some).await.map(|signal| *signal);
        match asked {
            Ok(Some(signal)) => signal,
            // Nobody can ask any more.
            _ => pending().await,
        }
    }
}
