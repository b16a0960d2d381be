//! The pool's policy, as a state machine without I/O and without a clock: events and `now` go in,
//! actions come out.
//!
//! The pool has as many places as it has snapshots. A place holds a snapshot and, if the pool
//! keeps warm clones, one clone of it:
//!
//! ```text
//!  snapshot:  missing ──▶ building ──▶ ready ──▶ ready, successor building ──▶ ready (new)
//!                ▲            │                            │
//!                └── backoff ─┴────── failed ◀─────────────┘ (the old one stays)
//!  clone:     empty ──▶ restoring ──▶ warm ──▶ (leased: out of the pool for ever)
//!                ▲           │          │
//!                └─ backoff ─┴─ failed, ┴ died
//! ```
//!
//! A clone that is handed out leaves the machine, so nothing can hand it out again.

use std::time::Duration;

/// Shortest and longest wait after a failure; it doubles in between.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Number of a place, below the pool's size.
pub(crate) type Place = usize;

/// Time since the pool was opened.
pub(crate) type Now = Duration;

/// Something that the pool's driver has to do, and to report when it is done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action<S> {
    /// Make a snapshot, then report [`Slots::built`].
    Build(Place),
    /// Restore and prime a clone of this snapshot, then report [`Slots::restored`].
    Restore(Place, S),
    /// This snapshot has a successor: delete it when its last clone is gone.
    Retire(S),
}

/// What serves a spawn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Served<S, C> {
    /// A paused clone: it belongs to the caller now.
    Warm(C),
    /// A snapshot to restore.
    Restore(S),
    /// Neither is there: boot.
    Boot,
}

/// How many places are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) ready: usize,
    pub(crate) building: usize,
    pub(crate) warm: usize,
    pub(crate) restoring: usize,
}

/// The rules that do not change while a pool lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Places, each with a snapshot.
    pub(crate) size: usize,
    /// How many of them keep a warm clone.
    pub(crate) warm: usize,
    /// Age at which a snapshot gets a successor.
    pub(crate) refresh: Duration,
    /// Most snapshots that are built at a time.
    pub(crate) builds: usize,
}

#[derive(Debug)]
struct Ready<S> {
    snapshot: S,
    expires: Now,
}

#[derive(Debug)]
enum Warmth<C> {
    Empty,
    Restoring,
    /// The number tells this clone's death from that of an earlier one.
    Warm(C, u64),
}

#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    until: Now,
}

