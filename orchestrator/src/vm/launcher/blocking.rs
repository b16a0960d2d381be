//! Blocking work of launches.

use super::error::LaunchError;
use crate::vm::vmm::blocking::{self, ShuttingDown};

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, LaunchError>
where
    T: Send + 'static,
    E: Into<LaunchError> + Send + 'static,
{
    match blocking::blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(ShuttingDown) => Err(LaunchError::ShuttingDown),
    }
}
