//! What our code costs on top of the least that has to be done: each round does a thing once with
//! the pool and once with the minimal client, in turns, on the same machine in the same second.

use std::any::Any;
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_orchestrator::vm::{Launcher, Origin, Pool, PoolOptions};
use tokio::runtime::Runtime;

use crate::bare::Bare;

/// Makes all that may be there beforehand; what it returns does the rest and is measured.
type Prepare<'a> = Box<dyn FnMut() -> Measure<'a> + 'a>;
/// The time, and what lives until both sides are measured: an end is work for the kernel.
type Measure<'a> = Box<dyn FnOnce() -> (Duration, Box<dyn Any>) + 'a>;

/// One thing, done both ways: ours first, the floor second.
struct Pair<'a> {
    name: &'static str,
    sides: [Prepare<'a>; 2],
    /// Measured, and not told to criterion yet.
    pending: [VecDeque<Duration>; 2],
    measured: [Vec<Duration>; 2],
}

impl<'a> Pair<'a> {
    fn new(name: &'static str, ours: Prepare<'a>, floor: Prepare<'a>) -> Self {
        Self {
            name,
            sides: [ours, floor],
            pending: Default::default(),
            measured: Default::default(),
        }
    }

    /// The next measurement of one side. Where there is none left, both are measured.
    fn next(&mut self, side: usize) -> Duration {
        if self.pending[side].is_empty() {
            self.round();
        }
        self.pending[side].pop_front().unwrap()
    }

    fn round(&mut self) {
        // Whoever comes second finds the processor awake and its caches used by the other, and
        // was made later.
        let first = self.measured[0].len() % 2;
        let order = [first, 1 - first];
        let prepared = order.map(|side| (side, (self.sides[side])()));
        let measured = prepared.map(|(side, measure)| (side, measure()));
        for (side, (took, _)) in &measured {
            self.pending[*side].push_back(*took);
            self.measured[*side].push(*took);
        }
    }

    fn bench(&mut self, group: &mut BenchmarkGroup<'_, WallTime>, floor: &str) {
        let names = [
            format!("{} in turns with its floor", self.name),
            format!("floor of {}: {floor}", self.name),
        ];
        for (side, name) in names.into_iter().enumerate() {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|rounds| (0..rounds).map(|_| self.next(side)).sum());
            });
        }
    }

    /// Says how the two compare, if both were measured.
    fn report(mut self) {
        if self.measured[0].is_empty() {
            return;
        }
        self.measured.iter_mut().for_each(|times| times.sort());
        let [ours, floor] = &self.measured;
        let quantiles = [("p50", 50), ("p90", 90), ("p99", 99)].map(|(name, percent)| {
            let at = |times: &[Duration]| times[(times.len() - 1) * percent / 100].as_secs_f64();
            let (ours, floor) = (at(ours) * 1e3, at(floor) * 1e3);
            format!("{name} {ours:.3} / {floor:.3} ms = {:.2}", ours / floor)
        });
        println!(
            "overhead of {} over its floor, {} rounds: {}",
            self.name,
            ours.len(),
            quantiles.join(", ")
        );
    }
}

/// Compares a warm spawn and a restore with the minimal client's, and prints the ratios.
pub(crate) fn compare(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    firecracker: &Path,
    launcher: &Launcher,
    snapshot: &Snapshot,
) {
    let warm = pool(runtime, launcher, 1);
    let mut pair = Pair::new(
        "warm",
        Box::new(|| {
            runtime.block_on(warm.warmup()).unwrap();
            Box::new(|| {
                let served = spawn(runtime, &warm, Origin::Warm);
                // Nothing is made while the other side is measured.
                runtime.block_on(warm.warmup()).unwrap();
                served
            })
        }),
        Box::new(|| {
            let paused = Bare::restore(firecracker, snapshot).pause();
            Box::new(move || paused.resume_and_ping())
        }),
    );
    pair.bench(group, "resume + ping");
    pair.report();

    let cold = pool(runtime, launcher, 0);
    let mut pair = Pair::new(
        "restored",
        Box::new(|| Box::new(|| spawn(runtime, &cold, Origin::Restored))),
        Box::new(|| {
            Box::new(|| {
                let bare = Bare::restore(firecracker, snapshot);
                (bare.took, Box::new(bare) as Box<dyn Any>)
            })
        }),
    );
    pair.bench(group, "start + load + resume");
    pair.report();
    runtime.block_on(async {
        warm.close().await;
        cold.close().await;
    });
}

fn pool(runtime: &Runtime, launcher: &Launcher, warm: usize) -> Pool {
    runtime.block_on(async {
        let options = PoolOptions::new(1).with_warm(warm);
        let pool = Pool::open(launcher.clone(), options).await.unwrap();
        pool.warmup().await.unwrap();
        pool
    })
}

/// As a server does it: in a task, not on the thread that waits for the runtime.
fn spawn(runtime: &Runtime, pool: &Pool, tier: Origin) -> (Duration, Box<dyn Any>) {
    let pool = pool.clone();
    let spawned = runtime.spawn(async move {
        let start = Instant::now();
        let vm = pool.spawn("bench").await.unwrap();
        (vm, start.elapsed())
    });
    let (vm, took) = runtime.block_on(spawned).unwrap();
    assert_eq!(vm.origin(), tier);
    (took, Box::new(vm))
}
