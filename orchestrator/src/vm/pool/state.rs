//! The pool's policy, as a state machine without I/O and without a clock: events and `now` go in,
//! actions come out.
//!
//! The pool has as many slots as it has snapshots. A slot holds a snapshot and warm clones of
//! it:
//!
//! ```text
//!  snapshot:  missing ──▶ building ──▶ ready ──▶ ready, successor building ──▶ ready (new)
//!                ▲            │                            │
//!                └── backoff ─┴────── failed ◀─────────────┘ (the old one stays)
//!                                      the old: retired ── last clone gone ──▶ deleted
//!
//!  clone:     wanted ──▶ restoring ──▶ warm ──▶ leased ──▶ released
//!                ▲           │          │
//!                └─ backoff ─┴─ failed, ┴ died
//!
//!  spawn:     ──▶ leased at once, or waiting in line ──▶ leased, or cancelled
//! ```
//!
//! - A spawn waits for room alone, never for a build or a restore. Waiters are served first come
//!   first served, and warm clones are evicted for waiters of other pools.
//! - Only a successful spawn resets a backoff; a build or a restore of the pool's own does not.
//! - A snapshot is deleted when it has a successor and no clone.
//! - A snapshot whose restore failed is suspected: it serves nobody and gets a successor. It is
//!   given up when another VM starts, because then the VMM works and the snapshot was at fault; it
//!   serves again when a boot fails as well.
//! - A tier that keeps failing is off for a while (see `breaker`): the next tier serves at once.

mod action;
mod admission;
mod refill;
mod slot;
mod snapshots;
mod suspicion;

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::backoff::Jitter;
use super::breaker::Breaker;
use super::budget::{Budget, Reservation};
use super::clock::Now;
use super::demand::Demand;

pub(crate) use action::{Action, Counts, Grant, LeaseId, Placement, Restored, WaiterId};
pub(crate) use slot::{Generation, SlotId};
use slot::{PooledSnapshot, Slot};

/// The rules of a pool, which are constant but for the number of warm clones.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Number of slots, each with a snapshot.
    pub(crate) size: usize,
    /// The minimum and maximum of warm clones.
    pub(crate) min_warm: usize,
    pub(crate) max_warm: usize,
    /// The age at which a snapshot gets a successor.
    pub(crate) refresh: Duration,
    /// Limit of concurrent builds.
    pub(crate) builds: usize,
    /// Memory of a guest.
    pub(crate) guest_mib: u64,
    /// The budget of all VMs.
    pub(crate) budget: Budget,
    /// The seed of the jitter, which spreads simultaneous events.
    pub(crate) seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the first request: nothing is built yet.
    Lazy,
    Filling,
    Closed,
}

/// The state machine. `S` is a snapshot, `C` a held clone, `W` the way to tell a waiting spawn.
#[derive(Debug)]
pub(crate) struct PoolState<S, C, W = WaiterId> {
    rules: Rules,
    slots: Vec<Slot<C>>,
    snapshots: HashMap<Generation, PooledSnapshot<S>>,
    /// The snapshot of each VM that was handed out, unless it was booted.
    leases: HashMap<LeaseId, Option<Generation>>,
    /// Spawns that wait for room, the longest first.
    waiters: VecDeque<Waiting<W>>,
    demand: Demand,
    jitter: Jitter,
    warm_tier: Breaker,
    restored_tier: Breaker,
    next: SlotId,
    phase: Phase,
    /// The time of the last request for a refresh.
    asked: Option<Now>,
    numbers: u64,
}

/// A spawn that waits for room.
#[derive(Debug)]
struct Waiting<W> {
    id: WaiterId,
    /// Its place among those of all pools.
    reservation: Reservation,
    channel: W,
}

impl<S: Clone, C, W> PoolState<S, C, W> {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            slots: std::iter::repeat_with(Slot::empty)
                .take(rules.size)
                .collect(),
            snapshots: HashMap::new(),
            leases: HashMap::new(),
            waiters: VecDeque::new(),
            demand: Demand::up_to(rules.max_warm),
            jitter: Jitter::of(rules.seed),
            warm_tier: Breaker::default(),
            restored_tier: Breaker::default(),
            next: 0,
            phase: Phase::Lazy,
            asked: None,
            numbers: 0,
            rules,
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Keeps at least `min` and at most `max` warm clones from now on.
    pub(crate) fn set_warm(&mut self, min: usize, max: usize) {
        (self.rules.min_warm, self.rules.max_warm) = (min, max);
        self.demand.set_most(max);
    }

