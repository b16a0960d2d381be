//! A pool's surroundings for tests: does what the machine asks for, in any order and with any
//! outcome, and checks every rule after every event.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::budget::{Budget, Limit, Share};
use super::{
    Action, CloneId, Generation, Granted, LeaseId, Place, Rules, Served, Slots, Spot, Ticket,
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

/// What may happen. A number picks one of those that it can happen to; if there is none, nothing
/// happens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Acquire,
    Cancel(usize),
    Release(usize),
    BuildEnds(usize, bool),
    /// Instead of a build, a snapshot of another process that is so many seconds old.
    Finds(usize, u64),
    RestoreEnds(usize, bool),
    Dies(usize),
    Discard(usize),
    LeaseFails(usize),
    LeaseServes(usize),
    Refresh,
    Later(u64),
}

type Clone = (u32, Generation);

#[derive(Debug)]
pub(super) struct World {
    rules: Rules,
    slots: Slots<u32, Clone>,
    now: Duration,
    serial: u32,
    builds: Vec<Place>,
    restores: Vec<(Place, Generation, u32)>,
    /// Warm once: whether they still are is the machine's business.
    clones: Vec<(CloneId, Clone)>,
    leases: Vec<(LeaseId, Option<Generation>, Share)>,
    line: Vec<Ticket>,
    /// Clones that were leased, were ended or died: none may come twice.
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
            slots: Slots::new(rules.clone()),
            rules,
            now: Duration::ZERO,
            serial: 0,
            builds: Vec::new(),
            restores: Vec::new(),
            clones: Vec::new(),
            leases: Vec::new(),
            line: Vec::new(),
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
                let (next, able) = (self.slots.next, self.able());
                match self.slots.acquire(self.now) {
                    Ok(granted) => {
                        assert_eq!(self.line, [], "it overtook");
                        self.took_its_turn(next, &able);
                        self.granted(granted);
                    }
                    Err(ticket) => self.line.push(ticket),
                }
            }
            Event::Cancel(n) if !self.line.is_empty() => {
                let ticket = self.line.remove(n % self.line.len());
                assert!(self.slots.cancel(ticket));
                assert!(!self.slots.cancel(ticket), "cancelled twice");
            }
            Event::Release(n) => {
                if let Some((lease, ..)) = pick(&mut self.leases, n) {
                    self.slots.released(lease);
                }
            }
            Event::LeaseServes(n) if !self.leases.is_empty() => {
                let (lease, ..) = self.leases[n % self.leases.len()];
                self.slots.serves(lease, Origin::Restored);
            }
            Event::Finds(n, seconds) => {
                let serial = self.serial();
                if let Some(place) = pick(&mut self.builds, n) {
                    let age = Duration::from_secs(seconds);
                    self.slots.found(place, serial, age, self.now);
                }
            }
            Event::BuildEnds(n, ok) => {
                let serial = self.serial();
                if let Some(place) = pick(&mut self.builds, n) {
                    self.slots.built(place, ok.then_some(serial), self.now);
                }
            }
            Event::RestoreEnds(n, ok) => self.restore_ends(n, ok),
            Event::Dies(n) => {
                if let Some((id, clone)) = pick(&mut self.clones, n)
                    && let Some(died) = self.slots.died(id, self.now)
                {
                    assert_eq!(died, clone);
                    self.goes(died);
                }
            }
            Event::Discard(n) => {
                let mut known: Vec<_> = self.snapshots.keys().copied().collect();
                known.sort_unstable();
                if let Some(generation) = pick(&mut known, n) {
                    for clone in self.slots.discard(generation, self.now) {
                        self.goes(clone);
                    }
                }
            }
            Event::LeaseFails(n) => self.lease_fails(n),
            Event::Refresh => self.slots.refresh(self.now),
            Event::Later(millis) => self.now += Duration::from_millis(millis),
            Event::Cancel(_) | Event::LeaseServes(_) => {}
        }
        self.act();
        self.check();
    }

    /// Places that can serve: by a warm clone, or if there is none at all, by a restore.
    fn able(&self) -> Vec<Place> {
        let having = |has: fn(&Spot<Clone>) -> bool| {
            let places = self.slots.places.iter().enumerate();
            let having = places.filter(move |(_, spot)| has(spot));
            having.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let warm = having(|spot| !spot.warm.is_empty());
        if warm.is_empty() {
            having(|spot| spot.ready.is_some())
        } else {
            warm
        }
    }

    /// Of those that can serve, the next one after the last one did.
    fn took_its_turn(&self, next: Place, able: &[Place]) {
        let turn = able.iter().find(|at| **at >= next).or(able.first());
        if let Some(turn) = turn {
            assert_eq!(self.slots.next, (turn + 1) % self.rules.size, "{able:?}");
        }
    }

    fn restore_ends(&mut self, n: usize, ok: bool) {
        let serial = self.serial();
        let Some((place, of, _)) = pick(&mut self.restores, n) else {
            return;
        };
        let clone = (serial, of);
        match self
            .slots
            .restored(place, of, ok.then_some(clone), self.now)
        {
            Ok(id) => self.clones.push((id, clone)),
            Err(Some(unwanted)) => self.goes(unwanted),
            Err(None) => assert!(!ok, "a clone was lost"),
        }
    }

    /// What a spawn does when its VM can't be made.
    fn lease_fails(&mut self, n: usize) {
        let Some((lease, of, share)) = pick(&mut self.leases, n) else {
            return;
        };
        let of = if of.is_some() && n.is_multiple_of(2) {
            self.slots.boots(lease);
            None
        } else {
            let served = self.slots.serve_again(lease, Origin::Warm, self.now);
            self.serves(served)
        };
        self.leases.push((lease, of, share));
    }

    fn granted(&mut self, granted: Granted<u32, Clone>) {
        let of = self.serves(granted.served);
        assert!(
            self.leases
                .iter()
                .all(|(lease, ..)| *lease != granted.lease)
        );
        self.leases.push((granted.lease, of, granted.share));
    }

    fn serves(&mut self, served: Served<u32, Clone>) -> Option<Generation> {
        match served {
            Served::Warm(clone) => {
                self.goes(clone);
                Some(clone.1)
            }
            Served::Restore(generation, snapshot) => {
                assert!(!self.deleted.contains(&snapshot), "it is deleted");
                self.snapshots.insert(generation, snapshot);
                Some(generation)
            }
            Served::Boot => {
                let counts = self.slots.counts();
                assert_eq!((counts.ready, counts.warm), (0, 0), "there was better");
                None
            }
        }
    }

    fn goes(&mut self, clone: Clone) {
        assert!(self.gone.insert(clone.0), "clone {} twice", clone.0);
    }

    /// Does what is asked for, until nothing is.
    fn act(&mut self) {
        loop {
            let actions = self.slots.actions(self.now);
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
            Action::Grant(ticket, granted) => {
                assert_eq!(self.line.remove(0), ticket, "first come first served");
                self.granted(granted);
            }
            Action::Build(place) => {
                assert!(!self.builds.contains(&place), "built twice at a time");
                self.builds.push(place);
            }
            Action::Restore(place, generation, snapshot) => {
                assert!(!self.deleted.contains(&snapshot), "it is deleted");
                self.snapshots.insert(generation, snapshot);
                self.restores.push((place, generation, snapshot));
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
        self.slots.warm()
    }

    fn check(&mut self) {
        let counts = self.slots.counts();
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
        assert_eq!(counts.waiting, self.line.len());
        assert!(counts.building <= builds.max(1) && counts.ready <= size);
        assert!(counts.warm <= max_warm);
        assert!(
            self.line.is_empty() || (counts.warm == 0 && vms == budget.limit().vms),
            "somebody waits although there is room: {counts:?}"
        );
        let leased_or_ended = |clone: &Clone| self.gone.contains(&clone.0);
        assert!(!self.warm().any(leased_or_ended));
    }

    /// The pool is closed: nothing is begun any more, and when the last VM is gone all room is
    /// there again.
    pub(super) fn closes(mut self) {
        for clone in self.slots.drain() {
            self.goes(clone);
        }
        assert_eq!(self.slots.counts().waiting, 0);
        for (place, of, serial) in std::mem::take(&mut self.restores) {
            let clone = (serial, of);
            let unwanted = self.slots.restored(place, of, Some(clone), self.now);
            assert_eq!(unwanted, Err(Some(clone)), "it is nobody's");
        }
        for place in std::mem::take(&mut self.builds) {
            self.slots.built(place, None, self.now);
        }
        assert_eq!(self.rules.budget.used().vms, self.leases.len());
        for (lease, ..) in std::mem::take(&mut self.leases) {
            self.slots.released(lease);
        }
        assert_eq!(self.rules.budget.used(), Limit::default());
        self.slots.want();
        assert_eq!(self.slots.actions(Duration::MAX), []);
        assert_eq!(self.slots.next_deadline(self.now), None);
    }

    /// Everything succeeds from now on, and the leases end: the pool fills up, nobody waits, and
    /// of former snapshots nothing is left.
    pub(super) fn settles(&mut self) {
        self.slots.want();
        // Every backoff is over by then.
        self.happens(Event::Later(60_000));
        for _ in 0..1000 {
            let busy = !(self.builds.is_empty()
                && self.restores.is_empty()
                && self.leases.is_empty()
                && self.line.is_empty());
            for event in [
                Event::BuildEnds(0, true),
                Event::RestoreEnds(0, true),
                Event::Release(0),
            ] {
                self.happens(event);
            }
            if !busy {
                break;
            }
        }
        let counts = self.slots.counts();
        assert!(self.slots.is_full(self.now), "{self:?}");
        assert_eq!(counts.ready, self.rules.size);
        assert_eq!((counts.leased, counts.waiting, counts.retired), (0, 0, 0));
        let room = self.rules.budget.limit().vms;
        assert!(counts.warm >= self.rules.min_warm.min(room), "{counts:?}");
    }
}
