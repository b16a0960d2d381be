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
//! * A clone that is handed out leaves the machine, so nothing can hand it out again.
//! * A spawn waits for room alone, never for a build or a restore; nobody overtakes who waits, and
//!   warm clones end for spawns of other pools that wait.
//! * Only a spawn that succeeded resets a backoff; a build or a restore of the pool's own does not.
//! * A snapshot is deleted when it has a successor and no clone.
//! * A snapshot whose restore failed is suspected: it serves nobody and gets a successor. It is given
//!   up when a VM starts elsewhere, since then it was not the VMM that failed, and is taken back into
//!   use when a boot fails as well.
//! * A tier that fails again and again is not used for a while (see `breaker`): spawns are served by
//!   the next one at once.

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

/// A snapshot of this pool.
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

/// Something that the pool's driver has to do, and to report when it is done.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum Action<S, C> {
    /// Hand this out to the spawn that waits, which waits no more.
    Grant(WaiterId, Grant<S, C>),
    /// Make a snapshot, then report [`PoolState::built`].
    Build(SlotId),
    /// Restore and prime a clone of this snapshot, then report [`PoolState::restored`].
    Restore(SlotId, Generation, S),
    /// End this clone: it is not wanted any more.
    End(C),
    /// Delete this snapshot: it has neither clones nor a future.
    Delete(S),
}

/// What a spawn got.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) struct Grant<S, C> {
    pub(crate) lease: LeaseId,
    /// Its room, for as long as the VM lives.
    pub(crate) share: Share,
    pub(crate) placement: Placement<S, C>,
}

/// What serves a spawn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placement<S, C> {
    /// A paused clone: it belongs to the caller now.
    Warm(C),
    /// A snapshot to restore.
    Restore(Generation, S),
    /// Neither is there: boot.
    Boot,
}

/// What became of a restore.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(crate) enum Restored<C> {
    /// The clone waits for a spawn; the id is for [`PoolState::died`].
    Warm(CloneId),
    /// To be ended: nobody wants the clone any more.
    Unwanted(C),
    /// There is none.
    Failed,
}

/// How many there are of what.
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

/// The rules that do not change while a pool lives.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Places, each with a snapshot.
    pub(crate) size: usize,
    /// Warm clones that are always there, and the most there may be.
    pub(crate) min_warm: usize,
    pub(crate) max_warm: usize,
    /// Age at which a snapshot gets a successor.
    pub(crate) refresh: Duration,
    /// Most snapshots that are built at a time.
    pub(crate) builds: usize,
    /// Memory of a guest.
    pub(crate) guest_mib: u64,
    /// What all VMs together may take.
    pub(crate) budget: Budget,
    /// Of the jitter that spreads what would happen together.
    pub(crate) seed: u64,
}

/// A snapshot, with what there is of it.
#[derive(Debug)]
struct Entry<S> {
    snapshot: S,
    /// Clones that live: being restored, warm or leased.
    clones: usize,
    retired: bool,
    /// A restore of it failed, by it or by the VMM.
    suspected: bool,
}

impl<S> Entry<S> {
    /// Whether it is to be deleted. One that is suspected may yet be sound, and somebody else's.
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
    /// The oldest first.
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

    /// Clones of the present snapshot that are there or on their way.
    fn fresh(&self) -> usize {
        let Some((present, _)) = self.ready else {
            return 0;
        };
        let warm = self.warm.iter().filter(|warm| warm.of == present).count();
        let restoring = self.restoring.iter().filter(|(of, _)| *of == present);
        warm + restoring.count()
    }

    /// Takes out a clone of a snapshot that has a successor.
    fn stale(&mut self) -> Option<Warm<C>> {
        let (present, _) = self.ready?;
        let at = self.warm.iter().position(|warm| warm.of != present)?;
        self.warm.remove(at)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody asked for anything yet, and so nothing is built.
    Lazy,
    Filling,
    Closed,
}

/// The state machine. `S` is a snapshot, `C` a paused clone.
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
    /// When a refresh was last asked for.
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

    /// Takes in a snapshot that exists already and is `age` old; `false` if every slot has one.
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

