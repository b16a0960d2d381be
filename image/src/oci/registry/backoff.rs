//! How often and after which pauses something is tried again.

use std::time::Duration;

/// Attempts that bring nothing, one after the other, before a pull is given up.
pub(super) const MAX_ATTEMPTS: u32 = 5;
/// The first pause; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, also of those that a registry asks for.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Failures, one after the other.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a failure. Returns how long to wait before the next attempt, which is as long as the registry
    /// asked for, if it did; `None` if there is no next one.
    pub(super) fn failed(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.failures += 1;
        let pause = FIRST_PAUSE * (1 << (self.failures - 1).min(16));
        (self.failures < MAX_ATTEMPTS).then(|| asked.unwrap_or(pause).min(MAX_PAUSE))
    }

    /// Notes that something came.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut backoff = Backoff::default();
        let seconds = |pause: Option<Duration>| pause.map(|it| it.as_secs_f64());
        assert_eq!(seconds(backoff.failed(None)), Some(0.5));
        assert_eq!(seconds(backoff.failed(None)), Some(1.0));
        let long = Duration::from_secs(3600);
        assert_eq!(seconds(backoff.failed(Some(long))), Some(30.0));
        assert_eq!(seconds(backoff.failed(None)), Some(4.0));
        assert_eq!(backoff.failed(None), None);
        backoff.reset();
        assert_eq!(seconds(backoff.failed(None)), Some(0.5));
    }
}
