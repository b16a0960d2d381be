//! Injects every kind of fault at every call in a VM's life.
//!
//! The timeouts of the calls are the real ones, up to a minute. A test with a hanging VMM does not
//! wait for them: it advances the runtime's clock once the fault has struck.

use std::time::{Duration, Instant};

use ironclaw_orchestrator::vm::vmm::VmmError;
use ironclaw_orchestrator::vm::{GuestError, LaunchError, Origin, Pool, PoolOptions};
use libtest_mimic::Trial;

use crate::backend::{Backend, Kind};
use crate::simulator::{CONNECT, Fault, START, Simulator};
use crate::trial_on_one_thread;
use crate::within::within;

/// A call at which a fault strikes, the operation that the error must name, and the call's timeout.
struct Call {
    at: &'static str,
    operation: &'static str,
    limit: Duration,
}

const fn call(at: &'static str, operation: &'static str, seconds: u64) -> Call {
    let limit = Duration::from_secs(seconds);
    Call {
        at,
        operation,
        limit,
    }
}

const LOAD: &str = "PUT /snapshot/load";
const CREATE: &str = "PUT /snapshot/create";
const AGENT: &str = "connect to the guest's agent";
const DELAY: Duration = Duration::from_millis(300);

/// The calls of each operation, in order.
const BUILD: &[Call] = &[
    call(START, "start", 10),
    call("PUT /machine-config", "configure the VM", 10),
    call("PUT /boot-source", "configure the VM", 10),
    call("PUT /vsock", "configure the VM", 10),
    call("PUT /entropy", "configure the VM", 10),
    call("PUT /actions", "boot", 10),
    call(CONNECT, AGENT, 60),
    call("PATCH /vm Paused", "pause", 10),
    call(CREATE, "write a snapshot", 60),
];
const RESTORE: &[Call] = &[
    call(START, "start", 10),
    call(LOAD, "restore", 60),
    call(CONNECT, AGENT, 15),
];
const STANDBY: &[Call] = RESTORE;
const WARM: &[Call] = &[
    call(START, "start", 10),
    call(LOAD, "restore", 60),
    call(CONNECT, AGENT, 15),
];

fn faults() -> [(&'static str, Fault); 8] {
    [
        ("death", Fault::Die),
        ("death_after_the_answer", Fault::DieAfterAnswer),
        ("a_hang", Fault::Hang),
        ("refusal", Fault::Refuse("not today".to_owned())),
        ("a_delay", Fault::Slow(300)),
        ("half_an_answer", Fault::Truncate),
        ("garbage", Fault::Garbage),
        ("an_endless_answer", Fault::Endless),
    ]
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (what, calls) in [
        ("build", BUILD),
        ("restore", RESTORE),
        ("standby", STANDBY),
        ("warm", WARM),
    ] {
        for (index, call) in calls.iter().enumerate() {
            for (name, fault) in faults() {
                let at = call.at;
                if at == START && is_of_an_answer(&fault) {
                    continue;
                }
                let name = format!("faults::{what}::{name}_at_{at}").replace(' ', "_");
                trials.push(trial_on_one_thread(name, move || async move {
                    let b = Kind::Simulator.start().await.unwrap();
                    let s = b.simulator.as_ref().unwrap();
                    match what {
                        "build" => a_build(&b, s, index, &fault).await,
                        "restore" => a_restore(&b, s, index, &fault).await,
                        "standby" => a_standby(&b, s, call, &fault).await,
                        _ => a_warm_clone(&b, s, call, &fault).await,
                    }
                    b.nothing_is_left().await;
                }));
            }
        }
    }
    trials
}

/// Returns whether the fault modifies an answer.
fn is_of_an_answer(fault: &Fault) -> bool {
    !matches!(
        fault,
        Fault::Die | Fault::Hang | Fault::Refuse(_) | Fault::Slow(_)
    )
}

/// Returns the operation that fails when `fault` strikes at that one of `calls`; `None` if it
/// succeeds nevertheless.
fn failing(calls: &[Call], index: usize, fault: &Fault) -> Option<&'static str> {
    let Call { at, operation, .. } = calls[index];
    match fault {
        Fault::Slow(_) => None,
        // Looks like an agent that does not listen yet: it is asked again.
        Fault::Refuse(_) | Fault::Truncate if at == CONNECT => None,
        Fault::DieAfterAnswer => calls.get(index + 1).map(|next| next.operation),
        _ => Some(operation),
    }
}

