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

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::backoff::{Backoff, Jitter};
use super::breaker::{Breaker, Off};
use super::budget::{Budget, Claim, Share};
use super::clock::Now;
use super::demand::Demand;
use crate::vm::vm_handle::Origin;

/// Index of a slot, below the pool's size.
pub(crate) type SlotId = usize;

/// The number of a snapshot in this pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation(u64);

/// A VM that was handed out, or is about to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LeaseId(u64);

/// A spawn that waits for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WaiterId(u64);

/// A warm clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CloneId(u64);

/// A task for the pool's driver, which reports its result.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum Action<S, C> {
    /// Give this to the waiting spawn, which stops waiting.
    Grant(WaiterId, Grant<S, C>),
    /// Build a snapshot, then report [`PoolState::built`].
    Build(SlotId),
    /// Restore and prime a clone of this snapshot, then report [`PoolState::restored`].
    Restore(SlotId, Generation, S),
    /// End this clone, which is surplus.
    End(C),
    /// Delete this snapshot, which has no clones and serves no more.
    Delete(S),
}

/// The result of a spawn's admission.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct Grant<S, C> {
    pub(crate) lease: LeaseId,
    /// Its reserved room, for the VM's lifetime.
    pub(crate) share: Share,
    pub(crate) placement: Placement<S, C>,
}

/// The way in which a spawn is served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placement<S, C> {
    /// By a held clone, which belongs to the caller now.
    Warm(C),
    /// By restoring a snapshot.
    Restore(Generation, S),
    /// By a boot.
    Boot,
}

/// The result of a restore.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum Restored<C> {
    /// The clone waits for a spawn; the id is for [`PoolState::died`].
    Warm(CloneId),
    /// The clone is surplus and to be ended.
    Unwanted(C),
    /// The restore failed.
    Failed,
}

/// Numbers of snapshots and clones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) ready: usize,
    pub(crate) building: usize,
    pub(crate) warm: usize,
    pub(crate) restoring: usize,
    pub(crate) leased: usize,
    pub(crate) waiting: usize,
    /// Snapshots that wait for the end of their last clone.
    pub(crate) retired: usize,
}

/// The constant rules of a pool.
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

/// A snapshot and its state.
#[derive(Debug)]
struct Entry<S> {
    snapshot: S,
    /// Number of living clones: being restored, warm or leased.
    clones: usize,
    retired: bool,
    /// Whether a restore failed, through its fault or the VMM's.
    suspected: bool,
}

impl<S> Entry<S> {
    /// Returns whether to delete it. A suspected one may turn out sound, or belong to others.
    fn is_over(&self) -> bool {
        self.retired && self.clones == 0 && !self.suspected
    }
}

#[derive(Debug)]
struct Warm<C> {
    clone: C,
    id: CloneId,
    of: Generation,
    since: Now,
    share: Share,
}

#[derive(Debug)]
struct Slot<C> {
    ready: Option<(Generation, Now)>,
    building: bool,
    build_backoff: Backoff,
    /// Warm clones, the oldest first.
    warm: VecDeque<Warm<C>>,
    restoring: Vec<(Generation, Share)>,
    restore_backoff: Backoff,
}

impl<C> Slot<C> {
    fn empty() -> Self {
        Self {
            ready: None,
            building: false,
            build_backoff: Backoff::default(),
            warm: VecDeque::new(),
            restoring: Vec::new(),
            restore_backoff: Backoff::default(),
        }
    }

    /// Number of clones of the current snapshot that exist or are being restored.
    fn fresh(&self) -> usize {
        let Some((present, _)) = self.ready else {
            return 0;
        };
        let restoring = self.restoring.iter().filter(|(of, _)| *of == present);
        self.warm.len() - self.stale_ones() + restoring.count()
    }

    /// Number of warm clones of former snapshots. They are the first: a clone becomes warm only while
    /// its snapshot is the current one.
    fn stale_ones(&self) -> usize {
        let Some((present, _)) = self.ready else {
            return 0;
        };
        self.warm.partition_point(|warm| warm.of != present)
    }

