//! Signals that end the program.

use std::future::Future;

use anyhow::{Context as _, Result};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

/// A signal asked the program to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("ended by a signal")]
pub(crate) struct Interrupted(u8);

impl Interrupted {
    /// As shells give it: 128 and the signal's number.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self.0
    }
}

/// Catches the signals from now on; resolves at the first.
pub(crate) fn first() -> Result<impl Future<Output = Interrupted>> {
    let listen = |kind| signal(kind).context("can't listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    Ok(async move {
        // Numbers: POSIX gives these three.
        tokio::select! {
            _ = interrupt.recv() => Interrupted(2),
            _ = terminate.recv() => Interrupted(15),
            _ = hang_up.recv() => Interrupted(1),
        }
    })
}

/// Does `work` until a signal comes, which drops it, and with it every VM: a handle kills its VM
/// when dropped.
///
/// # Errors
/// [`Interrupted`], or that of the work.
pub(crate) async fn until_first<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let signal = first()?;
    tokio::select! {
        result = work => result,
        signal = signal => Err(signal.into()),
    }
}
