//! A process whose snapshot build hangs, beside another that needs the same snapshot.

use std::sync::Arc;
use std::time::Duration;

use ironclaw_orchestrator::vm::vmm::VmmError;
use ironclaw_orchestrator::vm::{LaunchError, Launcher, Origin, Pool, PoolOptions, Stage};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Notify;

use crate::backend::{Backend, Kind, is_alive, living_below};
use crate::simulator::Fault;
use crate::trial_on_one_thread;
use crate::within::within;

/// Time that a process waits for another; the clock of the test's runtime is advanced by it.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial_on_one_thread(
        "maker::one_whose_vmm_hangs_is_waited_for_and_not_for_ever".into(),
        one_whose_vmm_hangs,
    )]
}

async fn one_whose_vmm_hangs() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let b = Kind::Simulator.start_in(directory.path()).await.unwrap();
    let s = b.simulator.as_ref().unwrap();
    s.inject("PUT /snapshot/create", Fault::Hang);
    // On a runtime of its own, whose clock is not advanced.
    let maker = std::thread::spawn({
        let directory = directory.path().to_owned();
        move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let b = Kind::Simulator.start_in(&directory).await.unwrap();
                b.launcher.create_snapshot().await.map(drop)
            })
        }
    });
    s.struck().await;
    let living = living_below(directory.path());
    let [hangs] = living[..] else {
        panic!("{living:?}");
    };

    let waits = Arc::new(Notify::new());
    let pool = Pool::open(telling(&b, Arc::clone(&waits)), PoolOptions::new(1));
    let pool = pool.await.unwrap();
    let jump = async {
        waits.notified().await;
        tokio::time::pause();
        tokio::time::advance(WAIT_TIMEOUT).await;
        tokio::time::resume();
    };
    let both = async { tokio::join!(pool.warmup(), jump).0 };
    within("a pool that goes on by itself", both).await.unwrap();
    assert!(is_alive(hangs), "and nobody else's VMM was ended for that");
    let vm = pool.spawn("served").await.unwrap();
    assert_eq!(vm.origin(), Origin::Warm);
    vm.destroy().await.unwrap();
    pool.close().await;

    let hangs = Pid::from_raw(i32::try_from(hangs).unwrap()).unwrap();
    kill_process(hangs, Signal::KILL).unwrap();
    let made = maker.join().unwrap();
    assert!(
        matches!(made, Err(LaunchError::Vmm(VmmError::Died { .. }))),
        "{made:?}"
    );
    b.nothing_is_left().await;
}

/// Creates a launcher that notifies `waits` when it waits for another process.
fn telling(b: &Backend, waits: Arc<Notify>) -> Launcher {
    let progress = move |stage: &Stage| {
        if let Stage::WaitingForSnapshot(_) = stage {
            waits.notify_one();
        }
    };
    let (vmm, template) = (Arc::clone(&b.vmm), b.launcher.template().clone());
    let snapshots = b.launcher.snapshots().clone();
    Launcher::with(vmm, template, &b.config, snapshots, Arc::new(progress)).unwrap()
}
