//! Processes of the VMM that stand by for spawns that find no warm clone: what a restore then does
//! not wait for is the start of one. A state machine without I/O and without a clock, as `state` is.
//!
//! ```text
//!   wanted ──▶ starting ──▶ standing by ──▶ taken
//!      ▲           │             │
//!      └─ backoff ─┴── failed,   ┴ died
//! ```
//!
//! They take neither a VM's place nor its memory from the budget: there is no guest in them.

use std::collections::VecDeque;

use super::backoff::{Backoff, Jitter};
use super::clock::Now;

/// A process that stands by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StandbyId(u64);

/// The state machine; `P` is a process.
#[derive(Debug)]
pub(super) struct StandbyPool<P> {
    /// How many there are to be.
    size: usize,
    starting: usize,
    /// The oldest first.
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
    /// A reserve of `size` processes, none of which is there yet. Its waits are jittered by what
    /// comes of `seed`.
    pub(super) fn of(size: usize, seed: u64) -> Self {
        Self {
            size,
            starting: 0,
            ready: VecDeque::new(),
            backoff: Backoff::default(),
            jitter: Jitter::of(seed),
            numbers: 0,
        }
    }

    /// Whether another one is to be started now; that is reported by [`started`](Self::started),
    /// [`failed`](Self::failed) or [`unsupported`](Self::unsupported) then.
    pub(super) fn start(&mut self, now: Now) -> bool {
        let starts = self.starting + self.ready.len() < self.size && self.backoff.until() <= now;
        self.starting += usize::from(starts);
        starts
    }

    /// One was started. It comes back if it is not wanted any more.
    pub(super) fn started(&mut self, process: P, now: Now) -> Result<StandbyId, P> {
        self.starting = self.starting.saturating_sub(1);
        if self.ready.len() >= self.size {
            return Err(process);
        }
        self.numbers += 1;
        let id = StandbyId(self.numbers);
        let since = now;
        self.ready.push_back(Ready { process, id, since });
        Ok(id)
    }

    /// One could not be started.
    pub(super) fn failed(&mut self, now: Now) {
        self.starting = self.starting.saturating_sub(1);
        self.backoff.failed(now, &mut self.jitter);
    }

    /// There are no such processes.
    pub(super) fn unsupported(&mut self) {
        self.starting = self.starting.saturating_sub(1);
        self.size = 0;
    }

    /// One for a spawn.
    pub(super) fn take(&mut self) -> Option<P> {
        Some(self.ready.pop_front()?.process)
    }

    /// A spawn was served by one that was taken.
    pub(super) fn served(&mut self) {
        self.backoff.succeeded();
    }

    /// One ended by itself: what is left of it, if it was here still.
    pub(super) fn died(&mut self, id: StandbyId, now: Now) -> Option<P> {
        let at = self.ready.iter().position(|ready| ready.id == id)?;
        let Ready { process, since, .. } = self.ready.remove(at)?;
        self.backoff.died(since, now, &mut self.jitter);
        Some(process)
    }

    /// Whether all are there, or those that are missing could not be started and will be later: a
    /// pool serves without them.
    pub(super) fn is_settled(&self, now: Now) -> bool {
        self.starting == 0 && (self.ready.len() >= self.size || self.backoff.until() > now)
    }

    /// When one that failed is to be started again.
    pub(super) fn next_deadline(&self, now: Now) -> Option<Now> {
        let waits = self.starting + self.ready.len() < self.size && self.backoff.until() > now;
        waits.then(|| self.backoff.until())
    }

    /// Those that are there.
    pub(super) fn ready(&self) -> impl ExactSizeIterator<Item = &P> {
        self.ready.iter().map(|ready| &ready.process)
    }

