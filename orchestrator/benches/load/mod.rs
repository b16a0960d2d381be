//! Measures larger loads: concurrent spawns, larger guests, guests that write more memory.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use ironclaw_orchestrator::vm::{
    Budget, Command, Config, Launcher, Origin, Pool, PoolOptions, VmHandle,
};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::progress;

/// Measures bursts of spawns until the last is served, each by a warm clone of one snapshot.
pub(crate) fn bursts(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    launcher: &Launcher,
) {
    let room = Budget::of_host().holds(launcher.machine().memory_mib);
    for spawns in [1_usize, 5, 10, 20] {
        if spawns > room {
            println!("skipped: a burst of {spawns}: this host has memory for {room} VMs");
            continue;
        }
        group.throughput(Throughput::Elements(spawns as u64));
        group.bench_function(
            BenchmarkId::new("burst of warm spawns", spawns),
            |bencher| {
                let pool = open(runtime, launcher, spawns);
                bencher
                    .to_async(runtime)
                    .iter_custom(|rounds| burst(&pool, spawns, rounds));
                runtime.block_on(pool.close());
            },
        );
    }
    // A setting of the group, which would apply to later benchmarks, too.
    group.throughput(Throughput::Elements(1));
}

async fn burst(pool: &Pool, spawns: usize, rounds: u64) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        pool.warmup().await.unwrap();
        let start = Instant::now();
        let mut served = JoinSet::new();
        for _ in 0..spawns {
            let pool = pool.clone();
            served.spawn(async move { pool.spawn("bench").await.unwrap() });
        }
        let vms = served.join_all().await;
        total += start.elapsed();
        assert!(vms.iter().all(|vm| vm.origin() == Origin::Warm));
        end(vms).await;
    }
    total
}

async fn end(vms: Vec<VmHandle>) {
    let mut ending = JoinSet::new();
    for vm in vms {
        ending.spawn(async move { vm.destroy().await.unwrap() });
    }
    ending.join_all().await;
}

/// Measures a warm spawn and a command that writes to so much of the guest's memory: each page of
/// it is copied first.
pub(crate) fn dirty_memory(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    launcher: &Launcher,
) {
    for mebibytes in [0_u32, 16, 64] {
        let id = BenchmarkId::new("warm, and MiB written", mebibytes);
        group.bench_function(id, |bencher| {
            let pool = open(runtime, launcher, 1);
            bencher
                .to_async(runtime)
                .iter_custom(|rounds| write(&pool, mebibytes, rounds));
            runtime.block_on(pool.close());
        });
    }
}

async fn write(pool: &Pool, mebibytes: u32, rounds: u64) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        pool.warmup().await.unwrap();
        let start = Instant::now();
        let vm = pool.spawn("bench").await.unwrap();
        dirty(&vm, mebibytes).await;
        total += start.elapsed();
        vm.destroy().await.unwrap();
    }
    total
}

/// Writes by the test guest's built-in command, or into a file of a Linux guest, whose files are in
/// memory.
async fn dirty(vm: &VmHandle, mebibytes: u32) {
    let mebibytes = mebibytes.to_string();
    let builtin: Command = ["dirty", &mebibytes].into();
    if let Ok(output) = vm.exec(builtin).await {
        return assert!(output.status.success(), "{output:?}");
    }
    let count = format!("count={mebibytes}");
    let dd = ["dd", "if=/dev/zero", "of=/tmp/dirty", "bs=1M", &count];
    let output = vm.exec(dd).await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Measures both tiers with a snapshot, with guests as in `config`.
pub(crate) fn guest_memory(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    config: &Config,
) {
    let launcher = runtime
        .block_on(Launcher::open(config, progress()))
        .unwrap();
    for (name, warm, tier) in [("warm", 1, Origin::Warm), ("restored", 0, Origin::Restored)] {
        group.bench_function(name, |bencher| {
            let pool = open(runtime, &launcher, warm);
            bencher
                .to_async(runtime)
                .iter_custom(|rounds| crate::measure(&pool, rounds, tier));
            runtime.block_on(pool.close());
        });
    }
}

fn open(runtime: &Runtime, launcher: &Launcher, warm: usize) -> Pool {
    let options = PoolOptions::new(1).with_warm(warm);
    runtime
        .block_on(Pool::open(launcher.clone(), options))
        .unwrap()
}
