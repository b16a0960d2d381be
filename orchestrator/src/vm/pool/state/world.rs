//! A pool's environment for tests: executes the state's actions in any order and with any outcome,
//! and checks every rule after every event.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::budget::{Budget, Limit, Share};
use super::slot::CloneId;
use super::{
    Action, Generation, Grant, LeaseId, Placement, PoolState, Restored, Rules, Slot, SlotId,
    WaiterId,
};
use crate::vm::vm_handle::Origin;

const REFRESH: Duration = Duration::from_secs(60);
const GUEST_MIB: u64 = 100;

pub(super) fn rules(size: usize, warm: RangeInclusive<usize>, vms: usize) -> Rules {
    Rules {
        size,
        min_warm: *warm.start(),
        max_warm: *warm.end(),
        refresh: REFRESH,
        builds: 2,
        guest_mib: GUEST_MIB,
        budget: Budget::new(Limit {
            vms,
            memory_mib: u64::MAX,
        }),
        seed: 7,
    }
}

/// An event. A number selects its target among the possible ones; without any, the event is
/// skipped.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Acquire,
    Cancel(usize),
    Release(usize),
    BuildEnds(usize, bool),
    /// Another process's snapshot, so many seconds old, is found instead of a build.
    Finds(usize, u64),
    RestoreEnds(usize, bool),
    Dies(usize),
    Discard(usize),
    Suspect(usize),
    VmmWorks,
    VmmFails,
    LeaseFails(usize),
    LeaseServes(usize),
    Refresh,
    Later(u64),
}

type Clone = (u32, Generation);

#[derive(Debug)]
pub(super) struct World {
    rules: Rules,
    state: PoolState<u32, Clone>,
    now: Duration,
    serial: u32,
    builds: Vec<SlotId>,
    restores: Vec<(SlotId, Generation, u32)>,
    /// Clones that were warm once; the state knows whether they still are.
    clones: Vec<(CloneId, Clone)>,
    leases: Vec<(LeaseId, Option<Generation>, Share)>,
    waiters: Vec<WaiterId>,
    /// Clones that were leased, ended or died: none may appear twice.
    gone: HashSet<u32>,
    snapshots: HashMap<Generation, u32>,
    deleted: HashSet<u32>,
}

fn pick<T>(from: &mut Vec<T>, n: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(n % from.len()))
}

