//! How long a command's output is waited for after its main process ended.

use std::time::{Duration, Instant};

/// Time between two looks at whether something came.
const LOOK: Duration = Duration::from_millis(50);
/// Looks in a row that find nothing new, after which nothing more comes. Looks are counted, and not
/// time, so that a guest whose processor was taken away for long does not give up at once.
const MAX_QUIET_LOOKS: u32 = 10;
/// Looks after which nothing is waited for although it still comes.
const MAX_LOOKS: u32 = 40;
/// Most bytes that are waited for: what a chain of filters that the command started can have had in
/// its pipes, and no more of what never ends.
const MAX_BYTES: u64 = 1024 * 1024;

/// The wait for processes that the command left behind and that still have its output: a filter that
/// has not written all, or a service that never will. The end of the output ends it at once.
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

    /// When the next look is due.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Output came; whether that was all that is waited for.
    pub(crate) fn came(&mut self, bytes: u64) -> bool {
        self.heard = true;
        self.left = self.left.saturating_sub(bytes);
        self.left == 0
    }

    /// Looks whether something came; whether the wait is over. While the host takes nothing, that
    /// nothing comes has another reason.
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

    /// Looks until the end, with output of so many bytes before each look, if any.
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
