//! Tests faults and recovery.

use std::fs;
use std::sync::Arc;

use ironclaw_orchestrator::vm::snapshot::{SnapshotError, StoreError};
use ironclaw_orchestrator::vm::{
    ExecEvent, GuestError, LaunchError, Launcher, Origin, Pool, PoolOptions, Stage,
};
use ironclaw_test_harness::skipped;

use crate::fixture::{config_in, files, in_directory, is_alive, launcher, private, sh, vm};
use crate::pool::kill;
use crate::required::unless_required;
use crate::small_disk::SmallDisk;
use crate::within::within;

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_killed_in_mid_command_is_reported_at_once_and_leaves_no_process() {
    let Some(vm) = vm("victim").await else { return };
    let mut running = vm
        .start(["sh", "-c", "echo on; exec sleep 1000"])
        .await
        .unwrap();
    assert_eq!(
        running.next().await.unwrap(),
        ExecEvent::Stdout(b"on\n".to_vec())
    );
    kill(vm.pid());
    let error = within("an error", running.next()).await.unwrap_err();
    assert!(matches!(error, GuestError::Closed { .. }), "{error}");
    let exit = within("the end of a VM", vm.exited()).await;
    assert!(exit.status.contains("SIGKILL"), "{exit}");
    assert!(!is_alive(vm.pid()));
}

async fn pool(launcher: &Launcher) -> Pool {
    let options = PoolOptions::new(1).with_warm(0);
    Pool::open(launcher.clone(), options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_memory_file_costs_a_boot_and_is_replaced() {
    let Some((directory, launcher)) = private().await else {
        return;
    };
    let created = launcher.create_snapshot().await.unwrap();
    let bad = created.snapshot.id();
    let bad_files = created.snapshot.memory().parent().unwrap().to_owned();
    let pool = pool(&launcher).await;
    let file = fs::File::options()
        .write(true)
        .open(created.snapshot.memory())
        .unwrap();
    file.set_len(1 << 20).unwrap();
    drop(created);
    let vm = pool.spawn("fallback").await.unwrap();
    assert_eq!(vm.origin(), Origin::ColdBooted);
    assert_eq!(sh(&vm, "echo served").await, "served\n");
    let stats = pool.stats();
    let fallbacks: u64 = stats.fallbacks.values().sum();
    assert_eq!((stats.served_cold, fallbacks), (1, 1), "{stats:?}");
    // The pool recovers: another snapshot replaces the bad one.
    let healed = async {
        while pool.stats().snapshots == 0 {
            let _ = pool.warmup().await;
        }
    };
    within("another snapshot", healed).await;
    let second = pool.spawn("healed").await.unwrap();
    assert_eq!(second.origin(), Origin::Restored);
    drop((vm, second));
    pool.close().await;
    // The bad one is deleted with its files, and only the other is left.
    let left = launcher.snapshots().list().unwrap();
    let [entry] = &left[..] else {
        panic!("{left:?}");
    };
    assert_ne!(entry.id, bad);
    assert!(entry.state.is_ok(), "{entry:?}");
    assert!(!bad_files.exists(), "{}", bad_files.display());
    drop(directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_found_truncated_is_swept_when_a_pool_is_opened() {
    let Some((_directory, launcher)) = private().await else {
        return;
    };
    let created = launcher.create_snapshot().await.unwrap();
    let memory = created.snapshot.memory().to_owned();
    drop(created);
    fs::File::options()
        .write(true)
        .open(&memory)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let pool = pool(&launcher).await;
    assert_eq!(pool.stats().snapshots, 0);
    assert_eq!(
        files(launcher.snapshots().root()),
        Vec::<std::path::PathBuf>::new()
    );
    pool.close().await;
}

fn disk(mebibytes: u32) -> Option<SmallDisk> {
    SmallDisk::mount(mebibytes, |reason| unless_required(&reason))
        .inspect_err(|reason| skipped(reason))
        .ok()
}

fn assert_names_the_full_disk(error: &LaunchError) {
    assert!(
        matches!(
            error,
            LaunchError::Snapshot(SnapshotError::Store(StoreError::NoSpace { .. }))
        ),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("`snapshot_path`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_for_a_guests_memory_is_one_clear_error_and_leaves_no_file() {
    if launcher().await.is_none() {
        return;
    }
    let Some(disk) = disk(40) else { return };
    let launcher = in_directory(disk.path()).await;
    let error = launcher.create_snapshot().await.unwrap_err();
    assert_names_the_full_disk(&error);
    let left = files(disk.path());
    assert!(left.is_empty(), "{left:?}");
}

/// The disk fills up before the boot, when memory exists, or before the state is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_while_a_snapshot_is_made_is_one_clear_error_and_leaves_no_file() {
    if launcher().await.is_none() {
        return;
    }
    let Some(disk) = disk(160) else { return };
    for full_at in ["booting the template", "writing the snapshot"] {
        let path = disk.path().to_owned();
        let progress = move |stage: &Stage| {
            if stage.to_string() == full_at {
                SmallDisk::fill(&path);
            }
        };
        let mut config = config_in(disk.path());
        config.machine.memory_mib = 128;
        let launcher = Launcher::open(&config, Arc::new(progress)).await.unwrap();
        let error = launcher.create_snapshot().await.unwrap_err();
        assert_names_the_full_disk(&error);
        disk.free();
        let left = files(disk.path());
        assert!(left.is_empty(), "{full_at}: {left:?}");
    }
}
