//! Tests the limits of a lease.

use std::sync::Arc;
use std::time::Duration;

use ironclaw_orchestrator::vm::config::{BackendChoice, JailChoice};
use ironclaw_orchestrator::vm::{
    Budget, ExitReason, GuestError, Launcher, Limit, Limits, Pool, PoolOptions, SpawnOptions,
    VmHandle,
};

use crate::fixture::{config, is_alive, launcher, sh, snapshot};
use crate::within::within;

const SHORT_LIMIT: Duration = Duration::from_millis(300);

/// Opens a pool without warm clones, with a budget of its own: the host's is shared by all tests.
async fn pool() -> Option<Pool> {
    let launcher = launcher().await?;
    snapshot(&launcher).await;
    let options = PoolOptions::new(1)
        .with_warm(0)
        .with_budget(Budget::new(Limit::new(1, 1024)));
    Some(Pool::open(launcher, options).await.unwrap())
}

async fn limited(pool: &Pool, limits: Limits) -> VmHandle {
    let options = SpawnOptions::named("limited").with_limits(limits);
    pool.spawn_with(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_killed_at_its_longest_age_whatever_it_does() {
    let Some(pool) = pool().await else { return };
    let limits = Limits::default().with_max_lifetime(SHORT_LIMIT);
    let vm = limited(&pool, limits).await;
    let error = vm.exec(["sleep", "1000"]).await.unwrap_err();
    assert!(matches!(error, GuestError::Closed { .. }), "{error}");
    assert!(error.to_string().contains("time limit of 300ms"), "{error}");
    let end = within("the end of a VM", vm.wait()).await;
    assert_eq!(end, ExitReason::Lifetime(SHORT_LIMIT));
    within("the end of its process", vm.exited()).await;
    assert!(!is_alive(vm.pid()));
    let error = vm.exec(["true"]).await.unwrap_err();
    assert!(error.to_string().contains("time limit"), "{error}");
    assert_eq!(
        pool.stats().leased,
        0,
        "its room is free, although its handle is held"
    );
    vm.destroy().await.unwrap();
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_killed_when_nothing_is_asked_of_it_and_not_while_it_works() {
    let Some(pool) = pool().await else { return };
    let limits = Limits::default().with_idle(SHORT_LIMIT);
    let vm = limited(&pool, limits).await;
    // Busy for longer than it may be idle.
    assert_eq!(sh(&vm, "sleep 1; echo awake").await, "awake\n");
    within("the end of a VM", vm.exited()).await;
    assert!(!is_alive(vm.pid()));
    let error = vm.exec(["true"]).await.unwrap_err();
    assert!(error.to_string().contains("idle for 300ms"), "{error}");
    drop(vm);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_killed_when_its_handle_is_dropped_though_it_has_limits_and_a_command() {
    let Some(pool) = pool().await else { return };
    let limits = Limits::default()
        .with_max_lifetime(Duration::MAX)
        .with_idle(Duration::MAX);
    let vm = limited(&pool, limits).await;
    let (pid, exited) = (vm.pid(), vm.exited());
    let running = vm.start(["sleep", "1000"]).await.unwrap();
    drop(vm);
    within("the end of a VM", exited).await;
    assert!(!is_alive(pid));
    assert_eq!(pool.stats().leased, 0);
    assert_eq!(pool.stats().used.vms, 0, "its room is free");
    drop(running);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_says_whether_it_is_jailed() {
    let Some(unchanged) = launcher().await else {
        return;
    };
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    for choice in [JailChoice::Off, JailChoice::Auto] {
        let mut config = config();
        config.backend = BackendChoice::Only(unchanged.vmm().kind.clone());
        config.jail = choice;
        let launcher = Launcher::open(&config, Arc::new(|_: &_| {})).await.unwrap();
        let vm = launcher.cold_boot("jailed").await.unwrap();
        let has_own = namespace(&vm.pid().to_string()) != namespace("self");
        assert_eq!(vm.is_jailed(), has_own, "{choice:?}");
        assert!(choice == JailChoice::Auto || !vm.is_jailed());
        vm.destroy().await.unwrap();
    }
}