    /// Takes out a clone of a snapshot that has a successor.
    fn stale(&mut self) -> Option<Warm<C>> {
        let (present, _) = self.ready?;
        let is_stale = self.warm.front().is_some_and(|warm| warm.of != present);
        is_stale.then(|| self.warm.pop_front()).flatten()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the first request: nothing is built yet.
    Lazy,
    Filling,
    Closed,
}

/// The state machine. `S` is a snapshot, `C` a held clone.
#[derive(Debug)]
pub(crate) struct PoolState<S, C> {
    rules: Rules,
    slots: Vec<Slot<C>>,
    snapshots: HashMap<Generation, Entry<S>>,
    /// The snapshot of each VM that was handed out, unless it was booted.
    leases: HashMap<LeaseId, Option<Generation>>,
    waiters: VecDeque<(WaiterId, Claim)>,
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

impl<S: Clone, C> PoolState<S, C> {
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

    /// Adds an existing snapshot of age `age`; returns `false` if every slot has one.
    pub(crate) fn adopt(&mut self, snapshot: S, age: Duration, now: Now) -> bool {
        let vacant = |slot: &Slot<C>| slot.ready.is_none() && !slot.building;
        let Some(at) = self.slots.iter().position(vacant) else {
            return false;
        };
        let life = self.jitter.shorten(self.rules.refresh);
        let expires = now.saturating_add(life.saturating_sub(age));
        self.fill(at, snapshot, expires);
        true
    }

    fn fill(&mut self, at: SlotId, snapshot: S, expires: Now) -> Option<Generation> {
        let generation = Generation(self.number());
        let entry = Entry {
            snapshot,
            clones: 0,
            retired: false,
            suspected: false,
        };
        self.snapshots.insert(generation, entry);
        let old = self.slots[at].ready.replace((generation, expires));
        old.map(|(old, _)| old)
    }

    /// Starts to fill the slots.
    pub(crate) fn activate(&mut self) {
        if self.phase == Phase::Lazy {
            self.phase = Phase::Filling;
        }
    }

    /// Admits a spawn: returns its grant, or a place in the wait queue.
    pub(crate) fn acquire(&mut self, now: Now) -> Result<Grant<S, C>, WaiterId> {
        self.activate();
        self.demand.arrived(now);
        let (budget, guest_mib) = (self.rules.budget.clone(), self.rules.guest_mib);
        if self.waiters.is_empty()
            && let Some(grant) = self.grant(now, || budget.take(guest_mib))
        {
            return Ok(grant);
        }
        let waiter = WaiterId(self.number());
        self.waiters.push_back((waiter, budget.claim(guest_mib)));
        Err(waiter)
    }

    /// Removes a waiting spawn; returns `false` if it was served before.
    pub(crate) fn cancel(&mut self, waiter: WaiterId) -> bool {
        let before = self.waiters.len();
        self.waiters.retain(|(other, _)| *other != waiter);
        self.waiters.len() < before
    }

    /// Creates a lease with the best placement, if there is a warm clone or room for another VM.
    fn grant(&mut self, now: Now, room: impl FnOnce() -> Option<Share>) -> Option<Grant<S, C>> {
        let lease = LeaseId(self.number());
        let (placement, of, share) = match self.take_warm() {
            Some(warm) => (Placement::Warm(warm.clone), Some(warm.of), warm.share),
            None => {
                let share = room()?;
                let (placement, of) = self.restore_or_boot(now);
                (placement, of, share)
            }
        };
        self.leases.insert(lease, of);
        Some(Grant {
            lease,
            share,
            placement,
        })
    }

    /// Records that the VM of this lease serves: its snapshot and its tier work, so earlier
    /// failures are forgotten.
    pub(crate) fn serves(&mut self, lease: LeaseId, tier: Origin) {
        self.breaker(tier).map(Breaker::served);
        let Some(Some(of)) = self.leases.get(&lease) else {
            return;
        };
        let is_its = |slot: &&mut Slot<C>| slot.ready.is_some_and(|(present, _)| present == *of);
        if let Some(slot) = self.slots.iter_mut().find(is_its) {
            slot.build_backoff.succeeded();
            slot.restore_backoff.succeeded();
        }
    }

    /// Returns the best placement from tier `best` down, after the VM of this lease failed.
    pub(crate) fn fall_back(&mut self, lease: LeaseId, best: Origin, now: Now) -> Placement<S, C> {
        let warm = (best == Origin::Warm).then(|| self.take_warm()).flatten();
        let (placement, of) = match warm {
            Some(warm) => (Placement::Warm(warm.clone), Some(warm.of)),
            None => self.restore_or_boot(now),
        };
        self.rebind(lease, of);
        placement
    }

