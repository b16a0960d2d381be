//! Measures spawns of each tier, up to the guest's confirmation of its new identity, with real VMs:
//! `cargo xtask setup && cargo bench --bench snapshot_pool`. Also bursts of spawns, guests of
//! several sizes, guests that write to memory, and the end of a VM.
//!
//! Under Firecracker a minimal client does the same in the same run, for comparison:
//!
//! * for `warm`, `PATCH /vm` and a ping on a connection that exists. `warm` also draws entropy,
//!   and has the guest take it, its clock and its names;
//! * for the last of 20 `warm` at once, the same of 20 clones, all asked before any is heard;
//! * for `restored`, the process's start and `PUT /snapshot/load`. `restored` also connects to the
//!   agent, and waits for what `warm` waits for.
//!
//! The two take turns, and the ratios of their quantiles are printed.
//!
//! Settings come from the environment as for `ironclaw`, whose template and snapshots are used and,
//! if missing, made. If Firecracker runs the guest, QEMU is measured after it, unless
//! `IRONCLAW_BACKEND` names one of them. Impossible measurements are printed as `skipped:`, with
//! the reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark fails by panicking"
)]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[allow(dead_code, reason = "tuning.rs uses the rest")]
mod bare;
mod load;
mod overhead;
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bare::firecracker::Started;
use bare::qemu::Recipe;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use ironclaw_orchestrator::vm::config::BackendChoice;
use ironclaw_orchestrator::vm::firecracker::{self, FirecrackerBinary};
use ironclaw_orchestrator::vm::qemu;
use ironclaw_orchestrator::vm::{
    Config, LaunchError, Launcher, Origin, Pool, PoolOptions, Progress, Stage,
};
use tokio::runtime::{Builder, Runtime};

fn progress() -> Progress {
    Arc::new(|stage: &Stage| eprintln!("{stage}"))
}

fn options(warm: usize) -> PoolOptions {
    PoolOptions::new(1).with_warm(warm)
}

fn spawns(criterion: &mut Criterion) {
    // The other half of the processors is for the VMMs and their guests.
    let processors = std::thread::available_parallelism().unwrap().get();
    let runtime = Builder::new_multi_thread()
        .worker_threads(processors.div_ceil(2))
        .enable_all()
        .build()
        .unwrap();
    let config = Config::from_env().unwrap();
    let launcher = match runtime.block_on(Launcher::open(&config, progress())) {
        Ok(launcher) => launcher,
        Err(error) => return println!("skipped: {error}"),
    };
    under(criterion, &runtime, &config, &launcher);
    if config.backend != BackendChoice::Auto {
        return;
    }
    if launcher.vmm().kind == qemu::KIND {
        return println!(
            "skipped: Firecracker, which is not installed or does not run the guest here (see \
             `ironclaw doctor`)"
        );
    }
    let mut config = config;
    config.backend = BackendChoice::Only(qemu::KIND);
    // A custom kernel may boot under Firecracker alone.
    let runs = async {
        let launcher = Launcher::open(&config, progress()).await?;
        drop(launcher.cold_boot("bench").await?);
        Ok::<_, LaunchError>(launcher)
    };
    match runtime.block_on(runs) {
        Ok(launcher) => under(criterion, &runtime, &config, &launcher),
        Err(error) => println!("skipped: QEMU: {error}"),
    }
}

