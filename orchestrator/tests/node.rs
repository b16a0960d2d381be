//! Tests what all pools of a host have in common, with the hypervisor of `pool_cycles`.

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
#[allow(dead_code, reason = "pool_cycles uses the rest")]
#[path = "pool_cycles/launcher.rs"]
mod launcher;
#[path = "pool_cycles/vm.rs"]
mod vm;
#[path = "shared/within.rs"]
mod within;
#[allow(dead_code, reason = "pool_cycles uses the rest")]
#[path = "pool_cycles/world.rs"]
mod world;

use std::sync::Arc;

use ironclaw_orchestrator::vm::vmm::Vmm;
use ironclaw_orchestrator::vm::{Budget, Limit, Origin, Pool, PoolOptions};

use launcher::of_template;
use vm::Simulated;
use within::within;
use world::World;

fn unlimited() -> Budget {
    Budget::new(Limit::new(usize::MAX, u64::MAX))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_templates_that_idle_have_one_set_of_standby_processes() {
    const TEMPLATES: usize = 50;
    const STANDBY: usize = 2;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = World::new();
    let vmm: Arc<dyn Vmm> = Arc::new(Simulated::new(Arc::clone(&world)));
    let budget = unlimited();
    let mut pools = Vec::new();
    for template in 0..TEMPLATES {
        let options = PoolOptions::new(1)
            .with_standby(STANDBY)
            .with_budget(budget.clone());
        let launcher = of_template(directory.path(), Arc::clone(&vmm), template);
        let pool = Pool::open(launcher, options.with_warm(0)).await.unwrap();
        pool.warmup().await.unwrap();
        pools.push(pool);
    }
    // All boots have ended, and each pool has the same standby processes.
    within("only those live", async {
        while world.vms() > STANDBY as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let all = pools[0].standby_pids();
    assert_eq!(all.len(), STANDBY);
    for pool in &pools {
        assert_eq!(pool.standby_pids(), all);
    }
    // Whichever pool is asked, one of them serves, and is replaced.
    for pool in [&pools[7], &pools[42]] {
        let standby = pool.standby_pids();
        let vm = pool.spawn("restored").await.unwrap();
        assert_eq!(vm.origin(), Origin::Restored);
        assert!(standby.contains(&vm.pid()));
        // It is replaced.
        pool.warmup().await.unwrap();
        assert_eq!(pool.stats().standby, STANDBY);
    }
    // They exist as long as a pool wants them.
    let last = pools.pop().unwrap();
    for pool in pools {
        pool.close().await;
    }
    let vm = last.spawn("restored").await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored);
    drop(vm);
    last.close().await;
    within("nothing is left", async {
        while world.living() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spawn_among_a_thousand_warm_clones_makes_one_new_clone_and_no_more() {
    const CLONES: u32 = 1000;
    const SPAWNS: u32 = 20;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = World::new();
    let vmm: Arc<dyn Vmm> = Arc::new(Simulated::new(Arc::clone(&world)));
    let options = PoolOptions::new(1).with_standby(0).with_budget(unlimited());
    let launcher = of_template(directory.path(), Arc::clone(&vmm), 0);
    let pool = Pool::open(launcher, options.with_warm(CLONES as usize)).await;
    let pool = pool.unwrap();
    pool.warmup().await.unwrap();
    let stats = pool.stats();
    assert_eq!((stats.warm, stats.restoring), (CLONES as usize, 0));
    // The one that was booted for the snapshot, and none twice.
    assert_eq!(world.made(), 1 + CLONES);
    for n in 1..=SPAWNS {
        let vm = pool.spawn("warm").await.unwrap();
        assert_eq!(vm.origin(), Origin::Warm);
        vm.destroy().await.unwrap();
        pool.warmup().await.unwrap();
        assert_eq!(world.made(), 1 + CLONES + n);
    }
    assert_eq!(pool.stats().failures, 0);
    pool.close().await;
    within("nothing is left", async {
        while world.living() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
