//! Estimates how many warm clones recent spawns would have needed.
//!
//! The measure is the largest number of spawns that arrived within [`WINDOW`], about the time in
//! which a pool replaces a clone. It is remembered for [`MEMORY`]: an hourly burst finds its clones
//! again, and an unused pool shrinks.

use std::collections::VecDeque;
use std::time::Duration;

use super::clock::Now;

/// Spawns within this time are one burst.
const WINDOW: Duration = Duration::from_secs(2);
/// Number of parts into which the remembered time is divided.
const BUCKETS: u32 = 18;
/// Time for which a burst is remembered.
const MEMORY: Duration = Duration::from_secs(3 * 3600);

/// The recent bursts, each counted up to `most`.
#[derive(Debug)]
pub(super) struct Demand {
    most: usize,
    memory: Duration,
    recent: VecDeque<Now>,
    /// The largest burst of each bucket, with the time at which the bucket is forgotten.
    peaks: VecDeque<(Now, usize)>,
}

impl Demand {
    pub(super) fn up_to(most: usize) -> Self {
        Self::remembered_for(MEMORY, most)
    }

    pub(super) fn remembered_for(memory: Duration, most: usize) -> Self {
        Self {
            most,
            memory,
            recent: VecDeque::new(),
            peaks: VecDeque::new(),
        }
    }

    /// Counts up to another number from now on.
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most;
        let surplus = self.recent.len().saturating_sub(most);
        self.recent.drain(..surplus);
    }

    /// Records a spawn.
    pub(super) fn arrived(&mut self, now: Now) {
        if self.most == 0 {
            return;
        }
        while self
            .peaks
            .front()
            .is_some_and(|(forgotten, _)| *forgotten <= now)
        {
            self.peaks.pop_front();
        }
        let over = |time: &Now| now.saturating_sub(*time) > WINDOW;
        while self.recent.len() == self.most || self.recent.front().is_some_and(over) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let burst = self.recent.len();
        match self.peaks.back_mut() {
            Some((forgotten, peak)) if now + self.memory < *forgotten => *peak = burst.max(*peak),
            _ => {
                let bucket = self.memory / BUCKETS;
                self.peaks.push_back((now + self.memory + bucket, burst));
            }
        }
    }

    /// Returns the largest remembered burst.
    pub(super) fn peak(&self, now: Now) -> usize {
        let remembered = self.remembered(now).map(|(_, peak)| *peak);
        remembered.max().unwrap_or(0)
    }

    /// Returns when the next bucket is forgotten.
    pub(super) fn next_change(&self, now: Now) -> Option<Now> {
        let (forgotten, _) = self.remembered(now).next()?;
        Some(*forgotten)
    }

    fn remembered(&self, now: Now) -> impl Iterator<Item = &(Now, usize)> {
        self.peaks
            .iter()
            .filter(move |(forgotten, _)| *forgotten > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_what_arrives_together() {
        let mut demand = Demand::up_to(50);
        for _ in 0..20 {
            demand.arrived(Duration::from_secs(1));
        }
        assert_eq!(demand.peak(Duration::from_secs(1)), 20);
        demand.arrived(Duration::from_secs(10));
        assert_eq!(
            demand.peak(Duration::from_secs(10)),
            20,
            "the largest counts"
        );
    }

    #[test]
    fn single_spawns_far_apart_need_one_clone() {
        let mut demand = Demand::up_to(50);
        for second in (0..1000).step_by(5) {
            demand.arrived(Duration::from_secs(second));
            assert_eq!(demand.peak(Duration::from_secs(second)), 1);
        }
    }

    #[test]
    fn a_burst_is_remembered_over_a_quiet_hour_and_forgotten_after_a_quiet_night() {
        let mut demand = Demand::up_to(50);
        for _ in 0..20 {
            demand.arrived(Duration::ZERO);
        }
        assert_eq!(demand.peak(Duration::from_secs(3600)), 20);
        assert_eq!(demand.peak(Duration::from_secs(8 * 3600)), 0);
        assert_eq!(demand.next_change(Duration::from_secs(8 * 3600)), None);
    }

    #[test]
    fn demand_keeps_bounded_history_however_many_arrive() {
        let mut demand = Demand::up_to(7);
        for milli in 0..1_000_000 {
            demand.arrived(Duration::from_millis(100 * milli));
            assert!(demand.recent.len() <= 7);
            demand.peak(Duration::from_millis(100 * milli));
            assert!(demand.peaks.len() <= 20);
        }
        assert_eq!(demand.peak(Duration::from_secs(100_000)), 7);
    }
}
