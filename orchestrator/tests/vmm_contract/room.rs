//! Admission: who gets the room that there is, and who waits for whom.

use std::time::Duration;

use ironclaw_orchestrator::vm::{
    Budget, Launcher, Limit, Origin, Pool, PoolError, PoolOptions, SpawnError, SpawnOptions,
};
use libtest_mimic::Trial;

use crate::backend::Backend;
use crate::faults::with;
use crate::simulator::{Fault, Simulator};
use crate::trial;
use crate::within::within;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "room::a_spawn_waits_neither_for_builds_nor_for_restores_of_the_pool".into(),
            || with(async |b, s| a_spawn_waits_for_no_build(b, s).await),
        ),
        trial(
            "room::a_vm_that_outlives_its_pool_keeps_its_room".into(),
            || with(async |b, _| a_vm_keeps_its_room(b).await),
        ),
        trial(
            "room::idle_clones_give_way_to_spawns_of_another_pool".into(),
            || with(async |b, _| idle_clones_give_way(b).await),
        ),
        trial(
            "room::a_pool_that_closes_amid_its_work_gives_all_room_back".into(),
            || with(async |b, s| a_closed_pool_gives_its_room_back(b, s).await),
        ),
        trial(
            "room::a_warm_up_ends_when_spawns_have_all_the_room".into(),
            || with(async |b, s| a_warm_up_ends_without_room(b, s).await),
        ),
    ]
}

pub(crate) fn of_vms(vms: usize) -> Budget {
    Budget::new(Limit::new(vms, u64::MAX))
}

pub(crate) async fn pool(launcher: &Launcher, warm: usize, budget: &Budget) -> Pool {
    let options = PoolOptions::new(1)
        .with_warm(warm)
        .with_budget(budget.clone());
    Pool::open(launcher.clone(), options).await.unwrap()
}

fn impatient() -> SpawnOptions {
    SpawnOptions::named("impatient").with_patience(Duration::from_millis(50))
}

pub(crate) async fn until(what: &str, reached: impl Fn() -> bool) {
    let reached = async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    };
    within(what, reached).await;
}

async fn a_spawn_waits_for_no_build(b: &Backend, s: &Simulator) {
    drop(b.launcher.create_snapshot().await.unwrap());
    let processors = std::thread::available_parallelism().unwrap().get();
    let options = PoolOptions::new(processors + 1).with_warm(0);
    let pool = Pool::open(b.launcher.clone(), options).await.unwrap();
    for _ in 0..processors {
        s.inject("PUT /vsock", Fault::Hang);
    }
    let filling = pool.clone();
    let filling = tokio::spawn(async move { filling.warmup().await });
    until("as many builds hang as there may be", || s.waiting() == 0).await;
    let vm = pool.spawn("served").await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored);
    assert_eq!(
        pool.stats().building,
        processors,
        "the builds did not hang meanwhile"
    );
    vm.destroy().await.unwrap();
    pool.close().await;
    let error = filling.await.unwrap().unwrap_err();
    assert!(matches!(error, PoolError::Closed), "{error}");
}

async fn a_vm_keeps_its_room(b: &Backend) {
    let budget = of_vms(1);
    let first = pool(&b.launcher, 0, &budget).await;
    let vm = first.spawn("outlives").await.unwrap();
    first.close().await;
    let second = pool(&b.launcher, 0, &budget).await;
    let error = second.spawn_with(impatient()).await.unwrap_err();
    assert!(matches!(error, SpawnError::PoolExhausted { .. }), "{error}");
    vm.destroy().await.unwrap();
    second
        .spawn("served")
        .await
        .unwrap()
        .destroy()
        .await
        .unwrap();
    second.close().await;
    assert_eq!(budget.used(), Limit::default());
}

async fn idle_clones_give_way(b: &Backend) {
    let budget = of_vms(2);
    let idle = pool(&b.launcher, 2, &budget).await;
    idle.warmup().await.unwrap();
    assert_eq!(idle.stats().warm, 2);
    let busy = pool(&b.launcher, 0, &budget).await;
    let one = busy.spawn("one").await.unwrap();
    let two = busy.spawn("two").await.unwrap();
    assert_eq!((idle.stats().warm, budget.used().vms), (0, 2));
    one.destroy().await.unwrap();
    two.destroy().await.unwrap();
    within("the clones come back", idle.warmup()).await.unwrap();
    assert_eq!(idle.stats().warm, 2);
    idle.close().await;
    busy.close().await;
}

async fn a_closed_pool_gives_its_room_back(b: &Backend, s: &Simulator) {
    let budget = of_vms(2);
    let pool = pool(&b.launcher, 2, &budget).await;
    let other = pool.clone();
    pool.spawn("first").await.unwrap().destroy().await.unwrap();
    s.inject("PUT /snapshot/load", Fault::Hang);
    until("a restore hangs", || s.waiting() == 0).await;
    assert!(pool.stats().restoring > 0);
    pool.close().await;
    assert_eq!(budget.used(), Limit::default());
    drop(other);
}

async fn a_warm_up_ends_without_room(b: &Backend, s: &Simulator) {
    let budget = of_vms(1);
    drop(b.launcher.create_snapshot().await.unwrap());
    let pool = pool(&b.launcher, 1, &budget).await;
    s.inject("PUT /snapshot/load", Fault::Refuse("not today".to_owned()));
    let error = pool.warmup().await.unwrap_err();
    let error: &dyn std::error::Error = &error;
    let causes = std::iter::successors(Some(error), |error| error.source());
    let told: Vec<_> = causes.map(ToString::to_string).collect();
    assert!(told.concat().contains("not today"), "{told:?}");
    // Waits until the restore is tried again, which needs room.
    let filling = pool.clone();
    let filling = tokio::spawn(async move { filling.warmup().await });
    let vm = pool.spawn("has all the room").await.unwrap();
    within("a warm-up for which there is no room", filling)
        .await
        .unwrap()
        .unwrap();
    vm.destroy().await.unwrap();
    pool.close().await;
}
