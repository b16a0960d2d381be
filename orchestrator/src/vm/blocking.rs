//! Blocking work in async code.

use tokio::task::spawn_blocking;

/// The runtime shuts down, and starts no more blocking work.
#[derive(Debug)]
pub(crate) struct ShuttingDown;

/// Runs blocking work on a thread for it; passes on its panic.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<Result<T, E>, ShuttingDown>
where
    T: Send + 'static,
    E: Send + 'static,
{
    spawn_blocking(work)
        .await
        .map_err(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => ShuttingDown,
        })
}
