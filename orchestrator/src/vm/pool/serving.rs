//! The spawns that are being served from a snapshot at this moment.
//!
//! Another VMM's start takes processors and locks of the kernel that a resume needs, so starts let
//! those who are served go first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// How long a start waits for spawns that are being served: those who come one after the other
/// must not put it off for ever.
const PATIENCE: Duration = Duration::from_millis(20);

/// How many there are.
#[derive(Debug, Default)]
pub(super) struct Serving {
    count: AtomicUsize,
    none: Notify,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Serves<'a> {
    serving: &'a Serving,
    /// Whoever replaces what it took.
    refill: &'a Notify,
}

impl Serving {
    /// One more; `refill` is told when it is over, however that ends.
    pub(super) fn begin<'a>(&'a self, refill: &'a Notify) -> Serves<'a> {
        self.count.fetch_add(1, Ordering::SeqCst);
        Serves {
            serving: self,
            refill,
        }
    }

    /// Resolves when there is none, or after some time.
    pub(super) async fn give_way(&self) {
        // Out of patience: its own turn, then.
        let _ = timeout(PATIENCE, self.over()).await;
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

impl Drop for Serves<'_> {
    fn drop(&mut self) {
        if self.serving.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.serving.none.notify_waiters();
        }
        self.refill.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_the_last_that_is_served_but_not_for_ever() {
        let (serving, refill) = (Serving::default(), Notify::new());
        let start = tokio::time::Instant::now();
        serving.give_way().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        let (one, two) = (serving.begin(&refill), serving.begin(&refill));
        let first_over = async {
            drop(one);
            tokio::task::yield_now().await;
            assert_eq!(start.elapsed(), Duration::ZERO);
            drop(two);
        };
        tokio::join!(serving.give_way(), first_over);
        assert_eq!(start.elapsed(), Duration::ZERO);
        let _hangs = serving.begin(&refill);
        serving.give_way().await;
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test]
    async fn what_was_taken_is_replaced_however_the_spawn_ends() {
        let (serving, refill) = (Serving::default(), Notify::new());
        drop(serving.begin(&refill));
        refill.notified().await;
    }
}
