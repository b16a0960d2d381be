//! Counts the spawns being served from a snapshot.
//!
//! The start of another VMM takes processors and locks of the kernel that a release needs, so
//! starts yield to them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

/// Timeout of a start's wait for spawns being served: a succession of them must not delay it for
/// ever.
const YIELD_TIMEOUT: Duration = Duration::from_millis(20);
/// Timeout of a refill's wait, and interval of refills meanwhile: where spawns are always being
/// served, priming a clone now takes as much processor time as two spawns.
const REFILL_YIELD_TIMEOUT: Duration = Duration::from_millis(500);

/// Number of spawns being served.
#[derive(Debug, Default)]
pub(super) struct ActiveSpawns {
    count: AtomicUsize,
    none: Notify,
    /// The turn of the next refill.
    refill: Mutex<()>,
}

/// Counts as one while it lives.
#[derive(Debug)]
pub(super) struct ActiveSpawn<'a> {
    spawns: &'a ActiveSpawns,
}

impl ActiveSpawns {
    /// Adds one.
    pub(super) fn begin(&self) -> ActiveSpawn<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        ActiveSpawn { spawns: self }
    }

    /// Resolves when there is none, or after the timeout.
    pub(super) async fn yield_to_spawns(&self) {
        // After the timeout, starts nevertheless.
        let _ = timeout(YIELD_TIMEOUT, self.over()).await;
    }

    /// Resolves when there is none or, for one refill after the other, after a longer timeout.
    pub(super) async fn yield_refill_to_spawns(&self) {
        let _turn = self.refill.lock().await;
        let _ = timeout(REFILL_YIELD_TIMEOUT, self.over()).await;
    }

    async fn over(&self) {
        loop {
            // Subscribed before the count is read, so that no change is missed.
            let none = self.none.notified();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Drop for ActiveSpawn<'_> {
    fn drop(&mut self) {
        if self.spawns.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.spawns.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_the_last_that_is_served_but_not_for_ever() {
        let spawns = ActiveSpawns::default();
        let start = tokio::time::Instant::now();
        spawns.yield_to_spawns().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        let (one, two) = (spawns.begin(), spawns.begin());
        let first_over = async {
            drop(one);
            tokio::task::yield_now().await;
            assert_eq!(start.elapsed(), Duration::ZERO);
            drop(two);
        };
        tokio::join!(spawns.yield_to_spawns(), first_over);
        assert_eq!(start.elapsed(), Duration::ZERO);
        let _hangs = spawns.begin();
        spawns.yield_to_spawns().await;
        assert_eq!(start.elapsed(), YIELD_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn refills_start_one_after_the_other_while_spawns_are_served_and_all_when_none_is() {
        let spawns = ActiveSpawns::default();
        let start = tokio::time::Instant::now();
        let refills = async || {
            tokio::join!(
                spawns.yield_refill_to_spawns(),
                spawns.yield_refill_to_spawns(),
                spawns.yield_refill_to_spawns(),
            )
        };
        refills().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        let _served = spawns.begin();
        refills().await;
        assert_eq!(start.elapsed(), 3 * REFILL_YIELD_TIMEOUT);
    }
}
