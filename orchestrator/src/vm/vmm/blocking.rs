//! Blocking work in async code.

use std::io;

use tokio::task::spawn_blocking;

use super::VmmError;

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

/// Runs blocking work of a VMM's `operation` on a thread for it; passes on its panic.
pub(in crate::vm) async fn blocking_in_vmm<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, VmmError> + Send + 'static,
) -> Result<T, VmmError> {
    blocking(work).await.unwrap_or_else(|ShuttingDown| {
        let reason = io::Error::other("the runtime shuts down");
        Err(VmmError::io(operation)(reason))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_passes_on_its_error_and_its_panic() {
        let refused = || VmmError::io("try")(io::ErrorKind::StorageFull.into());
        let failed = blocking_in_vmm("try", move || Err::<(), _>(refused())).await;
        assert_eq!(failed.unwrap_err().to_string(), refused().to_string());

        let panics = tokio::spawn(blocking_in_vmm("try", || -> Result<(), _> {
            panic!("of the work")
        }));
        let panic = panics.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"of the work"));
    }
}
