//! Whether a tier is used: a circuit breaker, as a state machine without I/O and without a clock.
//!
//! ```text
//!            so many equal failures in a row              the time is over
//!   used ─────────────────────────────────────▶ off ──────────────────────▶ on trial
//!    ▲                                           ▲                           │   │
//!    │                                           └── failed, a longer time ──┘   │
//!    └───────────────────────────────── works ───────────────────────────────────┘
//! ```
//!
//! A failure costs a spawn the time until it is noticed; a tier that fails each time would cost it
//! every spawn. Only a spawn that was served lets the next time be short again.

use std::time::Duration;

use super::clock::Now;

/// Equal failures in a row that are no coincidence any more.
const MAX_FAILURES: u32 = 3;
/// How long a tier is off, the first time and at most; it doubles in between.
const SHORTEST_OFF: Duration = Duration::from_secs(15);
const LONGEST_OFF: Duration = Duration::from_secs(300);

/// The state machine of one tier.
#[derive(Debug)]
pub(super) struct Breaker {
    /// The failures in a row, and why the last of them failed.
    failures: u32,
    reason: &'static str,
    /// How long the next time is.
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
    /// Why it failed.
    pub(crate) reason: &'static str,
    /// When it is tried again.
    pub(crate) until: Now,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 0,
            reason: "",
            time: SHORTEST_OFF,
            state: State::Used,
        }
    }
}

impl Breaker {
    /// Whether the tier may be used now.
    pub(super) fn admits(&self, now: Now) -> bool {
        match self.state {
            State::Used => true,
            // Of a trial that nothing came of, too.
            State::Off { until } | State::Trial { until } => until <= now,
        }
    }

    /// Whether it may be used without that being a trial.
    pub(super) fn is_used(&self) -> bool {
        self.state == State::Used
    }

    /// The tier is used now, which [`admits`](Self::admits) allowed: if it was off, that is the
    /// trial, and there is no other one for a while.
    pub(super) fn begins(&mut self, now: Now) {
        if self.state != State::Used {
            let until = now.saturating_add(self.time);
            self.state = State::Trial { until };
        }
    }

    /// It failed. Says for how long it is off, if it was used until now.
    pub(super) fn failed(&mut self, reason: &'static str, now: Now) -> Option<Off> {
        if reason != self.reason {
            (self.reason, self.failures) = (reason, 0);
        }
        self.failures = self.failures.saturating_add(1);
        let was_used = match self.state {
            // It was begun before.
            State::Off { .. } => return None,
            State::Used if self.failures < MAX_FAILURES => return None,
            State::Used => true,
            State::Trial { .. } => false,
        };
        let until = now.saturating_add(self.time);
        self.time = self.time.saturating_mul(2).min(LONGEST_OFF);
        self.state = State::Off { until };
        was_used.then_some(Off { reason, until })
    }

    /// It served a spawn.
    pub(super) fn served(&mut self) {
        *self = Self::default();
    }

    /// It works, as far as that can be told without a spawn: if it was off, it is used again, and
    /// off again with the next failure.
    pub(super) fn works(&mut self) {
        if self.state != State::Used {
            self.state = State::Used;
            self.failures = MAX_FAILURES - 1;
        }
    }

    /// If it is off: why, and until when.
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

    /// One that was switched off at `now`.
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
        let until = at(1) + SHORTEST_OFF;
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
            // Those that began before it was off are late.
            assert_eq!(breaker.failed("guest", until), None);
            waits.push(breaker.off().unwrap().until - until);
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits.last(), Some(&LONGEST_OFF));
    }

    #[test]
    fn a_working_tier_is_used_again_and_only_a_spawn_resets_its_failures() {
        let mut breaker = off(at(0));
        breaker.works();
        assert!(breaker.is_used());
        let Off { until, .. } = breaker.failed("guest", at(100)).unwrap();
        assert_eq!(until, at(100) + SHORTEST_OFF * 2);
        breaker.served();
        assert!(breaker.is_used());
        for _ in 1..MAX_FAILURES {
            assert_eq!(breaker.failed("guest", at(200)), None);
        }
        // It was not off, so that says nothing new.
        breaker.works();
        let Off { until, .. } = breaker.failed("guest", at(200)).unwrap();
        assert_eq!(until, at(200) + SHORTEST_OFF);
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
                        prop_assert!(off.until <= now + LONGEST_OFF);
                        prop_assert_eq!(breaker.admits(now), off.until <= now);
                    }
                }
            }
        }
    }
}
