//! Runs the pool's real driver through 100,000 spawns, with a hypervisor that lives in this process
//! and fails in every possible way: at the end nothing of any VM is left.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod fault;
mod guest;
mod launcher;
mod vm;
#[path = "../shared/within.rs"]
mod within;
#[allow(dead_code, reason = "broken_tier uses the rest")]
mod world;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ironclaw_orchestrator::vm::{
    Budget, ExitReason, GuestError, Limit, Limits, Pool, PoolOptions, SpawnError, SpawnOptions,
    VmHandle,
};
use tokio::time::timeout;

use launcher::launcher;
use within::within;
use world::World;

/// Numbers of cycles and workers. The first wave leaves room for warm clones beside the workers,
/// and time to make them; in the second, some spawns have to wait in the queue, and get all the
/// room.
const WAVES: [(usize, usize); 2] = [(20_000, 2), (80_000, 48)];
const ROOM: usize = 40;
/// Spawns between two refreshes of all snapshots.
const REFRESH_INTERVAL: usize = 10_000;
/// Spawns between two unexpected deaths of a VM.
const DEATH_INTERVAL: usize = 97;
/// Timeout of tasks that end a moment after what they waited for.
const TASK_END_TIMEOUT: Duration = Duration::from_secs(20);

/// The state shared by the workers.
struct Run {
    pool: Pool,
    world: Arc<World>,
    /// Cycles left in this wave.
    left: AtomicUsize,
    leased: Mutex<HashSet<u32>>,
    tally: Tally,
}

/// Numbers of cycles by result.
#[derive(Debug, Default)]
struct Tally {
    completed: AtomicUsize,
    cancelled: AtomicUsize,
    /// Spawns that every tier failed to serve.
    unserved: AtomicUsize,
    /// VMs that ended, or stopped answering, while in use.
    lost: AtomicUsize,
    /// VMs that reached their time limit.
    expired: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_spawns_with_faults_leave_nothing_and_no_vm_serves_twice() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let tasks_before = tasks();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = World::new();
    let launcher = launcher(directory.path(), &world);
    let descriptors_before = descriptors();
    let budget = Budget::new(Limit::new(ROOM, u64::MAX));
    let options = PoolOptions::new(4)
        .with_max_warm(12)
        .with_standby(2)
        .with_budget(budget.clone());
    let pool = Pool::open(launcher.clone(), options).await.unwrap();
    pool.warmup().await.unwrap();

    world.faults(true);
    let run = Arc::new(Run {
        pool: pool.clone(),
        world: Arc::clone(&world),
        left: AtomicUsize::new(0),
        leased: Mutex::default(),
        tally: Tally::default(),
    });
    for (cycles, workers) in WAVES {
        run.left.store(cycles, Ordering::Relaxed);
        let workers: Vec<_> = (0..workers)
            .map(|_| tokio::spawn(work(Arc::clone(&run))))
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
    }
    world.faults(false);
    let stats = pool.stats();
    println!("{:?}\n{:?}\n{stats:?}", run.tally, world.struck());
    assert_eq!((stats.leased, stats.waiting), (0, 0));
    let completed = run.tally.completed.load(Ordering::Relaxed);
    let cycles: usize = WAVES.iter().map(|(cycles, _)| cycles).sum();
    assert!(completed > cycles / 2, "faults are the exception");
    for (count, what) in [
        (&run.tally.cancelled, "cancelled"),
        (&run.tally.lost, "lost"),
        (&run.tally.expired, "expired"),
    ] {
        assert!(count.load(Ordering::Relaxed) > 100, "hardly any was {what}");
    }
    assert!(stats.served_warm > 1000 && stats.served_restored > 1000 && stats.served_cold > 10);
    for (fault, struck) in world.struck() {
        assert!(struck > 0, "{fault:?} never struck");
    }