    /// From now on the slots are filled.
    pub(crate) fn activate(&mut self) {
        if self.phase == Phase::Lazy {
            self.phase = Phase::Filling;
        }
    }

    /// A spawn arrived: it is placed, or waits for room.
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

    /// A spawn that waited went away; `false` if it had been served before.
    pub(crate) fn cancel(&mut self, waiter: WaiterId) -> bool {
        let before = self.waiters.len();
        self.waiters.retain(|(other, _)| *other != waiter);
        self.waiters.len() < before
    }

    /// A lease for the best that there is, if there is a clone or room for another VM.
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

    /// The VM of this lease serves, so what it came from is sound, and so is the tier: failures
    /// before are history.
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

    /// The VM that was to serve this lease failed: the best that there is now, from `best` on.
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

    /// A tier failed to serve, or, of warm clones, to be ready for that. Says for how long it is not
    /// used, if that begins now.
    pub(crate) fn tier_failed(
        &mut self,
        tier: Origin,
        reason: &'static str,
        now: Now,
    ) -> Option<Off> {
        self.breaker(tier)?.failed(reason, now)
    }

    /// The tiers that are not used.
    pub(crate) fn off(&self) -> impl Iterator<Item = (Origin, Off)> {
        let tiers = [
            (Origin::Warm, &self.warm_tier),
            (Origin::Restored, &self.restored_tier),
        ];
        let off = tiers.map(|(tier, breaker)| Some((tier, breaker.off()?)));
        off.into_iter().flatten()
    }

    /// The lease will be served by a boot.
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

    /// The slots take turns. Those of a tier that is off are about to end.
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

    /// The place's snapshot, if it can serve.
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

    /// The VM of this lease ended, or never came to be.
    pub(crate) fn released(&mut self, lease: LeaseId) {
        if let Some(Some(of)) = self.leases.remove(&lease) {
            self.clone_ended(of);
        }
    }

    /// What is to be done now. Each action is given out once.
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

    /// A spawn that waits, in whatever pool, needs the room more than a warm clone does.
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
        // What is missing comes before what is old, of which one at a time is replaced.
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

