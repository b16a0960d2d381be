//! Limits the pace at which a guest is read.
//!
//! A frame of one byte costs us about as much as one of a chunk, and its guest nearly nothing: read
//! as fast as they come, such frames would take a processor from all other VMs. So the rate of
//! frames is limited, above what a guest needs that reads its commands' pipes, and credit bounds
//! the bytes.

use std::time::Duration;

use tokio::time::Instant;

/// Limit of frames per second, in the long run.
const FRAMES_PER_SECOND: u32 = 100_000;
/// The part of it that may come at once.
const BURST: Duration = Duration::from_millis(100);
/// Shorter waits are added to the next one.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// The pace of one guest.
#[derive(Debug)]
pub(super) struct Pace {
    /// The time by which its frames would have come at the rate.
    due: Instant,
}

impl Pace {
    pub(super) fn start(now: Instant) -> Self {
        Self { due: now }
    }

    /// Returns the time until which to leave the guest unread after so many frames; `None` to read
    /// on at once.
    pub(super) fn took(&mut self, frames: u32, now: Instant) -> Option<Instant> {
        self.due = self.due.max(now) + Duration::from_secs(1) * frames / FRAMES_PER_SECOND;
        (self.due > now + BURST + MIN_WAIT).then(|| self.due - BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_read_at_the_rate_and_what_comes_in_bursts_at_once() {
        let start = Instant::now();
        let mut pace = Pace::start(start);
        let mut now = start;
        for _ in 0..1000 {
            if let Some(next) = pace.took(5000, now) {
                now = next;
            }
        }
        let expected = Duration::from_secs(1000 * 5000 / u64::from(FRAMES_PER_SECOND));
        assert!(now - start <= expected && now - start + 2 * BURST >= expected);

        for second in 1..100 {
            let now = now + Duration::from_secs(second);
            assert_eq!(pace.took(FRAMES_PER_SECOND / 10, now), None);
        }
    }
}
