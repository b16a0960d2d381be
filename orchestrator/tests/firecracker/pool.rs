//! Tests the pool with a real Firecracker.

use std::collections::{HashMap, HashSet};

use std::time::Duration;

use ironclaw_orchestrator::vm::snapshot::Entry;
use ironclaw_orchestrator::vm::{
    Budget, GuestError, Limit, Limits, Origin, Pool, PoolOptions, SpawnError, SpawnOptions,
    VmHandle,
};
use tokio::task::JoinSet;

use crate::lab::{Lab, pool, run};
use crate::process::{is_alive, kill, living_in};
use crate::warm_successor::warm_successor;
use crate::within::within;

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
    let victim = pool.warm_pids();
    kill(victim[0]);
    let successor = warm_successor(&pool, &victim).await;
    let vm = pool.spawn("survivor").await.unwrap();
    assert_eq!((vm.origin(), vec![vm.pid()]), (Origin::Warm, successor));
    assert_eq!(run(&vm, ["echo", "here"]).await, "here\n");
    assert_eq!(pool.stats().failures, 1, "{:?}", pool.stats());
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_that_finds_no_warm_clone_takes_the_process_that_stands_by() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 1, 0).await;
    pool.warmup().await.unwrap();
    assert_eq!(pool.stats().standby, 1);
    let standby = pool.standby_pids();
    let vm = pool.spawn("first").await.unwrap();
    assert_eq!((vm.origin(), vec![vm.pid()]), (Origin::Restored, standby));
    assert_eq!(vm.timings().start, Duration::ZERO);
    assert!(run(&vm, ["identity"]).await.starts_with("first\n"));
    pool.warmup().await.unwrap();
    assert_ne!(pool.standby_pids(), [vm.pid()]);
    let memory = pool.footprint().await.unwrap().standby_pss_bytes;
    assert!(memory.len() == 1 && memory[0] > 0, "{memory:?}");
    let waiting = pool.standby_pids()[0];
    vm.destroy().await.unwrap();
    pool.close().await;
    assert!(!is_alive(waiting));
    assert!(lab.homes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_killed_while_it_stood_by_costs_neither_a_spawn_nor_its_snapshot() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 1, 0).await;
    pool.warmup().await.unwrap();
    let ids = || launcher.snapshots().list().unwrap()[0].id;
    let (victim, snapshot) = (pool.standby_pids()[0], ids());
    kill(victim);
    let vm = pool.spawn("survivor").await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored);
    assert_ne!(vm.pid(), victim);
    let replaced = async {
        while !matches!(pool.standby_pids()[..], [pid] if pid != victim) {
            tokio::task::yield_now().await;
        }
    };
    within("another process that stands by", replaced).await;
    assert_eq!(pool.stats().snapshots, 1);
    assert_eq!(ids(), snapshot, "it was built anew");
    drop(vm);
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
            // The VM is unused, and nobody else uses it.
            assert_eq!(run(&vm, ["counter"]).await, "1\n");
            vm
        });
    }
    let vms: Vec<VmHandle> = spawns.join_all().await;
    let pids: HashSet<u32> = vms.iter().map(|vm| vm.pid()).collect();
    assert_eq!(pids.len(), 20);
    let stats = pool.stats();
    assert_eq!((stats.leased, stats.failures), (20, 0), "{stats:?}");
    assert!(stats.served_warm >= 5, "{stats:?}");
    assert_eq!(stats.served_cold, 0, "{stats:?}");
    let ends: Vec<_> = vms.iter().map(|vm| vm.exited()).collect();
    drop(vms);
    for end in ends {
        within("the end of a VM", end).await;
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
    assert_eq!(lab.homes().len(), 6, "those that wait");
    pool.close().await;
    assert!(lab.homes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_warm_clones_share_one_snapshot() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 1, 5).await;
    pool.warmup().await.unwrap();
    let stats = pool.stats();
    assert_eq!((stats.snapshots, stats.warm), (1, 5));
    let mut vms = Vec::new();
    for n in 0..5 {
        vms.push(pool.spawn(&format!("vm-{n}")).await.unwrap());
    }
    assert!(vms.iter().all(|vm| vm.origin() == Origin::Warm));
    let mut seen = HashSet::new();
    for vm in &vms {
        assert!(seen.insert(run(vm, ["entropy"]).await), "entropy twice");
    }
    pool.close().await;
}

