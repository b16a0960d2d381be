//! Points in time in manifests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time, with the precision of the host's clock; one before 1970 counts as 1970, because
/// only order and age matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01 00:00 UTC.
    pub unix_seconds: u64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Tolerance of a clock that was set back, within which nothing counts as from the future.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// More than any age at which something is replaced, and less than for ever.
const OVERDUE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            unix_seconds: since.as_secs(),
            nanoseconds: since.subsec_nanos(),
        }
    }
}

impl Timestamp {
    /// Returns the time of the host's clock.
    #[must_use]
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Returns the time since then; `None` if it is in the future: the clock was wrong then, or is
    /// now, and nobody knows.
    #[must_use]
    pub fn age(self) -> Option<Duration> {
        self.age_at(SystemTime::now())
    }

    fn age_at(self, now: SystemTime) -> Option<Duration> {
        let then = self.to_system_time()?;
        match now.duration_since(then) {
            Ok(age) => Some(age),
            Err(ahead) if ahead.duration() <= CLOCK_TOLERANCE => Some(Duration::ZERO),
            Err(_) => None,
        }
    }

    /// Returns the age for replacing what is old: an unknown age counts as too old.
    #[must_use]
    pub fn age_or_overdue(self) -> Duration {
        self.age().unwrap_or(OVERDUE)
    }

    /// Converts it for `std`; `None` beyond the range of the host's clock.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let seconds = UNIX_EPOCH.checked_add(Duration::from_secs(self.unix_seconds))?;
        seconds.checked_add(Duration::from_nanos(u64::from(self.nanoseconds)))
    }

    /// Returns whether the nanoseconds are in range.
    #[must_use]
    pub fn is_canonical(self) -> bool {
        self.nanoseconds < 1_000_000_000
    }
}
