//! Limits how many VMMs the host starts at a time, and decides their order.
//!
//! A start uses processors, and more starts at a time than these can handle are slower for all. But
//! a restore waits for the kernel longer than it works, so a limit by the number of processors
//! would leave them idle: the limit follows measurements of how long a start works and waits. The
//! time for which it waits for a processor does not count: that is no reason to start more.
//!
//! Spawns come before what pools make in advance, which gets half of the limit at most and starts
//! only while no spawn waits. Boots work all the time: as many as there are processors run, of
//! spawns and of snapshots each, beside the others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::processor_time::ProcessorTime;

/// Limit of the concurrent starts for each processor, whatever was measured.
const MAX_PER_PROCESSOR: usize = 16;
/// Ratio of a start's time to its work, until one was measured.
const FIRST_RATIO: f64 = 2.0;
/// Weight of a new measurement in the ratio.
const WEIGHT: f64 = 0.1;
/// Factor on the measurement: starts that wait for the kernel together wait longer than a single
/// one.
const HEADROOM: f64 = 2.0;

/// Interval of measurements of spawns' starts, each of which delays one by some 50 microseconds.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// The purpose of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// A clone for a spawn.
    Restore,
    /// A VM for a spawn without a snapshot.
    Boot,
    /// A warm clone, or a standby process.
    Refill,
    /// A template's boot for a snapshot.
    Build,
}

/// Purposes by precedence.
const ORDER: [Start; 4] = [Start::Restore, Start::Boot, Start::Refill, Start::Build];

/// The running and waiting starts: rules without I/O.
#[derive(Debug)]
struct Queue<W> {
    processors: usize,
    /// Ratio of a start's time to its work.
    ratio: f64,
    running: [usize; ORDER.len()],
    /// The waiting ones, the longest first.
    waiting: [VecDeque<(u64, W)>; ORDER.len()],
    numbers: u64,
}

impl<W> Queue<W> {
    fn new(processors: usize) -> Self {
        Self {
            processors,
            ratio: FIRST_RATIO,
            running: Default::default(),
            waiting: std::array::from_fn(|_| VecDeque::new()),
            numbers: 0,
        }
    }

    /// Returns how many clones may be started at a time.
    fn limit(&self) -> usize {
        // Rounded.
        let fit = |each: &usize| self.ratio * HEADROOM > *each as f64 + 0.5;
        let each = (1..MAX_PER_PROCESSOR).take_while(fit).count() + 1;
        self.processors * each
    }

    /// Returns whether another one may start now.
    fn admits(&self, start: Start) -> bool {
        let [restores, boots, refills, builds] = self.running;
        let has_room = restores + refills < self.limit();
        match start {
            Start::Restore => has_room,
            Start::Boot => boots < self.processors,
            Start::Refill => {
                let spawns_wait = !self.waiting[Start::Restore as usize].is_empty();
                has_room && refills < (self.limit() / 2).max(1) && !spawns_wait
            }
            Start::Build => builds < self.processors,
        }
    }

    /// Lets a newcomer start at once, or returns its number in the queue.
    fn arrive(&mut self, start: Start, waiter: impl FnOnce() -> W) -> Option<u64> {
        if self.waiting[start as usize].is_empty() && self.admits(start) {
            self.running[start as usize] += 1;
            return None;
        }
        self.numbers += 1;
        self.waiting[start as usize].push_back((self.numbers, waiter()));
        Some(self.numbers)
    }

    /// Removes a waiting one, if it still waits.
    fn cancel(&mut self, start: Start, number: u64) {
        let waiting = &mut self.waiting[start as usize];
        if let Ok(at) = waiting.binary_search_by_key(&number, |(number, _)| *number) {
            waiting.remove(at);
        }
    }

