//! Standby processes, which save a spawn without a warm clone the start of a VMM. A state machine
//! without I/O and without a clock, like `state`.
//!
//! ```text
//!   wanted ──▶ starting ──▶ standing by ──▶ taken
//!      ▲           │             │
//!      └─ backoff ─┴── failed,   ┴ died
//! ```
//!
//! They know no snapshot, so all pools with the same VMM and machine share one set. They use
//! neither places nor memory of the budget, because they have no guest. Their number is what the
//! pools ask for or, while spawns are being restored, the number of concurrent restores.

use std::collections::VecDeque;
use std::time::Duration;

use super::backoff::{Backoff, Jitter};
use super::clock::Now;
use super::demand::Demand;

/// Time for which more than the pools ask for stand by, after spawns that needed as many.
const DEMAND_MEMORY: Duration = Duration::from_secs(60);
/// Limit of the concurrent spawns that are counted.
const MAX_DEMAND: usize = 256;

/// A standby process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StandbyId(u64);

/// The state machine; `P` is a process.
#[derive(Debug)]
pub(super) struct StandbyPool<P> {
    /// The number that each pool asks for.
    asked: Vec<usize>,
    /// Whether the VMM supports them.
    supported: bool,
    demand: Demand,
    starting: usize,
    /// The processes, the oldest first.
    ready: VecDeque<Ready<P>>,
    backoff: Backoff,
    jitter: Jitter,
    numbers: u64,
}

#[derive(Debug)]
struct Ready<P> {
    process: P,
    id: StandbyId,
    since: Now,
}

