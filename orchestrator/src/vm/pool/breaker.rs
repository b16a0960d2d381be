//! The circuit breaker of a tier, as a state machine without I/O and without a clock.
//!
//! ```text
//!            so many equal failures in a row              the time is over
//!   used ─────────────────────────────────────▶ off ──────────────────────▶ on trial
//!    ▲                                           ▲                           │   │
//!    │                                           └── failed, a longer time ──┘   │
//!    └───────────────────────────────── works ───────────────────────────────────┘
//! ```
//!
//! A failure costs a spawn the time until it is noticed; a tier that always fails would cost it
//! every spawn. Only a served spawn resets the off time to the shortest.

use std::time::Duration;

use super::clock::Now;

/// Equal failures in a row that switch a tier off.
const MAX_FAILURES: u32 = 3;
/// The first and the longest off time; it doubles in between.
const MIN_OFF_TIME: Duration = Duration::from_secs(15);
const MAX_OFF_TIME: Duration = Duration::from_secs(300);

/// The breaker of one tier.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Number and reason of the failures in a row.
    failures: u32,
    reason: &'static str,
    /// The next off time.
    time: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Used,
    Off { until: Now },
    Trial { until: Now },
}

/// A tier that is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Off {
    /// The reason of the failures.
    pub(crate) reason: &'static str,
    /// The time of the next trial.
    pub(crate) until: Now,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 0,
            reason: "",
            time: MIN_OFF_TIME,
            state: State::Used,
        }
    }
}

impl Breaker {
    /// Returns whether the tier may be used now.
    pub(super) fn admits(&self, now: Now) -> bool {
        match self.state {
            State::Used => true,
            // Also after a trial without a result.
            State::Off { until } | State::Trial { until } => until <= now,
        }
    }

    /// Returns whether using it would not be a trial.
    pub(super) fn is_used(&self) -> bool {
        self.state == State::Used
    }

    /// Records a use that [`admits`](Self::admits) allowed: if the tier was off, this is the trial,
    /// and there is no other one for a while.
    pub(super) fn begins(&mut self, now: Now) {
        if self.state != State::Used {
            let until = now.saturating_add(self.time);
            self.state = State::Trial { until };
        }
    }

    /// Records a failure. Returns for how long the tier is off, if it was switched off by this.
    pub(super) fn failed(&mut self, reason: &'static str, now: Now) -> Option<Off> {
        if reason != self.reason {
            (self.reason, self.failures) = (reason, 0);
        }
        self.failures = self.failures.saturating_add(1);
        let was_used = match self.state {
            // A use from before it was switched off.
            State::Off { .. } => return None,
            State::Used if self.failures < MAX_FAILURES => return None,
            State::Used => true,
            State::Trial { .. } => false,
        };
        let until = now.saturating_add(self.time);
        self.time = self.time.saturating_mul(2).min(MAX_OFF_TIME);
        self.state = State::Off { until };
        was_used.then_some(Off { reason, until })
    }

    /// Records a served spawn.
    pub(super) fn served(&mut self) {
        *self = Self::default();
    }

    /// Records evidence other than a spawn that the tier works: switches it on, but the next
    /// failure switches it off again.
    pub(super) fn works(&mut self) {
        if self.state != State::Used {
            self.state = State::Used;
            self.failures = MAX_FAILURES - 1;
        }
    }

