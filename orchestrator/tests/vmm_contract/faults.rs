//! Every arrow of a VM's life, cut by the simulator.

use std::time::{Duration, Instant};

use ironclaw_orchestrator::vm::vmm::{BootSpec, Ram, VmmError};
use ironclaw_orchestrator::vm::{
    Budget, LaunchError, Limit, Origin, Pool, PoolOptions, SpawnError,
};
use libtest_mimic::Trial;

use crate::backend::{Backend, Kind, Watched};
use crate::simulator::{Fault, Simulator};
use crate::trial;
use crate::within::within;

const LOAD: &str = "PUT /snapshot/load";
const CREATE: &str = "PUT /snapshot/create";
const STATE: &str = "PATCH /vm";
const START: &str = "PUT /actions";

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial(
            "faults::an_old_version_that_slipped_through_is_refused_by_its_fields".into(),
            || with(async |b, s| an_old_version_is_refused_by_its_fields(b, s).await),
        ),
        trial(
            "faults::memory_overwritten_after_the_load_kills_the_clone_and_not_the_spawn".into(),
            || with(async |b, s| overwritten_memory(b, s).await),
        ),
        trial(
            "faults::a_vmm_that_hangs_is_given_up_and_killed".into(),
            || with(async |b, s| a_vmm_that_hangs_is_given_up(b, s).await),
        ),
        trial(
            "faults::a_pool_that_closes_serves_neither_who_waits_nor_who_comes_later".into(),
            || with(async |b, _| a_closed_pool_serves_nobody(b).await),
        ),
        trial("faults::a_slow_vmm_is_waited_for".into(), || {
            with(async |b, s| a_slow_vmm_is_waited_for(b, s).await)
        }),
    ];
    for (name, fault) in faults() {
        for at in ["start", LOAD] {
            let fault = fault.clone();
            if at == "start" && fault != Fault::Die {
                continue;
            }
            trials.push(trial(
                format!("faults::restore::{name}_at_{at}"),
                move || with(async move |b, s| a_restore_fails_cleanly(b, s, at, fault).await),
            ));
        }
        for at in [CREATE, STATE, START, "PUT /vsock"] {
            let fault = fault.clone();
            trials.push(trial(
                format!("faults::snapshot::{name}_at_{at}"),
                move || with(async move |b, s| a_snapshot_fails_cleanly(b, s, at, fault).await),
            ));
        }
        for at in [LOAD, STATE] {
            let fault = fault.clone();
            trials.push(trial(format!("faults::pool::{name}_at_{at}"), move || {
                with(async move |b, s| a_pool_serves_all_the_same(b, s, at, fault).await)
            }));
        }
    }
    trials
}

fn faults() -> Vec<(&'static str, Fault)> {
    vec![
        ("death", Fault::Die),
        ("refusal", Fault::Refuse("not today".to_owned())),
        ("half_an_answer", Fault::Truncate),
        ("garbage", Fault::Garbage),
        ("an_endless_answer", Fault::Endless),
    ]
}

pub(crate) async fn with(test: impl AsyncFnOnce(&Backend, &Simulator)) {
    let backend = Kind::Simulator.start().await.unwrap();
    test(&backend, backend.simulator.as_ref().unwrap()).await;
    assert!(backend.homes().is_empty(), "{:?}", backend.homes());
    let staged = std::fs::read_dir(&backend.config.snapshot_path).unwrap();
    for entry in staged {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().starts_with('.'), "{name:?} is left");
    }
}

fn assert_explains(error: &LaunchError, fault: &Fault) {
    let LaunchError::Vmm(error) = error else {
        panic!("{error}");
    };
    let fits = match fault {
        Fault::Die => {
            matches!(error, VmmError::Died { exit, .. } if exit.status.contains("SIGKILL"))
        }
        Fault::Refuse(message) => error.to_string().contains(message),
        Fault::Truncate => matches!(error, VmmError::Died { .. }),
        _ => matches!(error, VmmError::Protocol { .. } | VmmError::Died { .. }),
    };
    assert!(fits, "{fault:?} was reported as {error:?}");
}

async fn a_restore_fails_cleanly(b: &Backend, s: &Simulator, at: &str, fault: Fault) {
    let created = b.launcher.create_snapshot().await.unwrap();
    s.inject(at, fault.clone());
    let error = b
        .launcher
        .restore_vm(&created.snapshot, "bad")
        .await
        .unwrap_err();
    assert_explains(&error, &fault);
    assert!(b.homes().is_empty(), "{:?}", b.homes());
    let vm = b
        .launcher
        .restore_vm(&created.snapshot, "good")
        .await
        .unwrap();
    vm.destroy().await.unwrap();
}

async fn a_snapshot_fails_cleanly(b: &Backend, s: &Simulator, at: &str, fault: Fault) {
    s.inject(at, fault.clone());
    let error = b.launcher.create_snapshot().await.unwrap_err();
    assert_explains(&error, &fault);
    assert_eq!(s.waiting(), 0);
    assert!(b.launcher.snapshots().list().unwrap().is_empty());
    b.launcher.create_snapshot().await.unwrap();
}

fn options(size: usize) -> PoolOptions {
    PoolOptions::new(size)
}

