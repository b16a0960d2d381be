//! Admission: who gets a VM, and who has to wait for one.

use std::fs;
use std::future::poll_fn;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ironclaw_orchestrator::vm::config::BackendChoice;
use ironclaw_orchestrator::vm::qemu::KIND;
use ironclaw_orchestrator::vm::{
    Budget, Launcher, Limit, Origin, Pool, PoolError, PoolOptions, SpawnError, SpawnOptions,
    VmHandle,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::fixture::{config, is_alive, launcher, sh, snapshot};

/// Room for one VM.
const ONE: Limit = Limit::new(1, u64::MAX);

/// Returns the memory of `vms` VMs.
fn memory_of(launcher: &Launcher, vms: u64) -> u64 {
    vms * (u64::from(launcher.machine().memory_mib) + 32)
}

/// Opens a pool without warm clones.
async fn pool(launcher: Launcher, limit: Limit) -> Pool {
    snapshot(&launcher).await;
    let options = PoolOptions::new(1)
        .with_warm(0)
        .with_budget(Budget::new(limit));
    let pool = Pool::open(launcher, options).await.unwrap();
    pool.warmup().await.unwrap();
    pool
}

fn hasty(name: &str) -> SpawnOptions {
    SpawnOptions::named(name).with_patience(Duration::from_millis(50))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_beyond_the_limit_says_how_long_it_waited_for_what_and_what_to_do() {
    let Some(launcher) = launcher().await else {
        return;
    };
    let memory_mib = memory_of(&launcher, 1);
    // Not enough for two.
    let by_memory = Limit::new(usize::MAX, memory_mib + 100);
    for limit in [ONE, by_memory] {
        let pool = pool(launcher.clone(), limit).await;
        let first = pool.spawn("first").await.unwrap();
        let error = pool.spawn_with(hasty("second")).await.unwrap_err();
        let text = error.to_string();
        let SpawnError::PoolExhausted { waited, limit: of } = error else {
            panic!("{error}")
        };
        assert!(waited >= hasty("").patience);
        assert_eq!(of, limit);
        assert!(
            text.starts_with("no room for another VM after waiting for "),
            "{text}"
        );
        let expected =
            format!("the limit is {limit}; end VMs, or raise `max_vms` or `memory_budget_mib`");
        assert!(text.ends_with(&expected), "{text}");
        assert_eq!(pool.stats().waiting, 0, "it left the line");
        first.destroy().await.unwrap();
        let second = pool.spawn_with(hasty("second")).await.unwrap();
        assert_eq!(sh(&second, "hostname").await, "second\n");
        drop(second);
        pool.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_holds_no_vm_at_all_makes_no_pool() {
    let Some(launcher) = launcher().await else {
        return;
    };
    let memory_mib = memory_of(&launcher, 1) - 1;
    let options = PoolOptions::new(1).with_budget(Budget::new(Limit::new(usize::MAX, memory_mib)));
    let error = Pool::open(launcher, options).await.unwrap_err();
    assert!(matches!(error, PoolError::NoRoom { .. }), "{error}");
    assert!(error.to_string().contains("`memory_budget_mib`"));
}

/// Creates a launcher with a QEMU whose processes are distinct from other tests': each appends its
/// PID to the returned file.
async fn recorded() -> Option<(TempDir, PathBuf, Launcher)> {
    let qemu = config()
        .backends
        .qemu
        .binary
        .unwrap_or("qemu-system-x86_64".into());
    snapshot(&launcher().await?).await;
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (program, pids) = (directory.path().join("qemu"), directory.path().join("pids"));
    let script = format!(
        "#!/bin/sh\necho $$ >>{}\nexec {} \"$@\"\n",
        pids.display(),
        qemu.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let mut config = config();
    config.backend = BackendChoice::Only(KIND);
    config.backends.qemu.binary = Some(program);
    let launcher = Launcher::open(&config, Arc::new(|_: &_| {})).await.unwrap();
    Some((directory, pids, launcher))
}

fn read_pids(file: &Path) -> Vec<u32> {
    let pids = fs::read_to_string(file).unwrap();
    pids.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// Polls `work` so many times, and drops it if it is not ready then.
async fn polled<F: Future>(work: F, times: usize) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut polls = 0;
    poll_fn(|context| {
        polls += 1;
        match work.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_cancelled_wherever_it_waits_gives_its_room_back_and_leaves_no_process() {
    let Some((_directory, pids, launcher)) = recorded().await else {
        return;
    };
    let pool = pool(launcher, ONE).await;
    let mut polls = 1;
    let vm = loop {
        // With room for one, each would be refused if its predecessor had kept the room.
        if let Some(spawned) = polled(pool.spawn_with(hasty("cancelled")), polls).await {
            break spawned.unwrap();
        }
        let stats = pool.stats();
        assert_eq!((stats.leased, stats.waiting), (0, 0), "after {polls} polls");
        polls += 1 + polls / 4;
    };
    assert!(polls > 5, "{polls} polls are no spawn");
    assert_eq!(pool.stats().served_restored, 1, "{:?}", pool.stats());
    assert_eq!(sh(&vm, "hostname").await, "cancelled\n");
    vm.destroy().await.unwrap();
    pool.close().await;
    let living: Vec<_> = read_pids(&pids)
        .into_iter()
        .filter(|pid| is_alive(*pid))
        .collect();
    assert!(living.is_empty(), "{living:?}");
}

/// Starts a spawn without room, which is in the queue after its first poll.
async fn in_line(
    pool: &Pool,
    name: &'static str,
) -> Pin<Box<impl Future<Output = Result<VmHandle, SpawnError>> + Send + use<>>> {
    let before = pool.stats().waiting;
    let waits = pool.clone();
    let mut spawn = Box::pin(async move { waits.spawn(name).await });
    poll_fn(|context| {
        assert!(spawn.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!(pool.stats().waiting, before + 1);
    spawn
}

#[tokio::test(flavor = "multi_thread")]
async fn spawns_that_leave_the_line_pass_their_turn_on_even_when_it_just_came() {
    let Some(launcher) = launcher().await else {
        return;
    };
    let pool = pool(launcher, ONE).await;
    let mut vm = pool.spawn("first").await.unwrap();
    for _ in 0..3 {
        let mut leaving = JoinSet::new();
        for name in ["a", "b", "c"] {
            leaving.spawn(in_line(&pool, name).await);
        }
        let next = in_line(&pool, "next").await;
        drop(vm);
        leaving.abort_all();
        vm = next.await.unwrap();
        assert_eq!(sh(&vm, "hostname").await, "next\n");
    }
    drop(vm);
    let stats = pool.stats();
    assert_eq!((stats.leased, stats.waiting, stats.used.vms), (0, 0, 0));
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_adapts_has_a_warm_clone_for_each_spawn_of_the_burst_that_was() {
    let Some(launcher) = launcher().await else {
        return;
    };
    snapshot(&launcher).await;
    let options = PoolOptions::new(1).with_min_warm(1).with_max_warm(10);
    let pool = Pool::open(launcher, options).await.unwrap();
    pool.warmup().await.unwrap();
    assert_eq!(pool.stats().warm, 1);
    let burst = async || {
        // In one task: all four arrive before anything else can happen.
        let vms = tokio::join!(
            pool.spawn("a"),
            pool.spawn("b"),
            pool.spawn("c"),
            pool.spawn("d")
        );
        let vms = [vms.0, vms.1, vms.2, vms.3].map(Result::unwrap);
        vms.map(|vm| vm.origin())
    };
    let (warm, restored) = (Origin::Warm, Origin::Restored);
    assert_eq!(burst().await, [warm, restored, restored, restored]);
    // As many as came together, not as many as allowed.
    pool.warmup().await.unwrap();
    assert_eq!(pool.stats().warm, 4);
    assert_eq!(burst().await, [Origin::Warm; 4]);
    pool.close().await;
}
