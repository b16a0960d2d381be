//! Fills each slot with a snapshot and replaces it: when to build one, and what its end means.

use std::time::Duration;

use super::PoolState;
use super::action::Action;
use super::slot::{Generation, PooledSnapshot, Slot, SlotId};
use crate::vm::pool::clock::Now;

impl<S: Clone, C, W> PoolState<S, C, W> {
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
        let entry = PooledSnapshot {
            snapshot,
            clones: 0,
            retired: false,
            suspected: false,
        };
        self.snapshots.insert(generation, entry);
        let old = self.slots[at].ready.replace((generation, expires));
        old.map(|(old, _)| old)
    }

    pub(super) fn build(&mut self, now: Now, actions: &mut Vec<Action<S, C, W>>) {
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

    /// Returns whether no snapshot is too old, being built, or retired.
    pub(crate) fn is_fresh(&self, now: Now) -> bool {
        let is_fresh = |slot: &Slot<C>| {
            let of_its_own = slot
                .ready
                .filter(|(present, _)| !self.is_suspected(*present));
            !slot.building && of_its_own.is_some_and(|(_, expires)| expires > now)
        };
        !self.snapshots.values().any(PooledSnapshot::is_over) && self.slots.iter().all(is_fresh)
    }

    /// Returns the slot's snapshot, if it can serve.
    pub(super) fn sound(&self, at: SlotId) -> Option<Generation> {
        let (present, _) = self.slots[at].ready?;
        (!self.is_suspected(present)).then_some(present)
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
}
