//! The pool with real Firecracker processes.

use std::collections::HashSet;
use std::time::Duration;

use ironclaw_orchestrator::vm::{Launcher, Origin, Pool, PoolOptions};
use tokio::task::JoinSet;

use crate::fixture::{bench, is_alive, out};

pub(crate) async fn pool(launcher: &Launcher, size: usize) -> Pool {
    let options = PoolOptions {
        size,
        warm: size,
        refresh: Duration::from_secs(3600),
    };
    Pool::open(launcher.clone(), options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_clones_serve_are_never_served_twice_and_leave_nothing() {
    let Some(bench) = bench().await else { return };
    let pool = pool(&bench.launcher, 3).await;
    let mut pids = HashSet::new();
    for round in 0..12 {
        pool.warmup().await.unwrap();
        let vm = pool.spawn("warm").await.unwrap();
        assert_eq!(vm.origin(), Origin::Warm);
        assert!(pids.insert(vm.pid()), "round {round}: handed out twice");
        assert_eq!(out(&vm, &["counter"]).await, "1\n", "it was used before");
        vm.destroy().await.unwrap();
    }
    pids.extend(pool.warm_pids());
    pool.close().await;
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert!(bench.homes().is_empty(), "{:?}", bench.homes());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_spawns_at_a_time_get_twenty_vms() {
    let Some(bench) = bench().await else { return };
    let pool = pool(&bench.launcher, 4).await;
    pool.warmup().await.unwrap();
    let mut spawns = JoinSet::new();
    for number in 0..20 {
        let pool = pool.clone();
        spawns.spawn(async move {
            let vm = pool.spawn(&format!("vm-{number}")).await.unwrap();
            assert_eq!(out(&vm, &["counter"]).await, "1\n");
            vm
        });
    }
    let vms = spawns.join_all().await;
    let pids: HashSet<u32> = vms.iter().map(|vm| vm.pid()).collect();
    assert_eq!(pids.len(), 20);
    assert_eq!(pool.stats().leased, 20);
    for vm in vms {
        vm.destroy().await.unwrap();
    }
    pool.close().await;
    assert!(bench.homes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_warm_slots_are_made_without_a_failure() {
    let Some(bench) = bench().await else { return };
    let pool = pool(&bench.launcher, 20).await;
    let mut pids = HashSet::new();
    while pids.len() < 200 {
        pool.warmup().await.unwrap();
        let warm = pool.warm_pids();
        assert_eq!(warm.len(), 20);
        pids.extend(warm);
        for _ in 0..20 {
            let vm = pool.spawn("slot").await.unwrap();
            pids.insert(vm.pid());
            vm.destroy().await.unwrap();
        }
    }
    assert_eq!(pool.stats().failures, 0);
    pool.close().await;
    assert!(bench.homes().is_empty());
}