impl World {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            state: PoolState::new(rules.clone()),
            rules,
            now: Duration::ZERO,
            serial: 0,
            builds: Vec::new(),
            restores: Vec::new(),
            clones: Vec::new(),
            leases: Vec::new(),
            waiters: Vec::new(),
            gone: HashSet::new(),
            snapshots: HashMap::new(),
            deleted: HashSet::new(),
        }
    }

    fn serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn happens(&mut self, event: Event) {
        match event {
            Event::Acquire => {
                let (next, able) = (self.state.next, self.able());
                match self.state.acquire(self.now) {
                    Ok(grant) => {
                        assert_eq!(self.waiters, [], "it overtook");
                        self.took_its_turn(next, &able);
                        self.grant(grant);
                    }
                    Err(waiter) => self.waiters.push(waiter),
                }
            }
            Event::Cancel(n) if !self.waiters.is_empty() => {
                let waiter = self.waiters.remove(n % self.waiters.len());
                assert!(self.state.cancel(waiter));
                assert!(!self.state.cancel(waiter), "cancelled twice");
            }
            Event::Release(n) => {
                if let Some((lease, ..)) = pick(&mut self.leases, n) {
                    self.state.released(lease);
                }
            }
            Event::LeaseServes(n) if !self.leases.is_empty() => {
                let (lease, ..) = self.leases[n % self.leases.len()];
                self.state.serves(lease, Origin::Restored);
            }
            Event::Finds(n, seconds) => {
                let serial = self.serial();
                if let Some(slot) = pick(&mut self.builds, n) {
                    let age = Duration::from_secs(seconds);
                    self.state.found(slot, serial, age, self.now);
                }
            }
            Event::BuildEnds(n, ok) => {
                let serial = self.serial();
                if let Some(slot) = pick(&mut self.builds, n) {
                    self.state.built(slot, ok.then_some(serial), self.now);
                }
            }
            Event::RestoreEnds(n, ok) => self.restore_ends(n, ok),
            Event::Dies(n) => {
                if let Some((id, clone)) = pick(&mut self.clones, n)
                    && let Some(died) = self.state.died(id, self.now)
                {
                    assert_eq!(died, clone);
                    self.goes(died);
                }
            }
            Event::Suspect(n) => {
                if let Some(generation) = self.generation(n) {
                    self.state.suspect(generation, self.now);
                }
            }
            Event::VmmWorks => self.vmm_works(),
            Event::VmmFails => self.state.vmm_fails(),
            Event::Discard(n) => {
                if let Some(generation) = self.generation(n) {
                    for clone in self.state.discard(generation, self.now) {
                        self.goes(clone);
                    }
                }
            }
            Event::LeaseFails(n) => self.lease_fails(n),
            Event::Refresh => self.state.refresh(self.now),
            Event::Later(millis) => self.now += Duration::from_millis(millis),
            Event::Cancel(_) | Event::LeaseServes(_) => {}
        }
        self.act();
        self.check();
    }

    fn generation(&self, n: usize) -> Option<Generation> {
        let mut known: Vec<_> = self.snapshots.keys().copied().collect();
        known.sort_unstable();
        pick(&mut known, n)
    }

    fn vmm_works(&mut self) {
        for clone in self.state.vmm_works() {
            self.goes(clone);
        }
    }

    /// Returns the slots that can serve: by a warm clone or, if there is none at all, by a restore.
    fn able(&self) -> Vec<SlotId> {
        let having = |has: fn(&Slot<Clone>) -> bool| {
            let slots = self.state.slots.iter().enumerate();
            let having = slots.filter(move |(_, slot)| has(slot));
            having.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let warm = having(|slot| !slot.warm.is_empty());
        if warm.is_empty() {
            let places = 0..self.rules.size;
            places
                .filter(|at| self.state.sound(*at).is_some())
                .collect()
        } else {
            warm
        }
    }

    /// Checks that the next one of those that can serve has its turn.
    fn took_its_turn(&self, next: SlotId, able: &[SlotId]) {
        let turn = able.iter().find(|at| **at >= next).or(able.first());
        if let Some(turn) = turn {
            assert_eq!(self.state.next, (turn + 1) % self.rules.size, "{able:?}");
        }
    }

    fn restore_ends(&mut self, n: usize, ok: bool) {
        let serial = self.serial();
        let Some((slot, of, _)) = pick(&mut self.restores, n) else {
            return;
        };
        let clone = (serial, of);
        match self.state.restored(slot, of, ok.then_some(clone), self.now) {
            Restored::Warm(id) => self.clones.push((id, clone)),
            Restored::Unwanted(clone) => self.goes(clone),
            Restored::Failed => assert!(!ok, "a clone was lost"),
        }
    }

    /// Does what a spawn does if its VM can't be made.
    fn lease_fails(&mut self, n: usize) {
        let Some((lease, of, share)) = pick(&mut self.leases, n) else {
            return;
        };
        let of = if of.is_some() && n.is_multiple_of(2) {
            self.state.fall_back_to_boot(lease);
            None
        } else {
            let served = self.state.fall_back(lease, Origin::Warm, self.now);
            self.serves(served)
        };
        self.leases.push((lease, of, share));
    }

    fn grant(&mut self, grant: Grant<u32, Clone>) {
        let of = self.serves(grant.placement);
        assert!(self.leases.iter().all(|(lease, ..)| *lease != grant.lease));
        self.leases.push((grant.lease, of, grant.share));
    }

    fn serves(&mut self, served: Placement<u32, Clone>) -> Option<Generation> {
        match served {
            Placement::Warm(clone) => {
                self.goes(clone);
                Some(clone.1)
            }
            Placement::Restore(generation, snapshot) => {
                assert!(!self.deleted.contains(&snapshot), "it is deleted");
                self.snapshots.insert(generation, snapshot);
                Some(generation)
            }
            Placement::Boot => {
                let counts = self.state.counts();
                assert_eq!((counts.ready, counts.warm), (0, 0), "there was better");
                None
            }
        }
    }

    fn goes(&mut self, clone: Clone) {
        assert!(self.gone.insert(clone.0), "clone {} twice", clone.0);
    }

    /// Executes actions until there are none.
    fn act(&mut self) {
        loop {
            let actions = self.state.actions(self.now);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.perform(action);
            }
        }
    }

    fn perform(&mut self, action: Action<u32, Clone>) {
        match action {
            Action::Grant(waiter, grant) => {
                assert_eq!(self.waiters.remove(0), waiter, "first come first served");
                self.grant(grant);
            }
            Action::Build(slot) => {
                assert!(!self.builds.contains(&slot), "built twice at a time");
                self.builds.push(slot);
            }
            Action::Restore(slot, generation, snapshot) => {
                assert!(!self.deleted.contains(&snapshot), "it is deleted");
                self.snapshots.insert(generation, snapshot);
                self.restores.push((slot, generation, snapshot));
            }
            Action::End(clone) => self.goes(clone),
            Action::Delete(snapshot) => {
                assert!(self.deleted.insert(snapshot), "deleted twice");
                let of = |of: &Generation| self.snapshots.get(of) == Some(&snapshot);
                assert!(!self.restores.iter().any(|(.., other)| *other == snapshot));
                assert!(
                    !self
                        .leases
                        .iter()
                        .any(|(_, leased, _)| leased.as_ref().is_some_and(of))
                );
                assert!(!self.warm().any(|(_, generation)| of(generation)));
            }
        }
    }

    fn warm(&self) -> impl Iterator<Item = &Clone> {
        self.state.warm()
    }

    fn check(&mut self) {
        let counts = self.state.counts();
        let Rules {
            size,
            max_warm,
            builds,
            ref budget,
            ..
        } = self.rules;
        let vms = counts.warm + counts.restoring + counts.leased;
        assert_eq!(budget.used().vms, vms, "room was lost or won: {counts:?}");
        assert!(vms <= budget.limit().vms);
        assert_eq!(counts.leased, self.leases.len());
        assert_eq!(counts.restoring, self.restores.len());
        assert_eq!(counts.building, self.builds.len());
        assert_eq!(counts.waiting, self.waiters.len());
        assert!(counts.building <= builds.max(1) && counts.ready <= size);
        assert!(counts.warm <= max_warm);
        assert!(
            self.waiters.is_empty() || (counts.warm == 0 && vms == budget.limit().vms),
            "somebody waits although there is room: {counts:?}"
        );
        let leased_or_ended = |clone: &Clone| self.gone.contains(&clone.0);
        assert!(!self.warm().any(leased_or_ended));
    }

    /// Closes the pool: nothing more is started, and all room is free when the last VM is gone.
    pub(super) fn closes(mut self) {
        for clone in self.state.drain() {
            self.goes(clone);
        }
        assert_eq!(self.state.counts().waiting, 0);
        for (slot, of, serial) in std::mem::take(&mut self.restores) {
            let clone = (serial, of);
            let restored = self.state.restored(slot, of, Some(clone), self.now);
            assert_eq!(restored, Restored::Unwanted(clone), "it is nobody's");
        }
        for slot in std::mem::take(&mut self.builds) {
            self.state.built(slot, None, self.now);
        }
        assert_eq!(self.rules.budget.used().vms, self.leases.len());
        for (lease, ..) in std::mem::take(&mut self.leases) {
            self.state.released(lease);
        }
        assert_eq!(self.rules.budget.used(), Limit::default());
        self.state.activate();
        assert_eq!(self.state.actions(Duration::MAX), []);
        assert_eq!(self.state.next_deadline(self.now), None);
    }

    /// Lets everything succeed and all leases end: the pool fills up, nobody waits, and nothing is
    /// left of former snapshots.
    pub(super) fn settles(&mut self) {
        self.state.activate();
        // Every backoff is over by then.
        self.happens(Event::Later(60_000));
        for _ in 0..1000 {
            let busy = !(self.builds.is_empty()
                && self.restores.is_empty()
                && self.leases.is_empty()
                && self.waiters.is_empty());
            for event in [
                Event::BuildEnds(0, true),
                Event::RestoreEnds(0, true),
                Event::Release(0),
                Event::VmmWorks,
            ] {
                self.happens(event);
            }
            if !busy {
                break;
            }
        }
        let counts = self.state.counts();
        assert!(self.state.is_full(self.now), "{self:?}");
        assert_eq!(counts.ready, self.rules.size);
        assert_eq!((counts.leased, counts.waiting, counts.retired), (0, 0, 0));
        let room = self.rules.budget.limit().vms;
        assert!(counts.warm >= self.rules.min_warm.min(room), "{counts:?}");
    }
}
