//! Waits that end, one way or the other.

use std::time::Duration;

use tokio::time::timeout;

/// Far longer than anything takes that works, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `work` comes to.
///
/// # Panics
/// If it does not end in time; `what` says what is missing then.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let result = timeout(PATIENCE, work).await;
    result.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}