/// Measures everything under one hypervisor.
fn under(criterion: &mut Criterion, runtime: &Runtime, config: &Config, launcher: &Launcher) {
    let vmm = launcher.vmm();
    let machine = launcher.machine();
    let name = format!("{}-{}-{}MiB", vmm.kind, vmm.accelerator, machine.memory_mib);
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20);

    group.bench_function("warm", |bencher| {
        let pool = runtime
            .block_on(Pool::open(launcher.clone(), options(1)))
            .unwrap();
        bencher
            .to_async(runtime)
            .iter_custom(|rounds| measure(&pool, rounds, Origin::Warm));
        runtime.block_on(pool.close());
    });
    group.bench_function("restored", |bencher| {
        let pool = runtime
            .block_on(Pool::open(launcher.clone(), options(0)))
            .unwrap();
        bencher
            .to_async(runtime)
            .iter_custom(|rounds| measure(&pool, rounds, Origin::Restored));
        runtime.block_on(pool.close());
    });
    beside_a_minimal_client(&mut group, runtime, config, launcher);
    group.sample_size(10);
    load::bursts(&mut group, runtime, launcher);
    load::dirty_memory(&mut group, runtime, launcher);
    group.bench_function("destroy", |bencher| {
        bencher
            .to_async(runtime)
            .iter_custom(|rounds| destroy(launcher, rounds));
    });
    group.bench_function("cold boot", |bencher| {
        bencher
            .to_async(runtime)
            .iter_custom(|rounds| boot(launcher, rounds));
    });
    group.bench_function("create snapshot", |bencher| {
        bencher
            .to_async(runtime)
            .iter_custom(|rounds| snapshot(launcher, rounds));
    });
    group.finish();
    for memory_mib in [256, 512] {
        let mut config = config.clone();
        config.machine.memory_mib = memory_mib;
        let name = format!("{}-{}-{memory_mib}MiB", vmm.kind, vmm.accelerator);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        load::guest_memory(&mut group, runtime, &config);
        group.finish();
    }
}

fn beside_a_minimal_client(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    config: &Config,
    launcher: &Launcher,
) {
    let created = runtime.block_on(launcher.create_snapshot()).unwrap();
    let snapshot = &created.snapshot;
    match &launcher.vmm().kind {
        kind if *kind == firecracker::KIND => {
            let found = FirecrackerBinary::find(config.backends.firecracker.binary.as_deref());
            let firecracker = runtime.block_on(found).unwrap();
            let restore = || Started::start(&firecracker).load(snapshot);
            overhead::compare(group, runtime, launcher, &restore, &restore);
        }
        kind if *kind == qemu::KIND => {
            let restored = runtime.block_on(launcher.restore_vm(snapshot, "recipe"));
            let recipe = Recipe::of(restored.unwrap().pid());
            let restore = || recipe.restore(snapshot);
            // Includes the answer, which takes most of the time: nothing in the guest is translated
            // yet.
            let serve = || {
                let mut clone = restore();
                clone.ask();
                clone
            };
            overhead::compare(group, runtime, launcher, &restore, &serve);
        }
        other => println!("skipped: {other}, which no minimal client speaks to"),
    }
    let id = snapshot.id();
    drop(created);
    launcher.snapshots().delete(id).unwrap();
}

/// Measures spawns, each with a full pool before it.
async fn measure(pool: &Pool, rounds: u64, tier: Origin) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        pool.warmup().await.unwrap();
        // Like a server: in a task, not on the thread that waits for the runtime.
        let one = pool.clone();
        let spawned = tokio::spawn(async move {
            let start = Instant::now();
            let vm = one.spawn("bench").await.unwrap();
            (vm, start.elapsed())
        });
        let (vm, took) = spawned.await.unwrap();
        total += took;
        assert_eq!(vm.origin(), tier);
        vm.destroy().await.unwrap();
    }
    total
}

/// Measures from the request until the process is gone.
async fn destroy(launcher: &Launcher, rounds: u64) -> Duration {
    let pool = Pool::open(launcher.clone(), options(0)).await.unwrap();
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        pool.warmup().await.unwrap();
        let vm = pool.spawn("bench").await.unwrap();
        let start = Instant::now();
        vm.destroy().await.unwrap();
        total += start.elapsed();
    }
    pool.close().await;
    total
}

async fn boot(launcher: &Launcher, rounds: u64) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let start = Instant::now();
        let vm = launcher.cold_boot("bench").await.unwrap();
        total += start.elapsed();
        vm.destroy().await.unwrap();
    }
    total
}

/// Measures pause, write, hash and publish, without the boot before that.
async fn snapshot(launcher: &Launcher, rounds: u64) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let created = launcher.create_snapshot().await.unwrap();
        total += created.write + created.publish;
        let (store, id) = (launcher.snapshots().clone(), created.snapshot.id());
        drop(created);
        tokio::task::spawn_blocking(move || store.delete(id))
            .await
            .unwrap()
            .unwrap();
    }
    total
}

criterion_group!(benches, spawns);
criterion_main!(benches);
