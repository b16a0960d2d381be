//! Tests a tier that always fails, with the hypervisor of `pool_cycles`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "pool_cycles uses the rest")]
#[path = "pool_cycles/fault.rs"]
mod fault;
#[path = "pool_cycles/guest.rs"]
mod guest;
#[path = "pool_cycles/launcher.rs"]
mod launcher;
#[path = "pool_cycles/vm.rs"]
mod vm;
#[path = "shared/within.rs"]
mod within;
#[allow(dead_code, reason = "pool_cycles uses the rest")]
#[path = "pool_cycles/world.rs"]
mod world;

use std::time::Duration;

use ironclaw_orchestrator::vm::snapshot::SnapshotId;
use ironclaw_orchestrator::vm::{LaunchError, Launcher, Origin, Pool, PoolOptions, SpawnError};

use launcher::launcher;
use within::within;
use world::World;

/// Like Firecracker 1.16 after a pause by its API.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_whose_clones_never_answer_is_off_and_costs_no_spawn_anything_until_it_works() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = World::new();
    let launcher = launcher(directory.path(), &world);
    let pool = Pool::open(launcher, PoolOptions::new(3)).await.unwrap();
    pool.warmup().await.unwrap();

    // The existing clones were tried before the fault: they fail spawns, each of which tries one.
    world.deafen(true);
    let vm = pool.spawn("restored").await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored);
    drop(vm);
    // All others fail in the background, where nobody waits for them.
    let off = async {
        while !pool.stats().off.contains_key(&Origin::Warm) {
            let error = pool.warmup().await;
            assert!(error.is_err() || pool.stats().off.contains_key(&Origin::Warm));
            pool.advance_clock(Duration::from_secs(1));
        }
    };
    within("the warm tier is off", off).await;
    let stats = pool.stats();
    assert_eq!(stats.off[&Origin::Warm].reason, "not_released", "{stats:?}");
    let failed = stats.fallbacks.clone();
    for _ in 0..100 {
        let vm = pool.spawn("restored").await.unwrap();
        assert_eq!(vm.origin(), Origin::Restored);
    }
    let stats = pool.stats();
    assert_eq!(stats.fallbacks, failed, "a spawn paid for it");
    assert_eq!((stats.warm, stats.served_restored), (0, 101));
    let text = ironclaw_orchestrator::metrics::prometheus_text(&[stats]);
    let gauge = text
        .lines()
        .find(|line| line.contains("tier_off") && line.contains("warm"));
    assert!(gauge.is_some_and(|gauge| gauge.ends_with(" 1")), "{text}");

    // The tier stays off while the fault lasts, and recovers by itself.
    pool.advance_clock(Duration::from_secs(300));
    let tried = async {
        while pool.warmup().await.is_ok() {
            pool.advance_clock(Duration::from_secs(300));
        }
    };
    within("it is tried again", tried).await;
    world.deafen(false);
    let back = async {
        while pool.warmup().await.is_err() || pool.stats().warm < 3 {
            pool.advance_clock(Duration::from_secs(300));
        }
    };
    within("the warm tier is back", back).await;
    assert!(pool.stats().off.is_empty());
    let vm = pool.spawn("warm").await.unwrap();
    assert_eq!(vm.origin(), Origin::Warm);
    drop(vm);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_pool_the_error_names_the_tier_that_fails() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = World::new();
    let launcher = launcher(directory.path(), &world);
    let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
    launcher.try_tiers(&snapshot).await.unwrap();
    world.deafen(true);
    let failed = launcher.try_tiers(&snapshot).await.unwrap_err();
    let (tier, error) = failed;
    assert_eq!(tier, Origin::Warm, "{error}");
    assert!(matches!(error, LaunchError::NotReleased { .. }), "{error}");
    world.deafen(false);
    launcher.try_tiers(&snapshot).await.unwrap();
}

/// Like a VMM whose program or libraries are damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vmm_that_always_dies_costs_no_snapshot_however_often_it_is_tried() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = World::new();
    let launcher = launcher(directory.path(), &world);
    let pool = Pool::open(launcher.clone(), PoolOptions::new(3));
    let pool = pool.await.unwrap();
    pool.warmup().await.unwrap();
    let before = ids(&launcher);
    assert_eq!(before.len(), 3);
    pool.close().await;

    world.kill_vmms(true);
    // Fewer slots than snapshots, and as many; with and without warm clones.
    for (size, warm) in [(1, 0), (1, 1), (3, 0), (3, 3)] {
        for _ in 0..3 {
            let options = PoolOptions::new(size).with_warm(warm);
            let pool = Pool::open(launcher.clone(), options).await.unwrap();
            for _ in 0..3 {
                let error = pool.spawn("never").await.unwrap_err();
                assert!(matches!(error, SpawnError::Failed(_)), "{error}");
                pool.advance_clock(Duration::from_secs(100));
            }
            pool.close().await;
            assert_eq!(ids(&launcher), before, "{size} places, {warm} warm");
        }
    }
    world.kill_vmms(false);
    let pool = Pool::open(launcher.clone(), PoolOptions::new(3).with_warm(0));
    let pool = pool.await.unwrap();
    let vm = pool.spawn("restored").await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored);
    drop(vm);
    pool.close().await;
    assert_eq!(ids(&launcher), before);
}

fn ids(launcher: &Launcher) -> Vec<SnapshotId> {
    let entries = launcher.snapshots().list().unwrap().into_iter();
    entries.map(|entry| entry.id).collect()
}