    fn breaker(&mut self, tier: Origin) -> Option<&mut Breaker> {
        match tier {
            Origin::Warm => Some(&mut self.warm_tier),
            Origin::Restored => Some(&mut self.restored_tier),
            Origin::ColdBooted => None,
        }
    }

    /// Records that a tier failed to serve, or that a warm clone failed to get ready. Returns for
    /// how long the tier is off, if it was switched off by this.
    pub(crate) fn tier_failed(
        &mut self,
        tier: Origin,
        reason: &'static str,
        now: Now,
    ) -> Option<Off> {
        self.breaker(tier)?.failed(reason, now)
    }

    /// Returns the tiers that are off.
    pub(crate) fn off(&self) -> impl Iterator<Item = (Origin, Off)> {
        let tiers = [
            (Origin::Warm, &self.warm_tier),
            (Origin::Restored, &self.restored_tier),
        ];
        let off = tiers.map(|(tier, breaker)| Some((tier, breaker.off()?)));
        off.into_iter().flatten()
    }

    /// Records that a boot will serve the lease.
    pub(crate) fn fall_back_to_boot(&mut self, lease: LeaseId) {
        self.rebind(lease, None);
    }

    fn rebind(&mut self, lease: LeaseId, of: Option<Generation>) {
        let Some(leased) = self.leases.get_mut(&lease) else {
            return;
        };
        if let Some(before) = std::mem::replace(leased, of) {
            self.clone_ended(before);
        }
    }

    fn turns(&self) -> impl Iterator<Item = SlotId> + use<S, C> {
        let (next, size) = (self.next, self.slots.len());
        (0..size).map(move |step| (next + step) % size)
    }

    /// Takes a warm clone; the slots take turns. Clones of a tier that is off are being ended.
    fn take_warm(&mut self) -> Option<Warm<C>> {
        if !self.warm_tier.is_used() {
            return None;
        }
        let at = self.turns().find(|at| !self.slots[*at].warm.is_empty())?;
        self.next = (at + 1) % self.slots.len();
        self.slots[at].warm.pop_front()
    }

    fn restore_or_boot(&mut self, now: Now) -> (Placement<S, C>, Option<Generation>) {
        if !self.restored_tier.admits(now) {
            return (Placement::Boot, None);
        }
        let ready = self.turns().find_map(|at| Some((at, self.sound(at)?)));
        let Some((at, generation)) = ready else {
            return (Placement::Boot, None);
        };
        self.next = (at + 1) % self.slots.len();
        self.restored_tier.begins(now);
        match self.clone_begun(generation) {
            Some(snapshot) => (Placement::Restore(generation, snapshot), Some(generation)),
            None => (Placement::Boot, None),
        }
    }

    /// Returns the slot's snapshot, if it can serve.
    fn sound(&self, at: SlotId) -> Option<Generation> {
        let (present, _) = self.slots[at].ready?;
        (!self.is_suspected(present)).then_some(present)
    }

