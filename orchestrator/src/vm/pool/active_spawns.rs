//! The spawns that are being served from a snapshot at this moment.
//!
//! Another VMM's start takes processors and locks of the kernel that a resume needs, so starts let
//! those who are served go first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

/// How long a start waits for spawns that are being served: those who come one after the other
/// must not put it off for ever.
const PATIENCE: Duration = Duration::from_millis(20);
/// The same of a warm clone's, and how far apart these are meanwhile: where spawns are always being
/// served, one that is made ready now takes as much of processors as two spawns would.
const REFILL_PATIENCE: Duration = Duration::from_millis(500);

/// How many there are.
#[derive(Debug, Default)]
pub(super) struct ActiveSpawns {
    count: AtomicUsize,
    none: Notify,
    /// The turn of the next refill.
    refill: Mutex<()>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct ActiveSpawn<'a> {
    spawns: &'a ActiveSpawns,
}

impl ActiveSpawns {
    /// One more.
    pub(super) fn begin(&self) -> ActiveSpawn<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        ActiveSpawn { spawns: self }
    }

    /// Resolves when there is none, or after some time.
    pub(super) async fn yield_to_spawns(&self) {
        // Out of patience: its own turn, then.
        let _ = timeout(PATIENCE, self.over()).await;
    }

    /// Resolves when there is none, or, for one refill after the other, after a longer time.
    pub(super) async fn yield_refill_to_spawns(&self) {
        let _turn = self.refill.lock().await;
        let _ = timeout(REFILL_PATIENCE, self.over()).await;
    }

    async fn over(&self) {
        loop {
            // Asked for before the count is, so that nothing is missed in between.
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
        assert_eq!(start.elapsed(), PATIENCE);
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
        assert_eq!(start.elapsed(), 3 * REFILL_PATIENCE);
    }
}