    /// Returns the next one that may start, which counts from now on.
    fn next(&mut self) -> Option<(Start, W)> {
        ORDER.into_iter().find_map(|start| {
            let admitted = self.admits(start);
            let waiting = admitted.then_some(&mut self.waiting[start as usize])?;
            let (_, waiter) = waiting.pop_front()?;
            self.running[start as usize] += 1;
            Some((start, waiter))
        })
    }

    fn end(&mut self, start: Start) {
        self.running[start as usize] -= 1;
    }

    /// Records the ratio of a start.
    fn measure(&mut self, ratio: f64) {
        self.ratio += (ratio.clamp(1.0, MAX_PER_PROCESSOR as f64) - self.ratio) * WEIGHT;
    }
}

type Waiter = oneshot::Sender<Permit>;

/// The starts of a host, by all its pools.
#[derive(Debug)]
pub(super) struct Starts {
    queue: Mutex<Queue<Waiter>>,
    /// The time of the last measurement of a spawn's start.
    looked: Mutex<Option<Instant>>,
}

/// A permit to start a VMM, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    starts: Arc<Starts>,
    start: Start,
}

/// A waiting start; dropping it leaves the queue.
struct Waiting<'a> {
    starts: &'a Arc<Starts>,
    start: Start,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.starts.queue().cancel(self.start, self.number);
        // Refills may have waited for it.
        self.starts.grant();
    }
}

impl Starts {
    pub(super) fn new() -> Arc<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            queue: Mutex::new(Queue::new(processors)),
            looked: Mutex::default(),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Waiter>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permit(self: &Arc<Self>, start: Start) -> Permit {
        let starts = Arc::clone(self);
        Permit { starts, start }
    }

    /// Resolves when such a start may begin. Dropping the future leaves the queue.
    pub(super) async fn acquire(self: &Arc<Self>, start: Start) -> Permit {
        let mut granted = None;
        let waits = self.queue().arrive(start, || {
            let (sender, receiver) = oneshot::channel();
            granted = Some(receiver);
            sender
        });
        let (Some(number), Some(granted)) = (waits, granted) else {
            return self.permit(start);
        };
        let _waiting = Waiting {
            starts: self,
            start,
            number,
        };
        match granted.await {
            Ok(permit) => permit,
            // The sender is in the queue until it has sent.
            Err(_) => std::future::pending().await,
        }
    }

    /// Lets those begin that may.
    fn grant(self: &Arc<Self>) {
        loop {
            let next = self.queue().next();
            let Some((start, waiter)) = next else { return };
            // One that is gone returns its permit.
            drop(waiter.send(self.permit(start)));
        }
    }

    /// Returns how many the host starts at a time now.
    pub(super) fn limit(&self, start: Start) -> usize {
        let queue = self.queue();
        match start {
            Start::Restore | Start::Refill => queue.limit(),
            Start::Boot | Start::Build => queue.processors,
        }
    }

