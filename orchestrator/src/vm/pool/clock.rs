//! The clock of a pool.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time since the pool was opened.
pub(crate) type Now = Duration;

/// Counts from the pool's opening, and runs ahead of the host's clock by as much as it was
/// advanced.
#[derive(Debug)]
pub(super) struct Clock {
    opened: Instant,
    ahead_ms: AtomicU64,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            opened: Instant::now(),
            ahead_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> Now {
        self.opened.elapsed().saturating_add(self.ahead())
    }

    /// Returns when it will show `time`; `None` for the far future.
    pub(super) fn reaches(&self, time: Now) -> Option<Instant> {
        self.opened.checked_add(time.saturating_sub(self.ahead()))
    }

    /// Advances it, by a year at most.
    pub(super) fn advance(&self, by: Duration) {
        const YEAR: u64 = 365 * 24 * 3600 * 1000;
        let by = u64::try_from(by.as_millis()).unwrap_or(YEAR).min(YEAR);
        self.ahead_ms.fetch_add(by, Ordering::Relaxed);
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_ahead_brings_what_is_to_come_nearer_and_never_goes_back() {
        const HOUR: Duration = Duration::from_secs(3600);
        let clock = Clock::start();
        let before = clock.now();
        let due = clock.reaches(2 * HOUR).unwrap();
        clock.advance(HOUR);
        assert!(clock.now() >= before + HOUR);
        assert_eq!(due - clock.reaches(2 * HOUR).unwrap(), HOUR);
        assert!(clock.reaches(HOUR).unwrap() <= Instant::now());
        assert_eq!(clock.reaches(Duration::MAX), None);
        clock.advance(Duration::MAX);
        assert!(clock.now() > 8000 * HOUR);
    }
}