/// Runs `work`, which meets `fault` at `call`; skips the timeout of a hang.
async fn meeting<T>(s: &Simulator, call: &Call, fault: &Fault, work: impl Future<Output = T>) -> T {
    let jump = async {
        if *fault == Fault::Hang {
            s.struck().await;
            tokio::time::pause();
            tokio::time::advance(call.limit).await;
            tokio::time::resume();
        }
    };
    let both = async { tokio::join!(work, jump).0 };
    within("the end of what meets a fault", both).await
}

/// Asserts that the error names the operation and what went wrong.
fn assert_explains(error: &LaunchError, call: &Call, operation: &str, fault: &Fault) {
    let text = words(error);
    let is_at = |place| call.at == place;
    let killed = |error: &LaunchError| matches!(error, LaunchError::Vmm(VmmError::Died { exit, .. }) if exit.status.contains("SIGKILL"));
    let fits = match fault {
        // The connection that is open by then may end first.
        Fault::DieAfterAnswer if is_at(CONNECT) => {
            killed(error) || matches!(error, LaunchError::Guest(GuestError::Closed { .. }))
        }
        Fault::Die | Fault::DieAfterAnswer => killed(error) && text.contains(operation),
        Fault::Hang if is_at(CONNECT) => {
            let LaunchError::Guest(GuestError::NoAnswer { after, .. }) = error else {
                panic!("{error:?}");
            };
            *after == call.limit && text.contains("accept a connection")
        }
        Fault::Hang => {
            let LaunchError::Vmm(VmmError::TimedOut { after, .. }) = error else {
                panic!("{error:?}");
            };
            *after == call.limit && text.contains(operation)
        }
        Fault::Refuse(message) => text.contains(message) && text.contains(operation),
        Fault::Truncate => killed(error) && text.contains(operation),
        Fault::Garbage | Fault::Endless => {
            let kind = if is_at(CONNECT) {
                matches!(error, LaunchError::Vmm(VmmError::Io { .. }))
                    && text.contains("the answer to CONNECT was")
            } else {
                matches!(error, LaunchError::Vmm(VmmError::Protocol { .. }))
            };
            kind && text.contains(operation)
        }
        Fault::Slow(_) | Fault::Oversized => false,
    };
    assert!(fits, "{fault:?} at {} was reported as {error:?}", call.at);
}

/// Formats an error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

async fn a_build(b: &Backend, s: &Simulator, index: usize, fault: &Fault) {
    let call = &BUILD[index];
    let snapshots = b.launcher.snapshots();
    s.inject(call.at, fault.clone());
    let start = Instant::now();
    let created = meeting(s, call, fault, b.launcher.create_snapshot()).await;
    assert_eq!(s.waiting(), 0);
    // A boot whose agent can't be reached is tried again.
    let failing =
        failing(BUILD, index, fault).filter(|operation| call.at != CONNECT && *operation != AGENT);
    match (created, failing) {
        (Err(error), Some(operation)) => assert_explains(&error, call, operation, fault),
        // Or it fails again the next time.
        (Err(error), None) if call.at == CONNECT => assert_explains(&error, call, AGENT, fault),
        (created, _) => {
            let id = created.unwrap().snapshot.id();
            assert_eq!(failing, None, "it was made nevertheless");
            snapshots.verify(id).unwrap();
            snapshots.delete(id).unwrap();
        }
    }
    if matches!(fault, Fault::Slow(_)) {
        assert!(start.elapsed() >= DELAY);
    }
    assert!(snapshots.list().unwrap().is_empty());
    b.nothing_is_left().await;

    s.inject(call.at, fault.clone());
    let pool = Pool::open(b.launcher.clone(), PoolOptions::new(1)).await;
    let pool = pool.unwrap();
    meeting(s, call, fault, full(&pool, s)).await;
    serves_warm(&pool).await;
    pool.close().await;
}