    /// Returns whether to measure a spawn's start now.
    pub(super) fn is_due(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|looked| looked.elapsed() >= SAMPLE_INTERVAL);
        if due {
            *looked = Some(Instant::now());
        }
        due
    }

    /// Records a VMM's start and restore, with its time and, if known, its processor time.
    pub(super) fn measured(self: &Arc<Self>, took: Duration, time: Option<ProcessorTime>) {
        let Some(ProcessorTime { worked, queued }) = time.filter(|time| !time.worked.is_zero())
        else {
            return;
        };
        let took = took.saturating_sub(queued).max(worked);
        let ratio = took.as_secs_f64() / worked.as_secs_f64();
        self.queue().measure(ratio);
        self.grant();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.starts.queue().end(self.start);
        self.starts.grant();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(processors: usize) -> Queue<u32> {
        Queue::new(processors)
    }

    /// Returns how many starts for `start` begin before one waits.
    fn fill(queue: &mut Queue<u32>, start: Start) -> usize {
        let begun =
            std::iter::from_fn(|| queue.arrive(start, || 0).is_none().then_some(())).count();
        let number = queue.numbers;
        queue.cancel(start, number);
        begun
    }

    #[test]
    fn the_limit_follows_what_a_start_waits_and_what_it_works() {
        let mut queue = queue(2);
        for _ in 0..100 {
            queue.measure(1.0);
        }
        let busy = queue.limit();
        for _ in 0..100 {
            queue.measure(4.0);
        }
        assert!(busy >= 2 && queue.limit() == 4 * busy, "{queue:?}");
        for _ in 0..100 {
            queue.measure(f64::INFINITY);
        }
        assert_eq!(queue.limit(), 2 * MAX_PER_PROCESSOR);
    }

    #[test]
    fn refills_leave_half_to_spawns_and_boots_as_many_as_there_are_processors() {
        let mut queue = queue(2);
        let limit = queue.limit();
        assert_eq!(fill(&mut queue, Start::Refill), limit / 2);
        assert_eq!(fill(&mut queue, Start::Restore), limit - limit / 2);
        assert_eq!(fill(&mut queue, Start::Boot), 2);
        assert_eq!(fill(&mut queue, Start::Build), 2);
    }

    #[test]
    fn a_spawn_that_waits_comes_before_a_refill_that_waited_longer() {
        let mut queue = queue(1);
        while queue.arrive(Start::Restore, || 0).is_none() {}
        assert!(queue.arrive(Start::Refill, || 1).is_some());
        assert!(queue.arrive(Start::Restore, || 2).is_some());
        for (start, waiter) in [(Start::Restore, 0), (Start::Restore, 2), (Start::Refill, 1)] {
            queue.end(Start::Restore);
            assert_eq!(queue.next(), Some((start, waiter)));
        }
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_spawn_that_goes_away_puts_off_no_refill() {
        let mut queue = queue(1);
        while queue.arrive(Start::Restore, || 0).is_none() {}
        let restore = queue.numbers;
        assert!(queue.arrive(Start::Refill, || 1).is_some());
        queue.cancel(Start::Restore, restore);
        queue.end(Start::Restore);
        assert_eq!(queue.next(), Some((Start::Refill, 1)));
    }

    fn start() -> impl Strategy<Value = Start> {
        (0..ORDER.len()).prop_map(|at| ORDER[at])
    }

    proptest! {
        #[test]
        fn limits_hold_and_nobody_waits_while_there_is_room(
            events in proptest::collection::vec((start(), 0..4_u8, 0.0..20.0_f64), 0..300),
        ) {
            let mut queue = queue(2);
            for (start, event, ratio) in events {
                match event {
                    0 | 1 => drop(queue.arrive(start, || 0)),
                    2 if queue.running[start as usize] > 0 => queue.end(start),
                    _ => queue.measure(ratio),
                }
                let before = queue.running;
                while queue.next().is_some() {}
                let [restores, boots, refills, builds] = queue.running;
                // A lower limit ends nothing.
                let most = queue.limit().max(before[0] + before[2]);
                prop_assert!(restores + refills <= most);
                prop_assert!(boots <= 2 && builds <= 2);
                for start in ORDER {
                    let waits = !queue.waiting[start as usize].is_empty();
                    prop_assert!(!(waits && queue.admits(start)), "{queue:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn whoever_goes_away_gives_back_what_it_was_granted() {
        let starts = Starts::new();
        let mut permits = Vec::new();
        while starts.queue().admits(Start::Restore) {
            permits.push(starts.acquire(Start::Restore).await);
        }
        let (gone, stays) = (starts.clone(), starts.clone());
        let mut gone = Box::pin(gone.acquire(Start::Restore));
        let mut stays = Box::pin(stays.acquire(Start::Restore));
        for waits in [&mut gone, &mut stays] {
            let now = std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx)));
            assert!(now.await.is_pending());
        }
        permits.pop();
        drop(gone);
        drop(stays.await);
        drop(permits);
        assert_eq!(starts.queue().running, [0; ORDER.len()]);
    }
}