fn room_for(vms: usize) -> Budget {
    Budget::new(Limit::new(vms, u64::MAX))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_without_room_waits_for_the_end_of_a_vm_and_not_for_ever() {
    let Some(lab) = Lab::open().await else { return };
    let options = PoolOptions::new(1).with_warm(0).with_budget(room_for(1));
    let pool = Pool::open(lab.launcher().await, options).await.unwrap();
    pool.warmup().await.unwrap();
    let first = pool.spawn("first").await.unwrap();

    let patience = Duration::from_millis(50);
    let hasty = SpawnOptions::named("hasty").with_patience(patience);
    let error = pool.spawn_with(hasty).await.unwrap_err();
    match &error {
        SpawnError::PoolExhausted { waited, limit } => {
            assert_eq!(limit.vms, 1);
            assert!(*waited >= patience);
        }
        other => panic!("{other}"),
    }
    assert_eq!(pool.stats().waiting, 0, "it left the line");

    // Biased: the spawn is in the queue after the first poll.
    let (spawned, destroyed) = tokio::join!(biased; pool.spawn("second"), async {
        assert_eq!(pool.stats().waiting, 1);
        first.destroy().await
    });
    destroyed.unwrap();
    let second = spawned.unwrap();
    assert_eq!(second.name(), "second");
    assert!(second.timings().queue > Duration::ZERO);
    drop(second);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pools_share_one_budget() {
    let Some(lab) = Lab::open().await else { return };
    let options = PoolOptions::new(1).with_warm(0).with_budget(room_for(2));
    let one = Pool::open(lab.launcher().await, options.clone())
        .await
        .unwrap();
    let other = Pool::open(lab.launcher().await, options).await.unwrap();
    let vms = (
        one.spawn("a").await.unwrap(),
        other.spawn("b").await.unwrap(),
    );
    let (spawned, ()) = tokio::join!(biased; one.spawn("c"), async {
        assert_eq!(one.stats().waiting, 1);
        drop(vms.1);
    });
    assert_eq!(spawned.unwrap().name(), "c");
    drop(vms.0);
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_killed_when_its_time_is_over_or_nobody_uses_it() {
    let Some(lab) = Lab::open().await else { return };
    let pool = pool(&lab.launcher().await, 1, 0).await;
    let moment = Some(Duration::from_millis(200));
    let limited = async |limits| {
        let options = SpawnOptions::named("limited").with_limits(limits);
        pool.spawn_with(options).await.unwrap()
    };
    let vm = limited(Limits::default().with_max_lifetime(moment)).await;
    let error = vm.exec(["sleep", "60000"]).await.unwrap_err();
    assert!(matches!(error, GuestError::Closed { .. }), "{error}");
    assert!(error.to_string().contains("time limit"), "{error}");
    within("the end of a VM", vm.exited()).await;
    drop(vm);

    let vm = limited(Limits::default().with_idle(moment)).await;
    // Busy for longer than it may be idle.
    run(&vm, ["sleep", "1000"]).await;
    within("the end of a VM", vm.wait()).await;
    let error = vm.ping(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().contains("idle"), "{error}");
    assert_eq!(
        pool.stats().leased,
        0,
        "its room is free, although its handle is held"
    );
    drop(vm);
    assert_eq!(pool.stats().leased, 0);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_replaces_every_snapshot_and_spares_those_in_use_until_they_are_not() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 2, 0).await;
    pool.warmup().await.unwrap();
    let generations = || {
        let entries = launcher.snapshots().list().unwrap();
        let generation = |entry: &Entry| entry.state.as_ref().unwrap().generation;
        let pairs = entries.iter().map(|entry| (entry.id, generation(entry)));
        pairs.collect::<HashMap<_, _>>()
    };
    let before = generations();
    let vm = pool.spawn("old").await.unwrap();
    pool.refresh().await.unwrap();
    let stats = pool.stats();
    assert_eq!((stats.snapshots, stats.retired), (2, 1));
    assert_eq!(run(&vm, ["echo", "here"]).await, "here\n");
    vm.destroy().await.unwrap();
    let young = pool.spawn("young").await.unwrap();
    assert_eq!(young.origin(), Origin::Restored);
    drop(young);
    // Waits for the deletions under way.
    pool.close().await;
    let after = generations();
    assert_eq!(after.len(), 2);
    assert!(after.keys().all(|id| !before.contains_key(id)));
    // Two concurrent builds may have the same generation.
    assert!(
        after.values().min() > before.values().max(),
        "a successor is of a later generation: {before:?} {after:?}"
    );
}