async fn a_restore(b: &Backend, s: &Simulator, index: usize, fault: &Fault) {
    let call = &RESTORE[index];
    let snapshot = b.launcher.create_snapshot().await.unwrap().snapshot;
    s.inject(call.at, fault.clone());
    let start = Instant::now();
    let restored = meeting(s, call, fault, b.launcher.restore_vm(&snapshot, "met")).await;
    assert_eq!(s.waiting(), 0);
    let failing = match fault {
        Fault::DieAfterAnswer if call.at == CONNECT => Some("serve a clone"),
        fault => failing(RESTORE, index, fault),
    };
    match failing {
        Some(operation) => {
            assert_explains(&restored.unwrap_err(), call, operation, fault);
            if operation != AGENT && call.at != CONNECT {
                // The failure is reported only when its process is gone.
                assert!(b.homes().is_empty(), "{:?}", b.homes());
            }
        }
        None => restored.unwrap().destroy().await.unwrap(),
    }
    if matches!(fault, Fault::Slow(_)) {
        assert!(start.elapsed() >= DELAY);
    }
    b.nothing_is_left().await;
    let vm = b.launcher.restore_vm(&snapshot, "good").await.unwrap();
    vm.destroy().await.unwrap();
}

/// Checks that spawns are served and no slot is lost, whatever happens to one VMM.
async fn a_warm_clone(b: &Backend, s: &Simulator, call: &Call, fault: &Fault) {
    let pool = Pool::open(b.launcher.clone(), PoolOptions::new(2)).await;
    let pool = pool.unwrap();
    pool.warmup().await.unwrap();
    s.inject(call.at, fault.clone());
    let served = async {
        let one = pool.spawn("one").await.unwrap();
        let two = pool.spawn("two").await.unwrap();
        assert_ne!(one.pid(), two.pid());
        for vm in [&one, &two] {
            assert_eq!(vm.exec(["counter"]).await.unwrap().stdout, b"1\n");
        }
        full(&pool, s).await;
        [one, two]
    };
    let vms = meeting(s, call, fault, served).await;
    serves_warm(&pool).await;
    for vm in vms {
        vm.destroy().await.unwrap();
    }
    assert_eq!(pool.stats().leased, 0);
    pool.close().await;
}

/// Checks that spawns are served and another process takes its place, whatever happens to a standby
/// process or its start.
async fn a_standby(b: &Backend, s: &Simulator, call: &Call, fault: &Fault) {
    let options = PoolOptions::new(1).with_warm(0);
    let pool = Pool::open(b.launcher.clone(), options).await.unwrap();
    pool.warmup().await.unwrap();
    s.inject(call.at, fault.clone());
    let served = async {
        let vm = pool.spawn("one").await.unwrap();
        assert_eq!(vm.exec(["counter"]).await.unwrap().stdout, b"1\n");
        full(&pool, s).await;
        vm
    };
    let one = meeting(s, call, fault, served).await;
    let standby = pool.standby_pids();
    let another = pool.spawn("another").await.unwrap();
    assert_eq!(another.origin(), Origin::Restored);
    assert_eq!(standby, [another.pid()]);
    for vm in [one, another] {
        vm.destroy().await.unwrap();
    }
    assert_eq!(pool.stats().leased, 0);
    pool.close().await;
}

/// Resolves when all faults have struck and the pool is full.
async fn full(pool: &Pool, s: &Simulator) {
    loop {
        // May meet the fault itself, and report it.
        let filled = pool.warmup().await;
        if s.waiting() > 0 {
            drop(pool.spawn("meets the fault").await.unwrap());
        } else if filled.is_ok() && pool.stats().standby == 1 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn serves_warm(pool: &Pool) {
    let vm = pool.spawn("served").await.unwrap();
    assert_eq!(vm.origin(), Origin::Warm);
    assert_eq!(vm.exec(["counter"]).await.unwrap().stdout, b"1\n");
    vm.destroy().await.unwrap();
}