/// Whatever happens to one VMM, the spawn is served and no slot is lost.
async fn a_pool_serves_all_the_same(b: &Backend, s: &Simulator, at: &str, fault: Fault) {
    let pool = Pool::open(b.launcher.clone(), options(2)).await.unwrap();
    pool.warmup().await.unwrap();
    s.inject(at, fault);
    let one = pool.spawn("one").await.unwrap();
    let two = pool.spawn("two").await.unwrap();
    assert_ne!(one.pid(), two.pid());
    assert_eq!(one.exec(["counter"]).await.unwrap().stdout, b"1\n");
    assert_eq!(two.exec(["counter"]).await.unwrap().stdout, b"1\n");
    let healed = async {
        while pool.stats().warm < 2 || s.waiting() > 0 {
            // A warm-up may meet the fault itself.
            let _ = pool.warmup().await;
            if s.waiting() > 0 {
                drop(pool.spawn("meets the fault").await.unwrap());
            }
        }
    };
    within("a full pool, and the fault is over", healed).await;
    let three = pool.spawn("three").await.unwrap();
    assert_eq!(three.origin(), Origin::Warm);
    for vm in [one, two, three] {
        vm.destroy().await.unwrap();
    }
    assert_eq!(pool.stats().leased, 0);
    pool.close().await;
}

async fn an_old_version_is_refused_by_its_fields(b: &Backend, s: &Simulator) {
    s.claim("1.15.0");
    // A snapshot of that version, so that it is the fields that are in the way.
    let created = b.launcher.create_snapshot().await.unwrap();
    let error = b
        .launcher
        .restore_vm(&created.snapshot, "old")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("vsock_override"), "{error}");
}

async fn a_closed_pool_serves_nobody(b: &Backend) {
    let one = Limit {
        vms: 1,
        memory_mib: u64::MAX,
    };
    let options = PoolOptions {
        budget: Budget::new(one),
        ..options(1)
    };
    let pool = Pool::open(b.launcher.clone(), options).await.unwrap();
    let served = pool.spawn("served").await.unwrap();
    let (waits, later) = (pool.clone(), pool.clone());
    let waiting = tokio::spawn(async move { waits.spawn("waits").await });
    while pool.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    pool.close().await;
    for error in [waiting.await.unwrap(), later.spawn("later").await] {
        let error = error.unwrap_err();
        assert!(matches!(error, SpawnError::Closed), "{error}");
    }
    assert_eq!(served.exec(["echo", "on"]).await.unwrap().stdout, b"on\n");
    served.destroy().await.unwrap();
}

async fn overwritten_memory(b: &Backend, _: &Simulator) {
    let pool = Pool::open(b.launcher.clone(), options(1)).await.unwrap();
    pool.warmup().await.unwrap();
    let id = b.launcher.snapshots().list().unwrap()[0].id;
    let path = b.launcher.snapshots().list().unwrap()[0]
        .path
        .join("memory");
    std::fs::write(&path, vec![0xff; 1 << 20]).unwrap();
    let vm = pool.spawn("served").await.unwrap();
    assert_eq!(vm.exec(["echo", "on"]).await.unwrap().stdout, b"on\n");
    let healed = async {
        while pool.stats().warm == 0 {
            let _ = pool.warmup().await;
        }
    };
    within("another warm clone", healed).await;
    vm.destroy().await.unwrap();
    let healed = b.launcher.snapshots().list().unwrap();
    assert!(
        healed.iter().any(|entry| entry.state.is_ok()),
        "{id} {healed:?}"
    );
    pool.close().await;
}

async fn a_slow_vmm_is_waited_for(b: &Backend, s: &Simulator) {
    let created = b.launcher.create_snapshot().await.unwrap();
    s.inject(LOAD, Fault::Slow(300));
    let start = Instant::now();
    let vm = b
        .launcher
        .restore_vm(&created.snapshot, "slow")
        .await
        .unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
    s.inject(STATE, Fault::DieAfterAnswer);
    vm.destroy().await.unwrap();
}

/// The patience of each call is 10 s, which this test takes.
async fn a_vmm_that_hangs_is_given_up(b: &Backend, s: &Simulator) {
    let created = b.launcher.create_snapshot().await.unwrap();
    let pool = Pool::open(b.launcher.clone(), options(1)).await.unwrap();
    pool.warmup().await.unwrap();
    let pid = pool.warm_pids()[0];
    let hangs = Watched::new(pid);
    s.inject(STATE, Fault::Hang);
    let spawned = async {
        let vm = pool.spawn("served").await.unwrap();
        assert_ne!(vm.pid(), pid, "its VMM hangs");
        // It is reaped beside the spawn, not before it.
        hangs.ended().await;
        assert_eq!(vm.exec(["counter"]).await.unwrap().stdout, b"1\n");
        vm.destroy().await.unwrap();
    };
    let failed = async {
        let other = b.launcher.hypervisor();
        let spec = BootSpec {
            template: b.launcher.template().clone(),
            machine: b.launcher.machine(),
            ram: Ram::Private,
        };
        s.inject("PUT /vsock", Fault::Hang);
        let error = other.boot(&spec).await.unwrap_err();
        let VmmError::TimedOut { operation, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*operation, "configure the VM");
    };
    tokio::join!(spawned, failed);
    assert_eq!(s.waiting(), 0);
    pool.warmup().await.unwrap();
    pool.close().await;
    drop(created);
}