    /// Takes all out, to be ended, and starts none any more.
    pub(super) fn drain(&mut self) -> Vec<P> {
        self.size = 0;
        self.ready.drain(..).map(|ready| ready.process).collect()
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

    /// How many are begun at `now`.
    fn begun(reserve: &mut StandbyPool<u32>, now: Now) -> usize {
        std::iter::from_fn(|| reserve.start(now).then_some(())).count()
    }

    #[test]
    fn a_taken_or_dead_standby_is_replaced_and_the_oldest_goes_first() {
        let mut reserve = StandbyPool::of(2, 0);
        assert_eq!(begun(&mut reserve, NOW), 2);
        assert!(!reserve.is_settled(NOW));
        let first = reserve.started(1, NOW).unwrap();
        reserve.started(2, NOW).unwrap();
        assert!(reserve.is_settled(NOW));
        assert_eq!(begun(&mut reserve, NOW), 0);
        assert_eq!(reserve.take(), Some(1));
        assert_eq!(reserve.died(first, NOW), None, "it was taken");
        assert_eq!(begun(&mut reserve, NOW), 1);
        let third = reserve.started(3, NOW).unwrap();
        assert_eq!(reserve.died(third, NOW + LONGEST_BACKOFF), Some(3));
        let replaced = reserve.next_deadline(NOW + LONGEST_BACKOFF).unwrap();
        assert!(!reserve.is_settled(replaced));
    }

    #[test]
    fn failures_make_the_next_start_wait_until_one_has_served() {
        let mut reserve: StandbyPool<u32> = StandbyPool::of(1, 0);
        let mut now = NOW;
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(reserve.start(now));
            reserve.failed(now);
            assert!(!reserve.start(now) && reserve.is_settled(now));
            let next = reserve.next_deadline(now).unwrap();
            waits.push(next - now);
            now = next;
        }
        assert!(waits.windows(2).take(6).all(|pair| pair[0] < pair[1]));
        assert!(waits.iter().all(|wait| *wait <= LONGEST_BACKOFF));
        assert!(reserve.start(now));
        let id = reserve.started(1, now).unwrap();
        assert_eq!(reserve.died(id, now), Some(1));
        assert!(!reserve.start(now), "it did not serve");
        reserve.served();
        assert!(reserve.start(now));
    }

    #[test]
    fn a_vmm_without_such_processes_is_asked_once_and_the_reserve_is_full() {
        let mut reserve: StandbyPool<u32> = StandbyPool::of(1, 0);
        assert!(reserve.start(NOW));
        reserve.unsupported();
        assert!(reserve.is_settled(NOW) && !reserve.start(NOW));
        assert_eq!(reserve.next_deadline(NOW), None);
    }

    #[test]
    fn after_a_drain_nothing_is_kept_and_nothing_begun() {
        let mut reserve = StandbyPool::of(2, 0);
        assert_eq!(begun(&mut reserve, NOW), 2);
        reserve.started(1, NOW).unwrap();
        assert_eq!(reserve.drain(), [1]);
        assert_eq!(reserve.started(2, NOW), Err(2), "it was on its way");
        assert_eq!(begun(&mut reserve, NOW), 0);
        assert_eq!(reserve.take(), None);
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
            let mut reserve = StandbyPool::of(size, 7);
            let (mut now, mut starting, mut made) = (NOW, 0usize, 0u32);
            let (mut there, mut gone) = (Vec::new(), HashSet::new());
            for event in events {
                match event {
                    Event::Begin => starting += usize::from(reserve.start(now)),
                    Event::Started if starting > 0 => {
                        starting -= 1;
                        made += 1;
                        there.push((reserve.started(made, now).unwrap(), made));
                    }
                    Event::Failed if starting > 0 => {
                        starting -= 1;
                        reserve.failed(now);
                    }
                    Event::Taken => match reserve.take() {
                        Some(process) => {
                            prop_assert_eq!(there.remove(0).1, process);
                            prop_assert!(gone.insert(process));
                        }
                        None => prop_assert!(there.is_empty()),
                    },
                    Event::Placement => reserve.served(),
                    Event::Died(at) if at < there.len() => {
                        let (id, process) = there.remove(at);
                        prop_assert_eq!(reserve.died(id, now), Some(process));
                        prop_assert!(gone.insert(process));
                        prop_assert_eq!(reserve.died(id, now), None);
                    }
                    Event::Later(millis) => now += Duration::from_millis(millis),
                    Event::Started | Event::Failed | Event::Died(_) => {}
                }
                prop_assert!(starting + there.len() <= size);
                prop_assert_eq!(reserve.ready().len(), there.len());
                // It fills up by itself, sooner or later.
                let due = reserve.next_deadline(now);
                prop_assert!(due.is_none_or(|due| due > now && due <= now + LONGEST_BACKOFF));
                let settled = starting == 0 && (there.len() == size || due.is_some());
                prop_assert_eq!(reserve.is_settled(now), settled);
            }
        }
    }
}
