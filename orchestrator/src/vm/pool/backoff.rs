//! Backoffs after failures: exponential, jittered, bounded.

use std::time::Duration;

use super::clock::Now;

/// The first and the longest backoff; it doubles in between.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(250);
pub(super) const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// The maximum part by which jitter shortens a backoff or an age: simultaneous events must not be
/// repeated simultaneously.
pub(super) const JITTER: f64 = 0.2;

/// The backoff of an operation that may fail.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Now,
}

impl Backoff {
    /// Returns when to try again; in the past if now.
    pub(super) fn until(&self) -> Now {
        self.until
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn failed(&mut self, now: Now, jitter: &mut Jitter) {
        // Failures within one backoff most likely have one reason.
        if now < self.until {
            return;
        }
        let factor = 1u32 << self.failures.min(16);
        let wait = FIRST_BACKOFF.saturating_mul(factor).min(LONGEST_BACKOFF);
        self.until = now + jitter.shorten(wait);
        self.failures = self.failures.saturating_add(1);
    }

    /// Records a failure, of which the first one causes no backoff.
    pub(super) fn record_failure(&mut self, now: Now, jitter: &mut Jitter) {
        if self.failures == 0 {
            self.failures = 1;
        } else {
            self.failed(now, jitter);
        }
    }

    /// Records the end of something that had been ready since `since`. If that is long ago, it does
    /// not count as a failed start.
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

/// The source of the jitter.
#[derive(Debug)]
pub(super) struct Jitter(fastrand::Rng);

impl Jitter {
    pub(super) fn of(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub(super) fn shorten(&mut self, time: Duration) -> Duration {
        // An age may be the maximum of its type.
        Duration::try_from_secs_f64(time.as_secs_f64() * (1.0 - JITTER * self.0.f64()))
            .map_or(time, |shorter| shorter.min(time))
    }
}
