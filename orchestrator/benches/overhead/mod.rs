//! Measures the cost of our code over the minimum: each round does a thing once with the pool and
//! once with the minimal client, in turns, on the same machine in the same second.

use std::any::Any;
use std::cell::RefCell;
use std::time::{Duration, Instant};

use criterion::BenchmarkGroup;
use criterion::measurement::WallTime;
use ironclaw_orchestrator::vm::{Launcher, Origin, Pool, PoolOptions};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::bare::{Paused, Running, processor_time, stop};
use crate::turns::{Pair, Prepare};

/// Concurrent spawns in a burst.
const BURST: usize = 20;

/// Compares a warm spawn, a burst of them and a restored spawn with the minimal client, and prints
/// the ratios. Makes the minimal client's clones by `restore`; `serve` is its counterpart of a
/// restored spawn.
pub(crate) fn compare(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    launcher: &Launcher,
    restore: &dyn Fn() -> Running,
    serve: &dyn Fn() -> Running,
) {
    let spent = &RefCell::new(Vec::new());
    let warm = pool(runtime, launcher, PoolOptions::new(1));
    let ours: Prepare<'_> = Box::new(|| {
        runtime.block_on(warm.warmup()).unwrap();
        Box::new(|| {
            let served = spawn(runtime, &warm, Origin::Warm);
            // Builds everything first: nothing is made while the other side is measured.
            runtime.block_on(warm.warmup()).unwrap();
            served
        })
    });
    let floor: Prepare<'_> = Box::new(|| {
        let paused = restore().pause();
        Box::new(move || {
            let pid = paused.pid();
            let before = processor_time(pid);
            let measured = paused.resume_and_ask();
            spent.borrow_mut().push(processor_time(pid) - before);
            measured
        })
    });
    let mut pair = Pair::new(
        ("warm in turns with its floor", ours),
        ("floor of warm: resume + answer", floor),
    );
    pair.bench(group);
    pair.report();
    say_least(spent.take());

    let many = pool(runtime, launcher, PoolOptions::new(1).with_warm(BURST));
    let ours: Prepare<'_> = Box::new(|| {
        runtime.block_on(many.warmup()).unwrap();
        Box::new(|| {
            let served = burst(runtime, &many);
            runtime.block_on(many.warmup()).unwrap();
            served
        })
    });
    let floor: Prepare<'_> = Box::new(|| {
        let one = || restore().pause();
        let clones = std::iter::repeat_with(one).take(BURST).collect();
        Box::new(move || Paused::resume_and_ask_all(clones))
    });
    let mut pair = Pair::new(
        ("the last of 20 warm in turns with its floor", ours),
        ("floor of the last of 20: resume + answer", floor),
    );
    pair.bench(group);
    pair.report();

    let ready = pool(runtime, launcher, PoolOptions::new(1).with_warm(0));
    let unready = pool(
        runtime,
        launcher,
        PoolOptions::new(1).with_warm(0).with_standby(0),
    );
    let mut restored = vec![(
        &ready,
        "restored in turns with its floor",
        "floor of restored",
    )];
    // If nothing can stand by, this is the same.
    if ready.stats().standby > 0 {
        restored.push((
            &unready,
            "restored, with nothing standing by, in turns with its floor",
            "floor of that",
        ));
    }
    for (pool, name, floor_name) in restored {
        let ours: Prepare<'_> = Box::new(|| {
            runtime.block_on(pool.warmup()).unwrap();
            Box::new(|| {
                let served = spawn(runtime, pool, Origin::Restored);
                runtime.block_on(pool.warmup()).unwrap();
                served
            })
        });
        let floor: Prepare<'_> = Box::new(|| {
            Box::new(|| {
                let start = Instant::now();
                let bare = serve();
                let took = start.elapsed();
                bare.stop();
                (took, Box::new(bare) as Box<dyn Any>)
            })
        });
        let mut pair = Pair::new((name, ours), (floor_name, floor));
        pair.bench(group);
        pair.report();
    }
    runtime.block_on(async {
        warm.close().await;
        many.close().await;
        ready.close().await;
        unready.close().await;
    });
}

/// Prints the processor time of a resume and an answer, which bounds the throughput.
fn say_least(mut spent: Vec<Duration>) {
    if spent.is_empty() {
        return;
    }
    spent.sort();
    let processors = std::thread::available_parallelism().unwrap().get();
    let median = spent[spent.len() / 2].as_secs_f64() * 1e3;
    let least = median * BURST as f64 / processors as f64;
    println!(
        "processor time of a resume + answer, its VMM's, guest's and client's: p50 {median:.3} ms; \
         {BURST} at once take {processors} processors at least {least:.3} ms"
    );
}

fn pool(runtime: &Runtime, launcher: &Launcher, options: PoolOptions) -> Pool {
    runtime.block_on(async {
        let pool = Pool::open(launcher.clone(), options).await.unwrap();
        pool.warmup().await.unwrap();
        pool
    })
}

/// Like a server: in a task, not on the thread that waits for the runtime.
fn spawn(runtime: &Runtime, pool: &Pool, tier: Origin) -> (Duration, Box<dyn Any>) {
    let pool = pool.clone();
    let spawned = runtime.spawn(async move {
        let start = Instant::now();
        let vm = pool.spawn("bench").await.unwrap();
        (vm, start.elapsed())
    });
    let (vm, took) = runtime.block_on(spawned).unwrap();
    assert_eq!(vm.origin(), tier);
    stop(vm.pid());
    (took, Box::new(vm))
}

/// Measures until the last one is served.
fn burst(runtime: &Runtime, pool: &Pool) -> (Duration, Box<dyn Any>) {
    let all = async {
        let start = Instant::now();
        let mut served = JoinSet::new();
        for _ in 0..BURST {
            let pool = pool.clone();
            served.spawn(async move { pool.spawn("bench").await.unwrap() });
        }
        let vms = served.join_all().await;
        (start.elapsed(), vms)
    };
    let (took, vms) = runtime.block_on(all);
    assert!(vms.iter().all(|vm| vm.origin() == Origin::Warm));
    vms.iter().for_each(|vm| stop(vm.pid()));
    (took, Box::new(vms))
}