    /// How many warm clones each slot should have.
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
            // One that tries whether it works again.
            (false, true) => target.min(1),
            (false, false) => 0,
        };
        (0..size)
            .map(|at| target / size + usize::from(at < target % size))
            .collect()
    }

    /// Ends the clones that are too many, those of former snapshots first.
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
        // The room is for those who wait.
        if !self.waiters.is_empty() {
            return;
        }
        let quotas = self.quotas(now);
        // One for each slot before a second one for any.
        for round in 0..quotas.iter().max().copied().unwrap_or(0) {
            for (at, quota) in quotas.iter().enumerate() {
                let slot = &self.slots[at];
                if round >= *quota || slot.fresh() > round || slot.restore_backoff.until() > now {
                    continue;
                }
                let Some(generation) = self.sound(at) else {
                    continue;
                };
                let Some(share) = self.room(at, actions) else {
                    continue;
                };
                if let Some(snapshot) = self.clone_begun(generation) {
                    self.warm_tier.begins(now);
                    self.slots[at].restoring.push((generation, share));
                    actions.push(Action::Restore(at, generation, snapshot));
                }
            }
        }
    }

    /// Room for a clone: the successor of a snapshot may take that of the former.
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

    /// When [`actions`](Self::actions) may have something new without another event.
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
        // What is due already waits for a build or a VM to end, which are events.
        times
            .flatten()
            .chain(shrinks)
            .chain(trial)
            .filter(|time| *time > now)
            .min()
    }

    /// How old a snapshot of another process may be to take the place of one that is built: a
    /// successor has most of its life before it, and one that was asked for is younger than that
    /// request.
    pub(crate) fn oldest_successor(&self, at: SlotId, now: Now) -> Duration {
        match self.slots[at].ready {
            None => self.rules.refresh,
            Some(_) => match self.asked {
                Some(asked) => now.saturating_sub(asked).min(self.rules.refresh / 2),
                None => self.rules.refresh / 2,
            },
        }
    }

    /// A build ended.
    pub(crate) fn built(&mut self, at: SlotId, snapshot: Option<S>, now: Now) {
        self.filled(at, snapshot, Duration::ZERO, now);
    }

    /// Instead of a build, a snapshot of another process was found, which is `age` old.
    pub(crate) fn found(&mut self, at: SlotId, snapshot: S, age: Duration, now: Now) {
        let is_young = |(_, expires): (Generation, Now)| expires > now;
        if self.sound(at).is_some() && self.slots[at].ready.is_some_and(is_young) {
            // It was suspected when this was looked for, and serves again by now.
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
        // Whether it is any good is not seen yet.
        slot.restore_backoff.succeeded();
        self.restored_tier.works();
        let old = self.fill(at, snapshot, now.saturating_add(life));
        // Its warm clones serve until those of the new one are there.
        if let Some(entry) = old.and_then(|old| self.snapshots.get_mut(&old)) {
            entry.retired = true;
        }
    }

    /// A restore ended.
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
        // It was restored, and answered when it had been held.
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

    /// A clone ended while it was warm: what is left of it, if it was here still.
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

    /// A snapshot is at fault: as far as it is here still, it is given up and built anew, at once if
    /// it is the first one, and after ever longer waits if one is like the other. Returns its warm
    /// clones, to be ended.
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

    /// A restore of a snapshot failed, by it or by the VMM: it serves nobody, and is built anew as one
    /// that is given up, until it is known which of the two it was.
    pub(crate) fn suspect(&mut self, generation: Generation, now: Now) {
        let entry = self.snapshots.get_mut(&generation);
        // One that has a successor is at its end in any case.
        let Some(entry) = entry.filter(|entry| !entry.suspected && !entry.retired) else {
            return;
        };
        entry.suspected = true;
        let is_its = |slot: &&mut Slot<C>| slot.ready.is_some_and(|(it, _)| it == generation);
        if let Some(slot) = self.slots.iter_mut().find(is_its) {
            slot.build_backoff.record_failure(now, &mut self.jitter);
        }
    }

    /// A VM of the VMM started: the snapshots that are suspected are at fault, and are given up.
    /// Returns their warm clones, to be ended.
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

    /// No VM of the VMM could be booted, so its restores prove nothing: the snapshots that are
    /// suspected serve again.
    pub(crate) fn vmm_fails(&mut self) {
        // What another process's snapshot took the place of is left to whoever finds it.
        self.snapshots
            .retain(|_, entry| !(std::mem::take(&mut entry.suspected) && entry.retired));
    }

    /// Whether a snapshot that is given up now is built anew at once.
    pub(crate) fn heals(&self, generation: Generation) -> bool {
        let is_its = |slot: &&Slot<C>| slot.ready.is_some_and(|(present, _)| present == generation);
        let slot = self.slots.iter().find(is_its);
        slot.is_none_or(|slot| !slot.build_backoff.has_failed())
    }

    /// Every snapshot gets a successor, one after the other.
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

    /// Whether a spawn that finds no warm clone could be restored, in a pool that is in use.
    pub(crate) fn restores(&self) -> bool {
        self.phase == Phase::Filling && self.snapshots().next().is_some()
    }

    /// Whether every slot has its snapshot, and its warm clones as far as there is room.
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

    /// Whether no snapshot is older than it should be, on its way, or kept for nobody.
    pub(crate) fn is_fresh(&self, now: Now) -> bool {
        let is_fresh = |slot: &Slot<C>| {
            let of_its_own = slot
                .ready
                .filter(|(present, _)| !self.is_suspected(*present));
            !slot.building && of_its_own.is_some_and(|(_, expires)| expires > now)
        };
        !self.snapshots.values().any(Entry::is_over) && self.slots.iter().all(is_fresh)
    }

    /// The snapshots that are ready.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &S> {
        let present = self.present();
        let sound = present.filter(|(generation, _)| !self.is_suspected(*generation));
        sound.map(|(_, snapshot)| snapshot)
    }

    /// The snapshots that have a place, by their generations, ready or suspected.
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

    /// Takes out all clones, to be ended, lets go of all snapshots, and starts nothing any more.
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
            // What is under way is aborted, and not reported any more.
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