    /// Returns the minimum and the maximum of warm clones.
    pub(crate) fn warm_range(&self) -> RangeInclusive<usize> {
        self.rules.min_warm..=self.rules.max_warm
    }

    /// Starts to fill the slots.
    pub(crate) fn activate(&mut self) {
        if self.phase == Phase::Lazy {
            self.phase = Phase::Filling;
        }
    }

    /// Returns the actions to start now; each is returned once.
    pub(crate) fn actions(&mut self, now: Now) -> Vec<Action<S, C, W>> {
        let mut actions = Vec::new();
        while let Some(waiting) = self.waiters.pop_front() {
            let Some(grant) = self.grant(now, || waiting.reservation.take()) else {
                self.waiters.push_front(waiting);
                break;
            };
            actions.push(Action::Grant(waiting.channel, grant));
        }
        self.evict_for_waiters(&mut actions);
        if self.phase == Phase::Filling {
            self.build(now, &mut actions);
            self.evict_surplus(now, &mut actions);
            self.refill(now, &mut actions);
        }
        let over = |_: &Generation, entry: &mut PooledSnapshot<S>| entry.is_over();
        let over = self.snapshots.extract_if(over);
        actions.extend(over.map(|(_, entry)| Action::Delete(entry.snapshot)));
        actions
    }

    fn turns(&self) -> impl Iterator<Item = SlotId> + use<S, C, W> {
        let (next, size) = (self.next, self.slots.len());
        (0..size).map(move |step| (next + step) % size)
    }

    fn clone_begun(&mut self, of: Generation) -> Option<S> {
        let entry = self.snapshots.get_mut(&of)?;
        entry.clones += 1;
        Some(entry.snapshot.clone())
    }

    fn clone_ended(&mut self, of: Generation) {
        if let Some(entry) = self.snapshots.get_mut(&of) {
            entry.clones -= 1;
        }
    }

    /// Returns when [`actions`](Self::actions) may return more without another event.
    pub(crate) fn next_deadline(&self, now: Now) -> Option<Now> {
        if self.phase != Phase::Filling {
            return None;
        }
        let times = self.slots.iter().flat_map(|slot| {
            let sound = slot
                .ready
                .filter(|(present, _)| !self.is_suspected(*present));
            let expires = sound.map_or(Duration::ZERO, |(_, expires)| expires);
            let build = (!slot.building).then(|| expires.max(slot.build_backoff.until()));
            let restore = slot.ready.map(|_| slot.restore_backoff.until());
            [build, restore]
        });
        let adapts = self.rules.min_warm < self.rules.max_warm;
        let shrinks = adapts.then(|| self.demand.next_change(now)).flatten();
        let trial = self.warm_tier.off().map(|off| off.until);
        // An overdue action waits for the end of a build or a VM, which is an event.
        times
            .flatten()
            .chain(shrinks)
            .chain(trial)
            .filter(|time| *time > now)
            .min()
    }

    pub(crate) fn counts(&self) -> Counts {
        let sum = |count: fn(&Slot<C>) -> usize| self.slots.iter().map(count).sum();
        let ready = (0..self.slots.len()).filter(|at| self.sound(*at).is_some());
        Counts {
            ready: ready.count(),
            building: sum(|slot| usize::from(slot.building)),
            warm: sum(|slot| slot.warm.len()),
            restoring: sum(|slot| slot.restoring.len()),
            leased: self.leases.len(),
            waiting: self.waiters.len(),
            retired: self.snapshots.values().filter(|it| it.retired).count(),
        }
    }

    /// Returns whether a spawn without a warm clone could be restored, in an active pool.
    pub(crate) fn restores(&self) -> bool {
        self.phase == Phase::Filling && self.snapshots().next().is_some()
    }

    pub(crate) fn warm(&self) -> impl Iterator<Item = &C> {
        let slots = self.slots.iter();
        slots.flat_map(|slot| slot.warm.iter().map(|warm| &warm.clone))
    }

    /// Takes out all clones, to be ended, releases all snapshots, and starts nothing more.
    pub(crate) fn drain(&mut self) -> Vec<C> {
        self.phase = Phase::Closed;
        self.waiters.clear();
        let mut drained = Vec::new();
        for at in 0..self.slots.len() {
            while let Some(warm) = self.slots[at].warm.pop_front() {
                self.clone_ended(warm.of);
                drained.push(warm.clone);
            }
        }
        for slot in &mut self.slots {
            slot.ready = None;
            // Operations under way are aborted, and not reported any more.
            slot.restoring.clear();
        }
        self.snapshots.clear();
        drained
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
