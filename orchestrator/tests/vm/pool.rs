//! Tests the pool with real VMs.

use std::collections::HashSet;

use ironclaw_orchestrator::vm::{Origin, Pool, PoolOptions};

use crate::fixture::{is_alive, launcher, sh, snapshot};
use crate::warm_successor::warm_successor;
use crate::within::within;

fn options(warm: usize) -> PoolOptions {
    PoolOptions::new(1).with_warm(warm)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_clone_serves_is_replaced_and_leaves_nothing_behind() {
    let Some(launcher) = launcher().await else {
        return;
    };
    snapshot(&launcher).await;
    let pool = Pool::open(launcher, options(1)).await.unwrap();
    let mut pids = HashSet::new();
    for round in 0..3 {
        pool.warmup().await.unwrap();
        let warm = pool.warm_pids();
        let vm = pool.spawn("warm").await.unwrap();
        assert_eq!((vm.origin(), vec![vm.pid()]), (Origin::Warm, warm));
        assert!(
            pids.insert(vm.pid()),
            "round {round}: a VM was handed out twice"
        );
        assert_eq!(sh(&vm, "hostname; ls /tmp").await, "warm\n");
        assert_eq!(pool.stats().leased, 1);
        let pid = vm.pid();
        vm.destroy().await.unwrap();
        assert!(!is_alive(pid), "it could run still");
        assert_eq!(pool.stats().leased, 0);
    }
    pool.warmup().await.unwrap();
    pids.extend(pool.warm_pids());
    assert_eq!(pool.stats().served_warm, 3);
    pool.close().await;
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_spawns_at_a_time_get_ten_vms() {
    let Some(launcher) = launcher().await else {
        return;
    };
    snapshot(&launcher).await;
    let pool = Pool::open(launcher, options(0)).await.unwrap();
    let mut spawns = tokio::task::JoinSet::new();
    for n in 0..10 {
        let pool = pool.clone();
        spawns.spawn(async move {
            let vm = pool.spawn(&format!("vm-{n}")).await.unwrap();
            assert_eq!(sh(&vm, "hostname").await, format!("vm-{n}\n"));
            vm
        });
    }
    let vms = spawns.join_all().await;
    let pids: HashSet<u32> = vms.iter().map(|vm| vm.pid()).collect();
    assert_eq!(pids.len(), 10);
    assert_eq!(pool.stats().leased, 10);
    assert_eq!(pool.stats().served_restored, 10);
    let ends: Vec<_> = vms.iter().map(|vm| vm.exited()).collect();
    drop(vms);
    for end in ends {
        within("the end of a VM", end).await;
    }
    assert!(
        pids.iter().all(|pid| !is_alive(*pid)),
        "a dropped handle kills its VM"
    );
    assert_eq!(pool.stats().leased, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_clone_that_dies_is_replaced() {
    let Some(launcher) = launcher().await else {
        return;
    };
    snapshot(&launcher).await;
    let pool = Pool::open(launcher, options(1)).await.unwrap();
    pool.warmup().await.unwrap();
    let victim = pool.warm_pids();
    kill(victim[0]);
    let successor = warm_successor(&pool, &victim).await;
    let vm = pool.spawn("survivor").await.unwrap();
    assert_eq!((vm.origin(), vec![vm.pid()]), (Origin::Warm, successor));
    assert_eq!(sh(&vm, "echo here").await, "here\n");
    assert_eq!(pool.stats().failures, 1, "{:?}", pool.stats());
    pool.close().await;
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