    /// Returns the reason and the end of the off time, if it is off.
    pub(super) fn off(&self) -> Option<Off> {
        match self.state {
            State::Used => None,
            State::Off { until } | State::Trial { until } => Some(Off {
                reason: self.reason,
                until,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Now {
        Duration::from_secs(seconds)
    }

    /// Returns a breaker that was switched off at `now`.
    fn off(now: Now) -> Breaker {
        let mut breaker = Breaker::default();
        for count in 1..=MAX_FAILURES {
            let off = breaker.failed("guest", now);
            assert_eq!(off.is_some(), count == MAX_FAILURES);
        }
        breaker
    }

    #[test]
    fn equal_failures_in_a_row_switch_it_off_and_others_do_not() {
        let mut breaker = Breaker::default();
        for reason in ["guest", "guest", "io", "guest", "guest"] {
            assert_eq!(breaker.failed(reason, at(1)), None);
        }
        breaker.served();
        for _ in 1..MAX_FAILURES {
            assert_eq!(breaker.failed("guest", at(1)), None);
        }
        let until = at(1) + MIN_OFF_TIME;
        let reason = "guest";
        let expected = Off { reason, until };
        assert_eq!(breaker.failed("guest", at(1)), Some(expected));
        assert_eq!(breaker.off(), Some(expected));
        assert!(!breaker.admits(until - at(1)) && breaker.admits(until));
    }

    #[test]
    fn one_at_a_time_tries_it_and_a_trial_that_fails_makes_the_next_wait_longer() {
        let mut breaker = off(at(0));
        let mut waits = Vec::new();
        for _ in 0..8 {
            let Off { until, .. } = breaker.off().unwrap();
            assert!(breaker.admits(until));
            breaker.begins(until);
            assert!(!breaker.admits(until), "another one is under way");
            assert_eq!(breaker.failed("guest", until), None, "it was told already");
            // Uses from before it was switched off are late.
            assert_eq!(breaker.failed("guest", until), None);
            waits.push(breaker.off().unwrap().until - until);
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits.last(), Some(&MAX_OFF_TIME));
    }

    #[test]
    fn a_working_tier_is_used_again_and_only_a_spawn_resets_its_failures() {
        let mut breaker = off(at(0));
        breaker.works();
        assert!(breaker.is_used());
        let Off { until, .. } = breaker.failed("guest", at(100)).unwrap();
        assert_eq!(until, at(100) + MIN_OFF_TIME * 2);
        breaker.served();
        assert!(breaker.is_used());
        for _ in 1..MAX_FAILURES {
            assert_eq!(breaker.failed("guest", at(200)), None);
        }
        // It was not off, so this is no news.
        breaker.works();
        let Off { until, .. } = breaker.failed("guest", at(200)).unwrap();
        assert_eq!(until, at(200) + MIN_OFF_TIME);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Use,
        Fails(&'static str),
        ActiveSpawn,
        Works,
        Later(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Use),
            4 => prop_oneof![Just("guest"), Just("held")].prop_map(Event::Fails),
            1 => Just(Event::ActiveSpawn),
            1 => Just(Event::Works),
            3 => (0..400_000u64).prop_map(Event::Later),
        ]
    }

    proptest! {
        #[test]
        fn it_is_off_for_a_bounded_time_and_serves_as_soon_as_it_works(
            events in proptest::collection::vec(event(), 0..200),
        ) {
            let (mut breaker, mut now) = (Breaker::default(), at(0));
            let mut in_a_row = 0;
            for event in events {
                match event {
                    Event::Use if breaker.admits(now) => breaker.begins(now),
                    Event::Use => {}
                    Event::Fails(reason) => {
                        let was_used = breaker.is_used();
                        in_a_row += 1;
                        if let Some(off) = breaker.failed(reason, now) {
                            prop_assert!(was_used && in_a_row >= MAX_FAILURES);
                            prop_assert_eq!(breaker.off(), Some(off));
                        }
                    }
                    Event::ActiveSpawn => {
                        breaker.served();
                        in_a_row = 0;
                        prop_assert!(breaker.is_used());
                    }
                    Event::Works => {
                        if !breaker.is_used() {
                            in_a_row = MAX_FAILURES - 1;
                        }
                        breaker.works();
                        prop_assert!(breaker.is_used());
                    }
                    Event::Later(millis) => now += Duration::from_millis(millis),
                }
                match breaker.off() {
                    None => prop_assert!(breaker.admits(now)),
                    Some(off) => {
                        prop_assert!(off.until <= now + MAX_OFF_TIME);
                        prop_assert_eq!(breaker.admits(now), off.until <= now);
                    }
                }
            }
        }
    }
}