impl<P> StandbyPool<P> {
    /// Creates an empty set. `seed` is for the jitter of its backoffs.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            asked: Vec::new(),
            supported: true,
            demand: Demand::remembered_for(DEMAND_MEMORY, MAX_DEMAND),
            starting: 0,
            ready: VecDeque::new(),
            backoff: Backoff::default(),
            jitter: Jitter::of(seed),
            numbers: 0,
        }
    }

    /// Adds a pool that asks for so many.
    pub(super) fn join(&mut self, asked: usize) {
        self.asked.push(asked);
    }

    /// Removes a pool that asked for so many; returns surplus processes, to be ended.
    pub(super) fn leave(&mut self, asked: usize) -> Vec<P> {
        if let Some(at) = self.asked.iter().position(|other| *other == asked) {
            self.asked.swap_remove(at);
        }
        if self.least() == 0 {
            return self.ready.drain(..).map(|ready| ready.process).collect();
        }
        Vec::new()
    }

    /// Returns the minimum number.
    fn least(&self) -> usize {
        let most = self.asked.iter().max().copied().unwrap_or(0);
        if self.supported { most } else { 0 }
    }

    /// Returns the number for now, no more than `most` on account of spawns.
    fn wanted(&self, now: Now, most: usize) -> usize {
        match self.least() {
            0 => 0,
            least => self.demand.peak(now).min(most).max(least),
        }
    }

    /// Returns whether to start another one now; the result is then reported by
    /// [`started`](Self::started), [`failed`](Self::failed), [`given_up`](Self::given_up) or
    /// [`unsupported`](Self::unsupported).
    pub(super) fn start(&mut self, now: Now, most: usize) -> bool {
        let missing = self.starting + self.ready.len() < self.wanted(now, most);
        let starts = missing && self.backoff.until() <= now;
        self.starting += usize::from(starts);
        starts
    }

    /// Takes out a surplus one, to be ended.
    pub(super) fn surplus(&mut self, now: Now, most: usize) -> Option<P> {
        let is_surplus = self.ready.len() > self.wanted(now, most);
        let ready = is_surplus.then(|| self.ready.pop_front()).flatten()?;
        Some(ready.process)
    }

    /// Adds one that was started; returns it if it is surplus.
    pub(super) fn started(&mut self, process: P, now: Now) -> Result<StandbyId, P> {
        self.given_up();
        if self.least() == 0 {
            return Err(process);
        }
        self.numbers += 1;
        let id = StandbyId(self.numbers);
        let since = now;
        self.ready.push_back(Ready { process, id, since });
        Ok(id)
    }

    /// Records that one could not be started.
    pub(super) fn failed(&mut self, now: Now) {
        self.given_up();
        self.backoff.failed(now, &mut self.jitter);
    }

    /// Records that a start was given up.
    pub(super) fn given_up(&mut self) {
        self.starting = self.starting.saturating_sub(1);
    }

    /// Records that the VMM does not support them.
    pub(super) fn unsupported(&mut self) {
        self.given_up();
        self.supported = false;
    }

    /// Takes one for a spawn; counts the spawn even if there is none.
    pub(super) fn take(&mut self, now: Now) -> Option<P> {
        self.demand.arrived(now);
        Some(self.ready.pop_front()?.process)
    }

    /// Records that a spawn which took one was served.
    pub(super) fn served(&mut self) {
        self.backoff.succeeded();
    }

    /// Records that one ended by itself; returns what is left of it, if it was still here.
    pub(super) fn died(&mut self, id: StandbyId, now: Now) -> Option<P> {
        let at = self.ready.iter().position(|ready| ready.id == id)?;
        let Ready { process, since, .. } = self.ready.remove(at)?;
        self.backoff.died(since, now, &mut self.jitter);
        Some(process)
    }

    /// Returns whether the minimum is there, or missing ones failed to start and are tried later: a
    /// pool serves without them.
    pub(super) fn is_settled(&self, now: Now) -> bool {
        self.starting == 0 && (self.ready.len() >= self.least() || self.backoff.until() > now)
    }

    /// Returns when to retry a failed start, or when fewer are wanted.
    pub(super) fn next_deadline(&self, now: Now, most: usize) -> Option<Now> {
        let there = self.starting + self.ready.len();
        let waits = there < self.wanted(now, most) && self.backoff.until() > now;
        let retry = waits.then(|| self.backoff.until());
        let shrinks = there > self.least();
        let shrink = shrinks.then(|| self.demand.next_change(now)).flatten();
        retry.into_iter().chain(shrink).min()
    }

    /// Returns those that are there.
    pub(super) fn ready(&self) -> impl ExactSizeIterator<Item = &P> {
        self.ready.iter().map(|ready| &ready.process)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::backoff::LONGEST_BACKOFF;
    use super::*;

    const NOW: Now = Duration::from_secs(1000);

    /// More than any spawns of these tests need.
    const MOST: usize = 100;

    fn of(size: usize) -> StandbyPool<u32> {
        let mut pool = StandbyPool::new(0);
        pool.join(size);
        pool
    }

    /// Returns how many are started at `now`.
    fn begun(pool: &mut StandbyPool<u32>, now: Now) -> usize {
        std::iter::from_fn(|| pool.start(now, MOST).then_some(())).count()
    }

    #[test]
    fn taken_and_dead_processes_are_replaced_and_the_oldest_goes_first() {
        let mut pool = of(2);
        assert_eq!(begun(&mut pool, NOW), 2);
        assert!(!pool.is_settled(NOW));
        let first = pool.started(1, NOW).unwrap();
        pool.started(2, NOW).unwrap();
        assert!(pool.is_settled(NOW));
        assert_eq!(begun(&mut pool, NOW), 0);
        assert_eq!(pool.take(NOW), Some(1));
        assert_eq!(pool.died(first, NOW), None, "it was taken");
        assert_eq!(begun(&mut pool, NOW), 1);
        let third = pool.started(3, NOW).unwrap();
        assert_eq!(pool.died(third, NOW + LONGEST_BACKOFF), Some(3));
        let replaced = pool.next_deadline(NOW + LONGEST_BACKOFF, MOST).unwrap();
        assert!(!pool.is_settled(replaced));
    }

    #[test]
    fn all_pools_have_one_set_as_large_as_one_of_them_asks_for() {
        let mut pool = of(2);
        for asked in [1, 2, 0] {
            pool.join(asked);
        }
        assert_eq!(begun(&mut pool, NOW), 2);
        for process in [1, 2] {
            pool.started(process, NOW).unwrap();
        }
        assert!(pool.leave(2).is_empty());
        assert!(pool.leave(2).is_empty());
        assert_eq!(pool.surplus(NOW, MOST), Some(1));
        assert_eq!(pool.surplus(NOW, MOST), None);
        assert!(pool.leave(0).is_empty());
        assert_eq!(pool.leave(1), [2], "nobody wants it");
    }

    #[test]
    fn as_many_stand_by_as_spawns_come_together_and_fewer_when_none_come() {
        let mut pool = of(1);
        for _ in 0..8 {
            pool.take(NOW);
        }
        assert!(pool.start(NOW, 5));
        assert_eq!(begun(&mut pool, NOW), 7);
        assert_eq!(begun(&mut pool, NOW), 0);
        for process in 0..8 {
            pool.started(process, NOW).unwrap();
        }
        assert_eq!(pool.surplus(NOW, 8), None);
        let quiet = pool.next_deadline(NOW, 8).unwrap();
        assert!(quiet <= NOW + 2 * DEMAND_MEMORY);
        let over: Vec<_> = std::iter::from_fn(|| pool.surplus(quiet, 8)).collect();
        assert_eq!(over.len(), 7);
        assert_eq!(pool.next_deadline(quiet, 8), None);
    }

    #[test]
    fn no_demand_starts_a_process_if_none_are_configured() {
        let mut pool = of(0);
        for _ in 0..8 {
            assert_eq!(pool.take(NOW), None);
        }
        assert_eq!(begun(&mut pool, NOW), 0);
    }

    #[test]
    fn a_start_that_was_given_up_is_another_pool_s_to_do() {
        let mut pool = of(1);
        assert_eq!(begun(&mut pool, NOW), 1);
        pool.given_up();
        assert_eq!(begun(&mut pool, NOW), 1);
    }

    #[test]
    fn failures_make_the_next_start_wait_until_one_has_served() {
        let mut pool = of(1);
        let mut now = NOW;
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(pool.start(now, MOST));
            pool.failed(now);
            assert!(!pool.start(now, MOST) && pool.is_settled(now));
            let next = pool.next_deadline(now, MOST).unwrap();
            waits.push(next - now);
            now = next;
        }
        assert!(waits.windows(2).take(6).all(|pair| pair[0] < pair[1]));
        assert!(waits.iter().all(|wait| *wait <= LONGEST_BACKOFF));
        assert!(pool.start(now, MOST));
        let id = pool.started(1, now).unwrap();
        assert_eq!(pool.died(id, now), Some(1));
        assert!(!pool.start(now, MOST), "it did not serve");
        pool.served();
        assert!(pool.start(now, MOST));
    }

    #[test]
    fn a_vmm_without_such_processes_is_asked_once_and_the_set_is_full() {
        let mut pool = of(1);
        assert!(pool.start(NOW, MOST));
        pool.unsupported();
        pool.join(3);
        assert!(pool.is_settled(NOW) && !pool.start(NOW, MOST));
        assert_eq!(pool.next_deadline(NOW, MOST), None);
    }

    #[test]
    fn when_the_last_pool_left_nothing_is_kept_and_nothing_begun() {
        let mut pool = of(2);
        assert_eq!(begun(&mut pool, NOW), 2);
        pool.started(1, NOW).unwrap();
        assert_eq!(pool.leave(2), [1]);
        assert_eq!(pool.started(2, NOW), Err(2), "it was on its way");
        assert_eq!(begun(&mut pool, NOW), 0);
        assert_eq!(pool.take(NOW), None);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Begin,
        Started,
        Failed,
        Taken,
        Placement,
        Died(usize),
        Later(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Begin),
            4 => Just(Event::Started),
            1 => Just(Event::Failed),
            2 => Just(Event::Taken),
            1 => Just(Event::Placement),
            1 => (0..4usize).prop_map(Event::Died),
            2 => (0..100_000u64).prop_map(Event::Later),
        ]
    }

    proptest! {
        #[test]
        fn there_are_never_too_many_and_none_goes_out_twice(
            size in 0..4usize,
            events in proptest::collection::vec(event(), 0..200),
        ) {
            let mut pool = of(size);
            let (mut now, mut starting, mut made, mut demanded) = (NOW, 0usize, 0u32, size);
            let (mut there, mut gone) = (Vec::new(), HashSet::new());
            for event in events {
                match event {
                    Event::Begin => starting += usize::from(pool.start(now, MOST)),
                    Event::Started if starting > 0 => {
                        starting -= 1;
                        made += 1;
                        there.push((pool.started(made, now).unwrap(), made));
                    }
                    Event::Failed if starting > 0 => {
                        starting -= 1;
                        pool.failed(now);
                    }
                    Event::Taken => match pool.take(now) {
                        Some(process) => {
                            prop_assert_eq!(there.remove(0).1, process);
                            prop_assert!(gone.insert(process));
                        }
                        None => prop_assert!(there.is_empty()),
                    },
                    Event::Placement => pool.served(),
                    Event::Died(at) if at < there.len() => {
                        let (id, process) = there.remove(at);
                        prop_assert_eq!(pool.died(id, now), Some(process));
                        prop_assert!(gone.insert(process));
                        prop_assert_eq!(pool.died(id, now), None);
                    }
                    Event::Later(millis) => now += Duration::from_millis(millis),
                    Event::Started | Event::Failed | Event::Died(_) => {}
                }
                demanded = demanded.max(pool.wanted(now, MOST));
                prop_assert!(starting + there.len() <= demanded);
                prop_assert!(size > 0 || demanded == 0);
                prop_assert_eq!(pool.ready().len(), there.len());
                // It fills up by itself in the end.
                let due = pool.next_deadline(now, MOST);
                let latest = now + LONGEST_BACKOFF.max(2 * DEMAND_MEMORY);
                prop_assert!(due.is_none_or(|due| due > now && due <= latest));
                let settled = starting == 0 && (there.len() >= size || due.is_some());
                prop_assert_eq!(pool.is_settled(now), settled);
            }
        }
    }
}
