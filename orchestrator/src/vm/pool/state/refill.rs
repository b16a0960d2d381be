//! Keeps the intended number of warm clones: when to restore another one, and which to evict.

use super::action::{Action, Restored};
use super::slot::{CloneId, Generation, Slot, SlotId, Warm};
use super::{Phase, PoolState, Rules};
use crate::vm::pool::budget::Share;
use crate::vm::pool::clock::Now;

impl<S: Clone, C, W> PoolState<S, C, W> {
    pub(super) fn refill(&mut self, now: Now, actions: &mut Vec<Action<S, C, W>>) {
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

    /// Returns the intended number of warm clones.
    pub(crate) fn wanted_warm(&self, now: Now) -> usize {
        let Rules {
            min_warm, max_warm, ..
        } = self.rules;
        let target = if min_warm < max_warm {
            self.demand.peak(now).clamp(min_warm, max_warm)
        } else {
            max_warm
        };
        match (self.warm_tier.is_used(), self.warm_tier.admits(now)) {
            (true, _) => target,
            // A single one, to try whether the tier works again.
            (false, true) => target.min(1),
            (false, false) => 0,
        }
    }

    /// Returns the intended number of warm clones in each slot.
    fn quotas(&self, now: Now) -> Vec<usize> {
        let (size, target) = (self.rules.size, self.wanted_warm(now));
        (0..size)
            .map(|at| target / size + usize::from(at < target % size))
            .collect()
    }

    /// Reserves room for a clone; a snapshot's successor may take that of the former's clone.
    fn room(&mut self, at: SlotId, actions: &mut Vec<Action<S, C, W>>) -> Option<Share> {
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

    /// Evicts surplus clones, those of former snapshots first.
    pub(super) fn evict_surplus(&mut self, now: Now, actions: &mut Vec<Action<S, C, W>>) {
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

    /// Evicts warm clones if spawns of any pool wait for their room.
    pub(super) fn evict_for_waiters(&mut self, actions: &mut Vec<Action<S, C, W>>) {
        while self.rules.budget.is_short() {
            let fullest = self.slots.iter_mut().max_by_key(|slot| slot.warm.len());
            let Some(warm) = fullest.and_then(|slot| slot.warm.pop_front()) else {
                return;
            };
            self.end(warm, actions);
        }
    }

    fn end(&mut self, warm: Warm<C>, actions: &mut Vec<Action<S, C, W>>) {
        self.clone_ended(warm.of);
        actions.push(Action::End(warm.clone));
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
}