impl Backoff {
    fn failed(&mut self, now: Now) {
        let factor = 1u32 << self.failures.min(16);
        self.until = now + FIRST_BACKOFF.saturating_mul(factor).min(LONGEST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
    }

    fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[derive(Debug)]
struct Spot<S, C> {
    ready: Option<Ready<S>>,
    building: bool,
    build_backoff: Backoff,
    warmth: Warmth<C>,
    restore_backoff: Backoff,
}

/// The state machine. `S` is a snapshot, `C` a paused clone.
#[derive(Debug)]
pub(crate) struct Slots<S, C> {
    rules: Rules,
    places: Vec<Spot<S, C>>,
    next: Place,
    /// Building starts when the first spawn or warm-up asks for it: a pool is lazy.
    wanted: bool,
    clones: u64,
}

impl<S: Clone, C> Slots<S, C> {
    pub(crate) fn new(rules: Rules) -> Self {
        let place = || Spot {
            ready: None,
            building: false,
            build_backoff: Backoff::default(),
            warmth: Warmth::Empty,
            restore_backoff: Backoff::default(),
        };
        let places = std::iter::repeat_with(place).take(rules.size).collect();
        Self {
            rules,
            places,
            next: 0,
            wanted: false,
            clones: 0,
        }
    }

    /// Takes in a snapshot that exists already and is `age` old; `false` if every place has one.
    pub(crate) fn adopt(&mut self, snapshot: S, age: Duration, now: Now) -> bool {
        let expires = now.saturating_add(self.rules.refresh.saturating_sub(age));
        match self
            .places
            .iter_mut()
            .find(|spot| spot.ready.is_none() && !spot.building)
        {
            Some(spot) => {
                spot.ready = Some(Ready { snapshot, expires });
                true
            }
            None => false,
        }
    }

    /// From now on the places are filled.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// Serves a spawn from the best tier there is: the places take turns.
    pub(crate) fn acquire(&mut self) -> Served<S, C> {
        self.wanted = true;
        let order = || (0..self.places.len()).map(|step| (self.next + step) % self.places.len());
        let warm = order().find(|at| matches!(self.places[*at].warmth, Warmth::Warm(..)));
        let ready = warm.or_else(|| order().find(|at| self.places[*at].ready.is_some()));
        let Some(at) = ready else { return Served::Boot };
        self.next = (at + 1) % self.places.len();
        let spot = &mut self.places[at];
        match std::mem::replace(&mut spot.warmth, Warmth::Empty) {
            Warmth::Warm(clone, _) => Served::Warm(clone),
            other => {
                spot.warmth = other;
                match &spot.ready {
                    Some(ready) => Served::Restore(ready.snapshot.clone()),
                    None => Served::Boot,
                }
            }
        }
    }

    /// What is to be done now. Each action is given out once.
    pub(crate) fn actions(&mut self, now: Now) -> Vec<Action<S>> {
        let mut actions = Vec::new();
        if !self.wanted {
            return actions;
        }
        let mut building = self.places.iter().filter(|spot| spot.building).count();
        for (at, spot) in self.places.iter_mut().enumerate() {
            let due = spot.ready.as_ref().is_none_or(|ready| ready.expires <= now);
            if due
                && !spot.building
                && spot.build_backoff.until <= now
                && building < self.rules.builds
            {
                spot.building = true;
                building += 1;
                actions.push(Action::Build(at));
            }
            if at < self.rules.warm
                && matches!(spot.warmth, Warmth::Empty)
                && spot.restore_backoff.until <= now
                && let Some(ready) = &spot.ready
            {
                spot.warmth = Warmth::Restoring;
                actions.push(Action::Restore(at, ready.snapshot.clone()));
            }
        }
        actions
    }

    /// When [`actions`](Self::actions) may have something new without another event.
    pub(crate) fn next_deadline(&self, now: Now) -> Option<Now> {
        if !self.wanted {
            return None;
        }
        let times = self.places.iter().enumerate().flat_map(|(at, spot)| {
            let build = (!spot.building).then(|| {
                spot.ready
                    .as_ref()
                    .map_or(Duration::ZERO, |ready| ready.expires)
                    .max(spot.build_backoff.until)
            });
            let restore = (at < self.rules.warm
                && spot.ready.is_some()
                && matches!(spot.warmth, Warmth::Empty))
            .then_some(spot.restore_backoff.until);
            [build, restore]
        });
        // What is due already waits for a build to end, which is an event.
        times.flatten().filter(|time| *time > now).min()
    }

    /// A build ended.
    pub(crate) fn built(&mut self, at: Place, snapshot: Option<S>, now: Now) -> Option<Action<S>> {
        let expires = now.saturating_add(self.rules.refresh);
        let spot = &mut self.places[at];
        spot.building = false;
        let Some(snapshot) = snapshot else {
            spot.build_backoff.failed(now);
            return None;
        };
        spot.build_backoff.succeeded();
        spot.restore_backoff.succeeded();
        let old = spot.ready.replace(Ready { snapshot, expires })?;
        // A warm clone of the old one is dropped, and so killed: the next one is of the new.
        if let Warmth::Warm(..) = spot.warmth {
            spot.warmth = Warmth::Empty;
        }
        Some(Action::Retire(old.snapshot))
    }

    /// A restore ended. Returns the clone's number, for [`died`](Self::died).
    pub(crate) fn restored(&mut self, at: Place, clone: Option<C>, now: Now) -> Option<u64> {
        let spot = &mut self.places[at];
        match clone {
            Some(clone) => {
                self.clones += 1;
                spot.restore_backoff.succeeded();
                spot.warmth = Warmth::Warm(clone, self.clones);
                Some(self.clones)
            }
            None => {
                spot.restore_backoff.failed(now);
                spot.warmth = Warmth::Empty;
                None
            }
        }
    }

    /// A clone ended while it was warm; `true` if it was here still.
    pub(crate) fn died(&mut self, at: Place, number: u64, now: Now) -> bool {
        let spot = &mut self.places[at];
        let here = matches!(spot.warmth, Warmth::Warm(_, this) if this == number);
        if here {
            spot.warmth = Warmth::Empty;
            spot.restore_backoff.failed(now);
        }
        here
    }

    /// The snapshot at fault, as far as it is here still, is given up and built anew.
    pub(crate) fn discard(&mut self, is_it: impl Fn(&S) -> bool) -> Option<Action<S>> {
        let spot = self.places.iter_mut().find(|spot| {
            spot.ready
                .as_ref()
                .is_some_and(|ready| is_it(&ready.snapshot))
        })?;
        spot.warmth = match std::mem::replace(&mut spot.warmth, Warmth::Empty) {
            Warmth::Restoring => Warmth::Restoring,
            _ => Warmth::Empty,
        };
        spot.ready
            .take()
            .map(|ready| Action::Retire(ready.snapshot))
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for spot in &self.places {
            counts.ready += usize::from(spot.ready.is_some());
            counts.building += usize::from(spot.building);
            counts.warm += usize::from(matches!(spot.warmth, Warmth::Warm(..)));
            counts.restoring += usize::from(matches!(spot.warmth, Warmth::Restoring));
        }
        counts
    }

    /// Whether every place has its snapshot and every warm place its clone.
    pub(crate) fn is_full(&self) -> bool {
        let Counts { ready, warm, .. } = self.counts();
        ready == self.rules.size && warm == self.rules.warm.min(self.rules.size)
    }

    pub(crate) fn warm(&self) -> impl Iterator<Item = &C> {
        self.places.iter().filter_map(|spot| match &spot.warmth {
            Warmth::Warm(clone, _) => Some(clone),
            Warmth::Empty | Warmth::Restoring => None,
        })
    }

    /// Takes out all clones, to be killed.
    pub(crate) fn drain(&mut self) -> Vec<C> {
        self.wanted = false;
        self.places
            .iter_mut()
            .filter_map(
                |spot| match std::mem::replace(&mut spot.warmth, Warmth::Empty) {
                    Warmth::Warm(clone, _) => Some(clone),
                    Warmth::Empty | Warmth::Restoring => None,
                },
            )
            .collect()
    }
}

#[cfg(test)]
mod tests;
