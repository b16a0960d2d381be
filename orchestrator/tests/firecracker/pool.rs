//! The pool with a real Firecracker.

use std::collections::HashSet;

use ironclaw_orchestrator::vm::{Origin, VmHandle};
use tokio::task::JoinSet;

use crate::lab::{Lab, pool, run};
use crate::process::{is_alive, kill, living_in};

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_clone_serves_and_is_replaced() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 1, 1).await;
    pool.warmup().await.unwrap();
    let warm = pool.warm_pids();
    let vm = pool.spawn("warm").await.unwrap();
    assert_eq!((vm.origin(), vec![vm.pid()]), (Origin::Warm, warm));
    assert!(run(&vm, ["identity"]).await.starts_with("warm\n"));
    assert_eq!(pool.stats().leased, 1);
    pool.warmup().await.unwrap();
    assert_eq!(pool.stats().warm, 1);
    assert_ne!(pool.warm_pids(), [vm.pid()]);
    let (leased, waiting) = (vm.pid(), pool.warm_pids()[0]);
    vm.destroy().await.unwrap();
    assert_eq!(pool.stats().leased, 0);
    pool.close().await;
    assert!(!is_alive(leased) && !is_alive(waiting));
    assert!(lab.homes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_warm_clone_a_snapshot_serves_and_without_that_a_boot() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 1, 0).await;
    let vm = pool.spawn("first").await.unwrap();
    assert_eq!(vm.origin(), Origin::ColdBooted);
    pool.warmup().await.unwrap();
    let vm = pool.spawn("second").await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_clone_that_was_killed_is_replaced() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 1, 1).await;
    pool.warmup().await.unwrap();
    let victim = pool.warm_pids()[0];
    kill(victim);
    let vm = pool.spawn("survivor").await.unwrap();
    assert_ne!(vm.pid(), victim);
    assert_eq!(run(&vm, ["echo", "here"]).await, "here\n");
    pool.warmup().await.unwrap();
    assert_eq!(pool.stats().warm, 1);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_spawns_at_a_time_get_twenty_vms() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 5, 5).await;
    pool.warmup().await.unwrap();
    let mut spawns = JoinSet::new();
    for n in 0..20 {
        let pool = pool.clone();
        spawns.spawn(async move {
            let vm = pool.spawn(&format!("vm-{n}")).await.unwrap();
            let identity = run(&vm, ["identity"]).await;
            assert_eq!(identity.lines().next().unwrap(), format!("vm-{n}"));
            // Nobody was in it before, and nobody is in it besides.
            assert_eq!(run(&vm, ["counter"]).await, "1\n");
            vm
        });
    }
    let vms: Vec<VmHandle> = spawns.join_all().await;
    let pids: HashSet<u32> = vms.iter().map(VmHandle::pid).collect();
    assert_eq!(pids.len(), 20);
    let stats = pool.stats();
    assert_eq!((stats.leased, stats.failures), (20, 0), "{stats:?}");
    assert!(stats.served_warm >= 5, "{stats:?}");
    assert_eq!(stats.served_cold, 0, "{stats:?}");
    let ends: Vec<_> = vms.iter().map(VmHandle::exited).collect();
    drop(vms);
    for end in ends {
        end.await;
    }
    assert_eq!(pool.stats().leased, 0);
    pool.close().await;
    assert!(lab.homes().is_empty());
    let left = living_in(&lab.config.run_path);
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_warm_clones_are_made_without_a_failure() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 5, 5).await;
    let mut pids = Vec::new();
    for round in 0..40 {
        pool.warmup().await.unwrap();
        assert_eq!(pool.warm_pids().len(), 5, "round {round}");
        for n in 0..5 {
            let vm = pool.spawn(&format!("vm-{round}-{n}")).await.unwrap();
            assert_eq!(run(&vm, ["counter"]).await, "1\n");
            pids.push(vm.pid());
            vm.destroy().await.unwrap();
        }
    }
    pool.warmup().await.unwrap();
    let stats = pool.stats();
    assert_eq!(stats.failures, 0, "{stats:?}");
    assert_eq!(stats.served_warm, 200, "{stats:?}");
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(lab.homes().len(), 5, "those that wait");
    pool.close().await;
    assert!(lab.homes().is_empty());
}
