//! Admits spawns and chooses what serves each: a warm clone, a restore or a boot.

use super::action::{Grant, LeaseId, Placement, WaiterId};
use super::slot::{Generation, Slot, Warm};
use super::{PoolState, Waiting};
use crate::vm::pool::breaker::{Breaker, Off};
use crate::vm::pool::budget::Share;
use crate::vm::pool::clock::Now;
use crate::vm::vm_handle::Origin;

impl<S: Clone, C, W> PoolState<S, C, W> {
    /// Admits a spawn: returns its grant, or lets it wait. `wait` creates the channel by which it is
    /// told of its grant, and what it keeps.
    pub(crate) fn acquire_or<R>(
        &mut self,
        now: Now,
        wait: impl FnOnce(WaiterId) -> (W, R),
    ) -> Result<Grant<S, C>, R> {
        self.activate();
        self.demand.arrived(now);
        let (budget, guest_mib) = (self.rules.budget.clone(), self.rules.guest_mib);
        if self.waiters.is_empty()
            && let Some(grant) = self.grant(now, || budget.take(guest_mib))
        {
            return Ok(grant);
        }
        let id = WaiterId(self.number());
        let (channel, waiter) = wait(id);
        self.waiters.push_back(Waiting {
            id,
            reservation: budget.reserve(guest_mib),
            channel,
        });
        Err(waiter)
    }

    /// Removes a waiting spawn; returns `false` if it was served before.
    pub(crate) fn cancel(&mut self, waiter: WaiterId) -> bool {
        let before = self.waiters.len();
        self.waiters.retain(|waiting| waiting.id != waiter);
        self.waiters.len() < before
    }

    /// Creates a lease with the best placement, if there is a warm clone or room for another VM.
    pub(super) fn grant(
        &mut self,
        now: Now,
        room: impl FnOnce() -> Option<Share>,
    ) -> Option<Grant<S, C>> {
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
}
