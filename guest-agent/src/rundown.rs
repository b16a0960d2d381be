//! The wait for a command's output after its main process ended.

use std::time::{Duration, Instant};

/// Interval of checks for new output.
const LOOK: Duration = Duration::from_millis(50);
/// Number of checks in a row without new output that end the wait. Counts checks, not time: a guest
/// whose processor was taken away for long must not give up at once.
const MAX_QUIET_LOOKS: u32 = 10;
/// Number of checks that end the wait even if output still comes.
const MAX_LOOKS: u32 = 40;
/// Limit of the bytes waited for: what a chain of filters started by the command can have had in
/// its pipes, and no more from one that never ends.
const MAX_BYTES: u64 = 1024 * 1024;

/// The wait for processes that the command left behind and that still hold its output: a filter
/// that has not written everything, or a service that never will. The end of the output ends it at
/// once.
#[derive(Debug)]
pub(crate) struct Rundown {
    next: Instant,
    quiet: u32,
    looks: u32,
    heard: bool,
    left: u64,
}

impl Rundown {
    pub(crate) fn start(now: Instant) -> Self {
        Self {
            next: now + LOOK,
            quiet: 0,
            looks: 0,
            heard: false,
            left: MAX_BYTES,
        }
    }

    /// Returns the time of the next check.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Counts output; returns whether the limit is reached.
    pub(crate) fn came(&mut self, bytes: u64) -> bool {
        self.heard = true;
        self.left = self.left.saturating_sub(bytes);
        self.left == 0
    }

    /// Checks for new output; returns whether the wait is over. Silence does not count while the
    /// host takes nothing.
    pub(crate) fn look(&mut self, now: Instant, host_takes: bool) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + LOOK;
        if !host_takes {
            return false;
        }
        self.looks += 1;
        self.quiet = if std::mem::take(&mut self.heard) {
            0
        } else {
            self.quiet + 1
        };
        self.quiet >= MAX_QUIET_LOOKS || self.looks >= MAX_LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks until the end, with `bytes` of output before each check, if not 0; returns the number
    /// of checks.
    fn looks(bytes: u64) -> u32 {
        let mut rundown = Rundown::start(Instant::now());
        for look in 1.. {
            if bytes > 0 && rundown.came(bytes) {
                return look;
            }
            let next = rundown.next();
            assert!(!rundown.look(next.checked_sub(LOOK / 2).unwrap(), true));
            if rundown.look(next, true) {
                return look;
            }
        }
        unreachable!("it never ends")
    }

    #[test]
    fn the_wait_ends_when_nothing_comes_or_too_much_or_for_too_long() {
        assert_eq!(looks(0), MAX_QUIET_LOOKS);
        assert_eq!(looks(1), MAX_LOOKS);
        assert_eq!(looks(MAX_BYTES / 4), 4);
    }

    #[test]
    fn output_starts_the_quiet_time_anew() {
        let mut rundown = Rundown::start(Instant::now());
        for _ in 1..MAX_QUIET_LOOKS {
            assert!(!rundown.look(rundown.next(), true));
        }
        assert!(!rundown.came(1));
        for _ in 0..MAX_QUIET_LOOKS {
            assert!(!rundown.look(rundown.next(), true));
        }
        assert!(rundown.look(rundown.next(), true));
    }

    #[test]
    fn a_host_that_takes_nothing_is_waited_for() {
        let mut rundown = Rundown::start(Instant::now());
        for _ in 0..10 * MAX_LOOKS {
            assert!(!rundown.look(rundown.next(), false));
        }
    }
}