    // The pool recovers in time: it replaces what failed.
    let healed = async {
        while pool.warmup().await.is_err() || pool.stats().standby < 2 {
            tokio::task::yield_now().await;
        }
    };
    within("all is made that failed", healed).await;
    let stats = pool.stats();
    assert_eq!((stats.snapshots, stats.leased), (4, 0));
    assert!(stats.warm >= 4, "{stats:?}");
    assert_eq!(budget.used().vms, stats.warm);

    drop(run);
    pool.close().await;
    let ended = async {
        while tasks() > tasks_before || world.living() > 0 {
            tokio::task::yield_now().await;
        }
    };
    let ended = timeout(TASK_END_TIMEOUT, ended).await;
    assert!(ended.is_ok(), "{} tasks, {world:?}", tasks());
    assert_eq!(descriptors(), descriptors_before);
    assert_eq!(budget.used(), Limit::default());
    assert_eq!(world.served_twice(), 0);
    let names: Vec<_> = std::fs::read_dir(launcher.snapshots().root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

async fn work(run: Arc<Run>) {
    let next = |left: usize| left.checked_sub(1);
    while let Ok(cycle) = run
        .left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
    {
        if cycle % REFRESH_INTERVAL == REFRESH_INTERVAL / 2 {
            let pool = run.pool.clone();
            // May fail, depending on the faults.
            tokio::spawn(async move { drop(pool.refresh().await) });
        }
        if cycle % DEATH_INTERVAL == 0 {
            run.world.end_somebody();
        }
        let ended = match fastrand::u8(..100) {
            0..5 => cancelled(&run, cycle).await,
            _ => served(&run, cycle).await,
        };
        ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Cancels a spawn before it is served, or drops the VM.
async fn cancelled(run: &Run, cycle: usize) -> &AtomicUsize {
    let name = format!("cycle-{cycle}");
    let patience = Duration::from_millis(fastrand::u64(0..4));
    if let Ok(Ok(vm)) = timeout(patience, run.pool.spawn(&name)).await {
        once(run, &vm);
    }
    &run.tally.cancelled
}

async fn served(run: &Run, cycle: usize) -> &AtomicUsize {
    let mut options = SpawnOptions::named(format!("cycle-{cycle}"));
    options.patience = TASK_END_TIMEOUT;
    if fastrand::u8(..100) == 0 {
        options.limits = Limits::default().with_max_lifetime(Duration::from_millis(1));
    }
    let limited = options.limits.max_lifetime.is_some();
    let vm = match run.pool.spawn_with(options).await {
        Ok(vm) => vm,
        Err(SpawnError::Failed(_)) => return &run.tally.unserved,
        Err(error) => panic!("{error}"),
    };
    once(run, &vm);
    let used = use_it(&vm, cycle, limited).await;
    if fastrand::bool() {
        vm.destroy().await.unwrap();
    } else {
        drop(vm);
    }
    match used {
        Used::Completed => &run.tally.completed,
        Used::Lost => &run.tally.lost,
        Used::Expired => &run.tally.expired,
    }
}

enum Used {
    Completed,
    Lost,
    Expired,
}

async fn use_it(vm: &VmHandle, cycle: usize, limited: bool) -> Used {
    let used = async {
        if limited {
            return vm.exec(["forever"]).await.map(drop);
        }
        if cycle.is_multiple_of(2) {
            return vm.ping(TASK_END_TIMEOUT).await;
        }
        let output = vm.exec(["echo", "something"]).await?;
        assert_eq!(output.stdout, b"something");
        Ok(())
    };
    // A guest that hangs in a command is for its user to give up.
    match timeout(Duration::from_millis(500), used).await {
        Ok(Ok(())) => Used::Completed,
        Ok(Err(GuestError::Closed {
            reason: ExitReason::Lifetime(_),
            ..
        })) => Used::Expired,
        Ok(Err(GuestError::Closed { .. })) | Err(_) => Used::Lost,
        Ok(Err(error)) => panic!("{error}"),
    }
}

/// Checks that every VM is handed out once, by its unique number.
fn once(run: &Run, vm: &VmHandle) {
    assert!(
        run.leased.lock().unwrap().insert(vm.pid()),
        "VM {} was handed out twice",
        vm.pid()
    );
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
