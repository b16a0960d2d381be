//! Waits with a timeout.

use std::time::Duration;

use tokio::time::timeout;

/// Far longer than anything takes that works, on any machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Returns the result of `work`.
///
/// # Panics
/// If it does not end in time; `what` tells what is missing.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let result = timeout(TIMEOUT, work).await;
    result.unwrap_or_else(|_| panic!("not within {TIMEOUT:?}: {what}"))
}
