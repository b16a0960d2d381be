//! Signals that end the program.

use std::future::Future;

use anyhow::{Context as _, Result};
use procfs::process::Process;
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Catches the signals from now on; resolves at the first. A program that `nohup` started goes on
/// when its terminal goes away.
pub(crate) fn first() -> Result<impl Future<Output = Interrupted>> {
    let listen = |kind| signal(kind).context("can't listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let kind = SignalKind::hangup();
    let mut hang_up = (!is_ignored(kind)).then(|| listen(kind)).transpose()?;
    Ok(async move {
        // Numbers: POSIX gives these three.
        tokio::select! {
            _ = interrupt.recv() => Interrupted(2),
            _ = terminate.recv() => Interrupted(15),
            () = comes(&mut hang_up) => Interrupted(1),
        }
    })
}

/// Resolves when it comes: never, if nobody listens.
async fn comes(signal: &mut Option<Signal>) {
    let came = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if came.is_none() {
        std::future::pending().await
    }
}

/// Whether this program was started with a signal ignored (proc_pid_status(5)).
fn is_ignored(signal: SignalKind) -> bool {
    // Without /proc there is nobody to ask, and to end by a signal is what is expected.
    let status = Process::myself().and_then(|process| process.status());
    // The lowest bit is signal 1.
    status.is_ok_and(|status| status.sigign & (1 << (signal.as_raw_value() - 1)) != 0)
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