    fn is_suspected(&self, of: Generation) -> bool {
        self.snapshots.get(&of).is_some_and(|entry| entry.suspected)
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

    /// Creates a lease of a VM that is of none of the snapshots here.
    pub(crate) fn lease_beside(&mut self) -> LeaseId {
        let lease = LeaseId(self.number());
        self.leases.insert(lease, None);
        lease
    }

    /// Ends a lease: the VM ended, or was never made.
    pub(crate) fn released(&mut self, lease: LeaseId) {
        if let Some(Some(of)) = self.leases.remove(&lease) {
            self.clone_ended(of);
        }
    }

    /// Returns the actions to start now; each is returned once.
    pub(crate) fn actions(&mut self, now: Now) -> Vec<Action<S, C>> {
        let mut actions = Vec::new();
        while let Some((waiter, claim)) = self.waiters.pop_front() {
            let Some(grant) = self.grant(now, || claim.take()) else {
                self.waiters.push_front((waiter, claim));
                break;
            };
            actions.push(Action::Grant(waiter, grant));
        }
        self.evict_for_waiters(&mut actions);
        if self.phase == Phase::Filling {
            self.build(now, &mut actions);
            self.evict_surplus(now, &mut actions);
            self.refill(now, &mut actions);
        }
        let over = |_: &Generation, entry: &mut Entry<S>| entry.is_over();
        let over = self.snapshots.extract_if(over);
        actions.extend(over.map(|(_, entry)| Action::Delete(entry.snapshot)));
        actions
    }

    /// Evicts warm clones if spawns of any pool wait for their room.
    fn evict_for_waiters(&mut self, actions: &mut Vec<Action<S, C>>) {
        while self.rules.budget.is_short() {
            let fullest = self.slots.iter_mut().max_by_key(|slot| slot.warm.len());
            let Some(warm) = fullest.and_then(|slot| slot.warm.pop_front()) else {
                return;
            };
            self.end(warm, actions);
        }
    }

    fn build(&mut self, now: Now, actions: &mut Vec<Action<S, C>>) {
        let mut building = self.slots.iter().filter(|slot| slot.building).count();
        // Missing snapshots come before old ones, of which one at a time is replaced.
        for at in 0..self.slots.len() {
            let is_missing = self.sound(at).is_none();
            let slot = &mut self.slots[at];
            if is_missing
                && !slot.building
                && slot.build_backoff.until() <= now
                && building < self.rules.builds
            {
                slot.building = true;
                building += 1;
                actions.push(Action::Build(at));
            }
        }
        let due = |slot: &Slot<C>| {
            !slot.building
                && slot.build_backoff.until() <= now
                && slot.ready.is_some_and(|(_, expires)| expires <= now)
        };
        if building == 0
            && let Some(at) = self.slots.iter().position(due)
        {
            self.slots[at].building = true;
            actions.push(Action::Build(at));
        }
    }

    /// Returns the intended number of warm clones in each slot.
    fn quotas(&self, now: Now) -> Vec<usize> {
        let Rules {
            size,
            min_warm,
            max_warm,
            ..
        } = self.rules;
        let target = if min_warm < max_warm {
            self.demand.peak(now).clamp(min_warm, max_warm)
        } else {
            max_warm
        };
        let target = match (self.warm_tier.is_used(), self.warm_tier.admits(now)) {
            (true, _) => target,
            // A single one, to try whether the tier works again.
            (false, true) => target.min(1),
            (false, false) => 0,
        };
        (0..size)
            .map(|at| target / size + usize::from(at < target % size))
            .collect()
    }

    /// Evicts surplus clones, those of former snapshots first.
    fn evict_surplus(&mut self, now: Now, actions: &mut Vec<Action<S, C>>) {
        for (at, quota) in self.quotas(now).into_iter().enumerate() {
            while self.slots[at].warm.len() > quota {
                let slot = &mut self.slots[at];
                let Some(warm) = slot.stale().or_else(|| slot.warm.pop_front()) else {
                    break;
                };
                self.end(warm, actions);
            }
        }
    }

    fn end(&mut self, warm: Warm<C>, actions: &mut Vec<Action<S, C>>) {
        self.clone_ended(warm.of);
        actions.push(Action::End(warm.clone));
    }

    fn refill(&mut self, now: Now, actions: &mut Vec<Action<S, C>>) {
        // The room belongs to the waiters.
        if !self.waiters.is_empty() {
            return;
        }
        let mut missing: Vec<_> = self.quotas(now).into_iter().enumerate().collect();
        missing.retain(|(at, _)| {
            self.slots[*at].restore_backoff.until() <= now && self.sound(*at).is_some()
        });
        let mut fresh: Vec<_> = self.slots.iter().map(Slot::fresh).collect();
        // One for each slot before a second one for any.
        loop {
            missing.retain(|(at, quota)| fresh[*at] < *quota);
            let Some(&(at, _)) = missing.iter().min_by_key(|(at, _)| fresh[*at]) else {
                return;
            };
            let begun = self.sound(at).and_then(|generation| {
                let share = self.room(at, actions)?;
                let snapshot = self.clone_begun(generation)?;
                Some((generation, share, snapshot))
            });
            let Some((generation, share, snapshot)) = begun else {
                missing.retain(|(other, _)| *other != at);
                continue;
            };
            self.warm_tier.begins(now);
            self.slots[at].restoring.push((generation, share));
            fresh[at] += 1;
            actions.push(Action::Restore(at, generation, snapshot));
        }
    }

    /// Reserves room for a clone; a snapshot's successor may take that of the former's clone.
    fn room(&mut self, at: SlotId, actions: &mut Vec<Action<S, C>>) -> Option<Share> {
        let Rules {
            budget, guest_mib, ..
        } = &self.rules;
        if let Some(share) = budget.take(*guest_mib) {
            return Some(share);
        }
        let Warm {
            clone, of, share, ..
        } = self.slots[at].stale()?;
        self.clone_ended(of);
        actions.push(Action::End(clone));
        Some(share)
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

    /// Returns the maximum age of another process's snapshot that may replace a build here: a
    /// successor must have most of its life before it, and one for a requested refresh must be
    /// younger than the request.
    pub(crate) fn oldest_successor(&self, at: SlotId, now: Now) -> Duration {
        match self.slots[at].ready {
            None => self.rules.refresh,
            Some(_) => match self.asked {
                Some(asked) => now.saturating_sub(asked).min(self.rules.refresh / 2),
                None => self.rules.refresh / 2,
            },
        }
    }

    /// Records the end of a build.
    pub(crate) fn built(&mut self, at: SlotId, snapshot: Option<S>, now: Now) {
        self.filled(at, snapshot, Duration::ZERO, now);
    }

    /// Records that another process's snapshot, of age `age`, replaces a build.
    pub(crate) fn found(&mut self, at: SlotId, snapshot: S, age: Duration, now: Now) {
        let is_young = |(_, expires): (Generation, Now)| expires > now;
        if self.sound(at).is_some() && self.slots[at].ready.is_some_and(is_young) {
            // The slot's snapshot was suspected at the start of the search, and serves again now.
            self.slots[at].building = false;
            return;
        }
        self.filled(at, Some(snapshot), age, now);
    }

    fn filled(&mut self, at: SlotId, snapshot: Option<S>, age: Duration, now: Now) {
        let life = self.jitter.shorten(self.rules.refresh).saturating_sub(age);
        let slot = &mut self.slots[at];
        slot.building = false;
        let Some(snapshot) = snapshot else {
            slot.build_backoff.failed(now, &mut self.jitter);
            return;
        };
        // Not known yet whether it is any good.
        slot.restore_backoff.succeeded();
        self.restored_tier.works();
        let old = self.fill(at, snapshot, now.saturating_add(life));
        // Its warm clones serve until those of the new one are there.
        if let Some(entry) = old.and_then(|old| self.snapshots.get_mut(&old)) {
            entry.retired = true;
        }
    }

    /// Records the end of a restore.
    pub(crate) fn restored(
        &mut self,
        at: SlotId,
        of: Generation,
        clone: Option<C>,
        now: Now,
    ) -> Restored<C> {
        let id = CloneId(self.number());
        let slot = &mut self.slots[at];
        let begun = slot.restoring.iter().position(|(other, _)| *other == of);
        let Some((_, share)) = begun.map(|begun| slot.restoring.swap_remove(begun)) else {
            return clone.map_or(Restored::Failed, Restored::Unwanted);
        };
        let Some(clone) = clone else {
            slot.restore_backoff.failed(now, &mut self.jitter);
            self.clone_ended(of);
            return Restored::Failed;
        };
        // It was restored, held and released, and answered.
        self.restored_tier.works();
        self.warm_tier.works();
        let slot = &mut self.slots[at];
        if self.phase == Phase::Closed || slot.ready.is_none_or(|(present, _)| present != of) {
            self.clone_ended(of);
            return Restored::Unwanted(clone);
        }
        slot.warm.push_back(Warm {
            clone,
            id,
            of,
            since: now,
            share,
        });
        Restored::Warm(id)
    }

    /// Records the end of a warm clone; returns what is left of it, if it was still here.
    pub(crate) fn died(&mut self, id: CloneId, now: Now) -> Option<C> {
        let (slot, at) = self.slots.iter_mut().find_map(|slot| {
            let at = slot.warm.iter().position(|warm| warm.id == id)?;
            Some((slot, at))
        })?;
        let warm = slot.warm.remove(at)?;
        slot.restore_backoff.died(warm.since, now, &mut self.jitter);
        self.clone_ended(warm.of);
        Some(warm.clone)
    }

    /// Gives up a faulty snapshot, if it is still here. Rebuilds it at once the first time, and
    /// after growing backoffs if successors fail alike. Returns its warm clones, to be ended.
    pub(crate) fn discard(&mut self, generation: Generation, now: Now) -> Vec<C> {
        self.suspect(generation, now);
        if let Some(entry) = self.snapshots.get_mut(&generation) {
            entry.suspected = false;
        }
        self.retire(generation)
    }

    fn retire(&mut self, generation: Generation) -> Vec<C> {
        let Some(entry) = self.snapshots.get_mut(&generation) else {
            return Vec::new();
        };
        entry.retired = true;
        let mut ended = Vec::new();
        for slot in &mut self.slots {
            slot.ready.take_if(|(present, _)| *present == generation);
            let (faulty, sound) = std::mem::take(&mut slot.warm)
                .into_iter()
                .partition(|warm| warm.of == generation);
            slot.warm = sound;
            ended.extend::<VecDeque<Warm<C>>>(faulty);
        }
        for _ in &ended {
            self.clone_ended(generation);
        }
        ended.into_iter().map(|warm| warm.clone).collect()
    }

    /// Suspects a snapshot whose restore failed, through its fault or the VMM's: it serves nobody,
    /// and its successor is built like that of a given up one, until the cause is known.
    pub(crate) fn suspect(&mut self, generation: Generation, now: Now) {
        let entry = self.snapshots.get_mut(&generation);
        // One with a successor is about to be deleted in any case.
        let Some(entry) = entry.filter(|entry| !entry.suspected && !entry.retired) else {
            return;
        };
        entry.suspected = true;
        let is_its = |slot: &&mut Slot<C>| slot.ready.is_some_and(|(it, _)| it == generation);
        if let Some(slot) = self.slots.iter_mut().find(is_its) {
            slot.build_backoff.record_failure(now, &mut self.jitter);
        }
    }

    /// Records that a VM started, so the VMM works: gives up the suspected snapshots. Returns their
    /// warm clones, to be ended.
    pub(crate) fn vmm_works(&mut self) -> Vec<C> {
        let mut given_up = Vec::new();
        for (generation, entry) in &mut self.snapshots {
            if std::mem::take(&mut entry.suspected) {
                given_up.push(*generation);
            }
        }
        let ended = given_up.into_iter().map(|it| self.retire(it));
        ended.flatten().collect()
    }

    /// Records that a boot failed, so failed restores prove nothing: the suspected snapshots serve
    /// again.
    pub(crate) fn vmm_fails(&mut self) {
        // One that another process's snapshot has replaced is left for others to find.
        self.snapshots
            .retain(|_, entry| !(std::mem::take(&mut entry.suspected) && entry.retired));
    }

    /// Returns whether the successor of a snapshot given up now is built at once.
    pub(crate) fn heals(&self, generation: Generation) -> bool {
        let is_its = |slot: &&Slot<C>| slot.ready.is_some_and(|(present, _)| present == generation);
        let slot = self.slots.iter().find(is_its);
        slot.is_none_or(|slot| !slot.build_backoff.has_failed())
    }

    /// Requests a successor for every snapshot, one after the other.
    pub(crate) fn refresh(&mut self, now: Now) {
        self.asked = Some(now);
        self.activate();
        for slot in &mut self.slots {
            if let Some((_, expires)) = &mut slot.ready {
                *expires = now.min(*expires);
            }
        }
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

    /// Returns whether every slot has its snapshot, and its warm clones as far as there is room.
    pub(crate) fn is_full(&self, now: Now) -> bool {
        let quotas = self.quotas(now);
        let is_settled =
            |at: SlotId| self.sound(at).is_some() && self.slots[at].restoring.is_empty();
        if !(0..quotas.len()).all(is_settled) {
            return false;
        }
        let has_all = |(slot, quota): (&Slot<C>, &usize)| slot.fresh() >= *quota;
        let Rules {
            budget, guest_mib, ..
        } = &self.rules;
        self.slots.iter().zip(&quotas).all(has_all) || !budget.has_room(*guest_mib)
    }

    /// Returns whether no snapshot is too old, being built, or retired.
    pub(crate) fn is_fresh(&self, now: Now) -> bool {
        let is_fresh = |slot: &Slot<C>| {
            let of_its_own = slot
                .ready
                .filter(|(present, _)| !self.is_suspected(*present));
            !slot.building && of_its_own.is_some_and(|(_, expires)| expires > now)
        };
        !self.snapshots.values().any(Entry::is_over) && self.slots.iter().all(is_fresh)
    }

    /// Returns the ready snapshots.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &S> {
        let present = self.present();
        let sound = present.filter(|(generation, _)| !self.is_suspected(*generation));
        sound.map(|(_, snapshot)| snapshot)
    }

    /// Returns the snapshots in slots with their generations, ready or suspected.
    pub(crate) fn present(&self) -> impl Iterator<Item = (Generation, &S)> {
        let present = self.slots.iter().filter_map(|slot| slot.ready);
        present.filter_map(|(generation, _)| {
            Some((generation, &self.snapshots.get(&generation)?.snapshot))
        })
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
