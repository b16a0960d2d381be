//! Faults over several calls, with the simulator; those of single calls are in `every_call`.

use ironclaw_orchestrator::vm::{
    Budget, ExitReason, GuestError, LaunchError, Limit, Origin, Pool, PoolOptions, SpawnError,
};
use libtest_mimic::Trial;

use crate::backend::{Backend, Kind};
use crate::simulator::{Fault, GUEST, Simulator};
use crate::trial;
use crate::within::within;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "faults::an_old_version_that_slipped_through_is_refused_by_its_fields".into(),
            || with(async |b, s| an_old_version_is_refused_by_its_fields(b, s).await),
        ),
        trial(
            "faults::memory_overwritten_after_the_load_costs_a_boot_and_not_the_spawn".into(),
            || with(async |b, _| overwritten_memory(b).await),
        ),
        trial(
            "faults::a_pool_that_closes_serves_neither_who_waits_nor_who_comes_later".into(),
            || with(async |b, _| a_closed_pool_serves_nobody(b).await),
        ),
        trial(
            "faults::a_frame_longer_than_any_may_be_ends_the_session_before_the_vm_is_handed_out"
                .into(),
            || with(async |b, s| an_oversized_frame_at_first(b, s).await),
        ),
        trial(
            "faults::a_frame_longer_than_any_may_be_ends_the_session_of_a_command".into(),
            || with(async |b, s| an_oversized_frame_later(b, s).await),
        ),
    ]
}

pub(crate) async fn with(test: impl AsyncFnOnce(&Backend, &Simulator)) {
    let backend = Kind::Simulator.start().await.unwrap();
    test(&backend, backend.simulator.as_ref().unwrap()).await;
    backend.nothing_is_left().await;
}

fn options(size: usize) -> PoolOptions {
    PoolOptions::new(size)
}

async fn an_old_version_is_refused_by_its_fields(b: &Backend, s: &Simulator) {
    s.claim("1.15.0");
    // A snapshot of that version: so the fields of the request are the only obstacle.
    let created = b.launcher.create_snapshot().await.unwrap();
    let error = b
        .launcher
        .restore_vm(&created.snapshot, "old")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("vsock_override"), "{error}");
}

async fn a_closed_pool_serves_nobody(b: &Backend) {
    let one = Limit::new(1, u64::MAX);
    let options = options(1).with_budget(Budget::new(one));
    let pool = Pool::open(b.launcher.clone(), options).await.unwrap();
    let served = pool.spawn("served").await.unwrap();
    let later = pool.clone();
    let (waits, ()) = {
        let waits = pool.clone();
        // Biased: the spawn is in the queue after the first poll.
        tokio::join!(biased; async move { waits.spawn("waits").await }, async {
            assert_eq!(pool.stats().waiting, 1);
            pool.close().await;
        })
    };
    for error in [waits, later.spawn("later").await] {
        let error = error.unwrap_err();
        assert!(matches!(error, SpawnError::Closed), "{error}");
    }
    assert_eq!(served.exec(["echo", "on"]).await.unwrap().stdout, b"on\n");
    served.destroy().await.unwrap();
}

/// The clone that waits dies at its resume, and no other can be restored.
async fn overwritten_memory(b: &Backend) {
    let pool = Pool::open(b.launcher.clone(), options(1)).await.unwrap();
    pool.warmup().await.unwrap();
    let bad = b.launcher.snapshots().list().unwrap().remove(0);
    std::fs::write(bad.path.join("memory"), vec![0xff; 1 << 20]).unwrap();
    let vm = pool.spawn("served").await.unwrap();
    assert_eq!(vm.origin(), Origin::ColdBooted);
    let failures: u64 = pool.stats().fallbacks.values().sum();
    assert_eq!(failures, 2, "{:?}", pool.stats());
    assert_eq!(vm.exec(["echo", "on"]).await.unwrap().stdout, b"on\n");
    let healed = async {
        while pool.stats().warm == 0 {
            let _ = pool.warmup().await;
        }
    };
    within("another warm clone", healed).await;
    vm.destroy().await.unwrap();
    let vm = pool.spawn("healed").await.unwrap();
    assert_eq!(vm.origin(), Origin::Warm);
    vm.destroy().await.unwrap();
    pool.close().await;
    let left = b.launcher.snapshots().list().unwrap();
    assert!(left.iter().all(|entry| entry.id != bad.id), "{left:?}");
}

fn assert_says_oversized(error: &GuestError) {
    let GuestError::Closed { reason, .. } = error else {
        panic!("{error:?}");
    };
    let expected = format!("a frame of {} bytes is over the limit", u32::MAX);
    assert!(reason.to_string().contains(&expected), "{reason}");
    assert!(matches!(reason, ExitReason::Protocol(_)), "{reason:?}");
}

async fn an_oversized_frame_at_first(b: &Backend, s: &Simulator) {
    let snapshot = b.launcher.create_snapshot().await.unwrap().snapshot;
    s.inject(GUEST, Fault::Oversized);
    let error = b.launcher.restore_vm(&snapshot, "bad").await.unwrap_err();
    let LaunchError::Guest(error) = error else {
        panic!("{error:?}");
    };
    assert_says_oversized(&error);
    b.nothing_is_left().await;

    let pool = Pool::open(b.launcher.clone(), options(1)).await.unwrap();
    pool.warmup().await.unwrap();
    let bad = pool.warm_pids()[0];
    s.inject(GUEST, Fault::Oversized);
    let vm = pool.spawn("good").await.unwrap();
    assert_eq!(s.waiting(), 0);
    assert_ne!(vm.pid(), bad);
    assert_eq!(vm.origin(), Origin::Restored);
    assert_eq!(pool.stats().fallbacks.get("guest"), Some(&1));
    assert_eq!(vm.exec(["counter"]).await.unwrap().stdout, b"1\n");
    vm.destroy().await.unwrap();
    pool.close().await;
}

async fn an_oversized_frame_later(b: &Backend, s: &Simulator) {
    let snapshot = b.launcher.create_snapshot().await.unwrap().snapshot;
    let vm = b.launcher.restore_vm(&snapshot, "bad").await.unwrap();
    s.inject(GUEST, Fault::Oversized);
    assert_says_oversized(&vm.exec(["counter"]).await.unwrap_err());
    // No more is read from it.
    assert_says_oversized(&vm.exec(["counter"]).await.unwrap_err());
    vm.destroy().await.unwrap();
}
