//! Compares two ways to do a thing, in turns, on the same machine in the same second.

use std::any::Any;
use std::collections::VecDeque;
use std::time::Duration;

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;

/// Prepares a measurement; the returned function does the measured part.
pub(crate) type Prepare<'a> = Box<dyn FnMut() -> Measure<'a> + 'a>;
/// Returns the time, and values to keep until both sides are measured: dropping them is work for
/// the kernel.
pub(crate) type Measure<'a> = Box<dyn FnOnce() -> (Duration, Box<dyn Any>) + 'a>;

/// A thing, done both ways.
pub(crate) struct Pair<'a> {
    names: [&'static str; 2],
    sides: [Prepare<'a>; 2],
    /// Measurements that criterion has not taken yet.
    pending: [VecDeque<Duration>; 2],
    measured: [Vec<Duration>; 2],
}

impl<'a> Pair<'a> {
    pub(crate) fn new(
        one: (&'static str, Prepare<'a>),
        other: (&'static str, Prepare<'a>),
    ) -> Self {
        Self {
            names: [one.0, other.0],
            sides: [one.1, other.1],
            pending: Default::default(),
            measured: Default::default(),
        }
    }

    /// Returns the next measurement of one side. Measures both if there is none left.
    fn next(&mut self, side: usize) -> Duration {
        if self.pending[side].is_empty() {
            self.round();
        }
        self.pending[side].pop_front().unwrap()
    }

    fn round(&mut self) {
        // The second one finds the processor awake and its caches used by the other, and was
        // prepared later: so the order alternates.
        let first = self.measured[0].len() % 2;
        let order = [first, 1 - first];
        let prepared = order.map(|side| (side, (self.sides[side])()));
        let measured = prepared.map(|(side, measure)| (side, measure()));
        for (side, (took, _)) in &measured {
            self.pending[*side].push_back(*took);
            self.measured[*side].push(*took);
        }
    }

    pub(crate) fn bench(&mut self, group: &mut BenchmarkGroup<'_, WallTime>) {
        for side in 0..2 {
            group.bench_function(self.names[side], |bencher| {
                bencher.iter_custom(|rounds| (0..rounds).map(|_| self.next(side)).sum());
            });
        }
    }

    /// Prints how the two compare, if both were measured.
    pub(crate) fn report(mut self) {
        if self.measured[0].is_empty() {
            return;
        }
        self.measured.iter_mut().for_each(|times| times.sort());
        let [one, other] = &self.measured;
        let quantiles = [("p50", 50), ("p90", 90), ("p99", 99)].map(|(name, percent)| {
            let at = |times: &[Duration]| times[(times.len() - 1) * percent / 100].as_secs_f64();
            let (one, other) = (at(one) * 1e3, at(other) * 1e3);
            format!("{name} {one:.3} / {other:.3} ms = {:.2}", one / other)
        });
        let [one_name, other_name] = self.names;
        println!(
            "{one_name} / {other_name}, {} rounds: {}",
            one.len(),
            quantiles.join(", ")
        );
    }
}
