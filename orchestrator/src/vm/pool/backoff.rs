//! Waits after failures: exponential, jittered, bounded.

use std::time::Duration;

use super::clock::Now;

/// Shortest and longest wait after a failure; it doubles in between.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(250);
pub(super) const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// By how much of itself a wait or an age is shortened at most, by jitter: what was begun together
/// must not be repeated together.
pub(super) const JITTER: f64 = 0.2;

/// When something that failed is tried again.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Now,
}

impl Backoff {
    /// When it may be tried again; in the past if it may be now.
    pub(super) fn until(&self) -> Now {
        self.until
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn failed(&mut self, now: Now, jitter: &mut Jitter) {
        // What failed together, most likely failed for one reason.
        if now < self.until {
            return;
        }
        let factor = 1u32 << self.failures.min(16);
        let wait = FIRST_BACKOFF.saturating_mul(factor).min(LONGEST_BACKOFF);
        self.until = now + jitter.shorten(wait);
        self.failures = self.failures.saturating_add(1);
    }

    /// As a failure, but the first one costs no wait.
    pub(super) fn record_failure(&mut self, now: Now, jitter: &mut Jitter) {
        if self.failures == 0 {
            self.failures = 1;
        } else {
            self.failed(now, jitter);
        }
    }

    /// What had waited since `since` ended by itself. If that is long ago, it is not its start that
    /// it died of.
    pub(super) fn died(&mut self, since: Now, now: Now, jitter: &mut Jitter) {
        if now.saturating_sub(since) >= LONGEST_BACKOFF {
            self.succeeded();
        }
        self.failed(now, jitter);
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }
}

/// Where the jitter comes from.
#[derive(Debug)]
pub(super) struct Jitter(fastrand::Rng);

impl Jitter {
    pub(super) fn of(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub(super) fn shorten(&mut self, time: Duration) -> Duration {
        // An age may be as long as a number can be.
        Duration::try_from_secs_f64(time.as_secs_f64() * (1.0 - JITTER * self.0.f64()))
            .map_or(time, |shorter| shorter.min(time))
    }
}
