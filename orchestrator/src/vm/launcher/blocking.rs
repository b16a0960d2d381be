//! Blocking work in async code.

use tokio::task::spawn_blocking;

use super::error::LaunchError;

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, LaunchError>
where
    T: Send + 'static,
    E: Into<LaunchError> + Send + 'static,
{
    match spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(panic) => match panic.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(LaunchError::ShuttingDown),
        },
    }
}
