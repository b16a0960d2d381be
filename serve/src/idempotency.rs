//! Requests that are sent again, as their clients did not get the answer: one of each kind at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

type Lock = tokio::sync::Mutex<()>;

/// The keys of requests that are being served, of each client.
#[derive(Debug, Default)]
pub(crate) struct IdempotencyKeys(Mutex<HashMap<(String, String), Weak<Lock>>>);

impl IdempotencyKeys {
    /// Waits until no other request of this client with this key is being served, and keeps others
    /// waiting until what is returned is dropped.
    pub(crate) async fn lock(&self, client: &str, key: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those of requests that are over.
            all.retain(|_, lock| lock.strong_count() > 0);
            let place = all.entry((client.to_owned(), key.to_owned()));
            let place = place.or_default();
            match place.upgrade() {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(Lock::default());
                    *place = Arc::downgrade(&lock);
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_same_request_of_the_same_client_waits_and_no_other() {
        let keys = IdempotencyKeys::default();
        let first = keys.lock("a", "1").await;
        assert!(keys.lock("a", "1").now_or_never().is_none());
        assert!(keys.lock("a", "2").now_or_never().is_some());
        assert!(keys.lock("b", "1").now_or_never().is_some());
        drop(first);
        assert!(keys.lock("a", "1").now_or_never().is_some());
    }
}
