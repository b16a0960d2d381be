//! Tests damaged snapshots with a real Firecracker.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use ironclaw_orchestrator::vm::snapshot::{Snapshot, SnapshotError, StoreError};
use ironclaw_orchestrator::vm::vmm::VmmError;
use ironclaw_orchestrator::vm::{
    CheckpointOptions, ErrorKind, LaunchError, Launcher, Origin, Pool, SpawnError, Stage,
};
use ironclaw_test_harness::skipped;

use crate::jail::jailed;
use crate::lab::{Lab, list, pool, run, words};
use crate::process::living_in;
use crate::real;
use crate::small_disk::SmallDisk;
use crate::within::within;

/// A way to damage a snapshot.
type Spoil = fn(&Snapshot);

/// Ways to damage a snapshot, with part of the error: ours for damage that shows in the files, else
/// Firecracker's.
const SPOILED: &[(Spoil, &str)] = &[
    (lose_state, "vmstate is missing"),
    (lose_memory, "memory is missing"),
    (truncate_memory, "memory has"),
    (corrupt_state, "CRC64 validation failed"),
    (change_version, "Invalid data version"),
    (empty_state, "vmstate has"),
];

fn lose_state(snapshot: &Snapshot) {
    std::fs::remove_file(snapshot.vmstate()).unwrap();
}

fn lose_memory(snapshot: &Snapshot) {
    std::fs::remove_file(snapshot.memory()).unwrap();
}

fn truncate_memory(snapshot: &Snapshot) {
    writable(snapshot.memory()).set_len(1 << 20).unwrap();
}

/// Changes the last byte before the checksum, which is the last eight bytes.
fn corrupt_state(snapshot: &Snapshot) {
    let mut state = std::fs::read(snapshot.vmstate()).unwrap();
    let at = state.len() - 8;
    state[at] ^= 1;
    std::fs::write(snapshot.vmstate(), state).unwrap();
}

/// Raises the major version of the state's format, which the file contains as text.
fn change_version(snapshot: &Snapshot) {
    let mut state = std::fs::read(snapshot.vmstate()).unwrap();
    let versions: Vec<usize> = (0..state.len() - 5)
        .filter(|at| is_version(&state[*at..*at + 5]))
        .collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
    state[versions[0]] += 1;
    std::fs::write(snapshot.vmstate(), state).unwrap();
}

fn is_version(text: &[u8]) -> bool {
    matches!(text, [a, b'.', b, b'.', c] if [a, b, c].iter().all(|d| d.is_ascii_digit()))
}

fn empty_state(snapshot: &Snapshot) {
    writable(snapshot.vmstate()).set_len(0).unwrap();
}

fn writable(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

/// Overwrites all of memory, like a program that takes the file for its own.
pub(crate) fn overwrite_memory(snapshot: &Snapshot) {
    let mut file = writable(snapshot.memory());
    let block = [0xff; 1 << 16];
    for _ in 0..file.metadata().unwrap().len() / block.len() as u64 {
        file.write_all(&block).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_snapshot_is_refused_beforehand_or_in_firecrackers_words_and_leaves_nothing() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    for (spoil, said) in SPOILED {
        let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
        spoil(&snapshot);
        let error = launcher.restore_vm(&snapshot, "spoiled").await.unwrap_err();
        match &error {
            // Damage that shows in the files is found beforehand: Firecracker might not answer for
            // long.
            LaunchError::Snapshot(SnapshotError::Defective { .. })
            | LaunchError::Vmm(VmmError::Refused { .. }) => {}
            other => panic!("{said}: {other:?}"),
        }
        assert!(words(&error).contains(said), "{said}: {error:?}");
        lab.until_no_home();
        let left = living_in(&lab.config.run_path);
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_snapshot_costs_the_pool_a_boot_and_is_replaced() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    for (spoil, said) in SPOILED {
        let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
        let bad = snapshot.id();
        let pool = pool(&launcher, 1, 0).await;
        assert_eq!(pool.stats().snapshots, 1);
        spoil(&snapshot);
        drop(snapshot);
        let vm = pool.spawn("fallback").await.unwrap();
        assert_eq!(vm.origin(), Origin::ColdBooted, "{said}");
        assert_eq!(run(&vm, ["echo", "served"]).await, "served\n");
        heals(&pool, 0).await;
        drop(vm);
        pool.close().await;
        lab.until_no_home();
        let left = launcher.snapshots().list().unwrap();
        assert_eq!(left.len(), 1, "{said}: {left:?}");
        assert_ne!(left[0].id, bad, "{said}");
        launcher.snapshots().delete(left[0].id).unwrap();
    }
}

/// Checks that the pool fills up again and serves from its best tier.
async fn heals(pool: &Pool, warm: usize) {
    assert!(pool.stats().failures > 0);
    let healed = async {
        while pool.stats().snapshots == 0 || pool.stats().warm < warm {
            // Reports failures meanwhile, and continues.
            let _ = pool.warmup().await;
        }
    };
    within("a full pool", healed).await;
    let vm = pool.spawn("healed").await.unwrap();
    let best = [Origin::Restored, Origin::Warm][warm.min(1)];
    assert_eq!(vm.origin(), best);
    assert_eq!(run(&vm, ["counter"]).await, "1\n");
    vm.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_clone_whose_memory_was_overwritten_is_not_handed_out() {
    let Some(lab) = Lab::open().await else { return };
    let (launcher, snapshot) = lab.snapshot().await;
    let pool = pool(&launcher, 1, 1).await;
    pool.warmup().await.unwrap();
    overwrite_memory(&snapshot);
    drop(snapshot);
    let vm = pool.spawn("fallback").await.unwrap();
    assert_eq!(vm.origin(), Origin::ColdBooted);
    assert_eq!(run(&vm, ["echo", "served"]).await, "served\n");
    heals(&pool, 1).await;
    drop(vm);
    pool.close().await;
    lab.until_no_home();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_run_directory_a_pool_says_so_for_each_tier_and_loses_no_snapshot() {
    let Some(lab) = Lab::open().await else { return };
    let (launcher, snapshot) = lab.snapshot().await;
    let id = snapshot.id();
    drop(snapshot);
    let pool = pool(&launcher, 1, 0).await;
    let owner = list(&lab.config.run_path).remove(0);
    let aside = lab.path().join("aside");
    std::fs::rename(&owner, &aside).unwrap();
    let error = pool.spawn("nowhere").await.unwrap_err();
    let SpawnError::Failed(tiers) = &error else {
        panic!("{error:?}");
    };
    let tried: Vec<Origin> = tiers.iter().map(|(origin, _)| origin).collect();
    assert_eq!(tried, [Origin::Restored, Origin::ColdBooted]);
    for (_, error) in tiers.iter() {
        let text = words(error);
        assert!(text.contains("directory for a VM"), "{text}");
        assert!(text.contains("No such file"), "{text}");
    }
    std::fs::rename(&aside, &owner).unwrap();
    heals(&pool, 0).await;
    pool.close().await;
    let left = launcher.snapshots().list().unwrap();
    assert_eq!((left.len(), left[0].id), (1, id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_before_a_snapshot_is_written_is_one_clear_error_and_leaves_no_file() {
    let Some(mut lab) = Lab::open().await else {
        return;
    };
    let Some(disk) = small_disk() else { return };
    lab.config.snapshot_path = disk.path().join("snapshots");
    lab.config.machine.memory_mib = 128;
    let path = disk.path().to_owned();
    let progress = move |stage: &Stage| {
        if matches!(stage, Stage::WritingSnapshot) {
            SmallDisk::fill(&path);
        }
    };
    let launcher = Launcher::open(&lab.config, Arc::new(progress)).await;
    let error = launcher.unwrap().create_snapshot().await.unwrap_err();
    let text = words(&error);
    assert!(
        matches!(
            error,
            LaunchError::Snapshot(SnapshotError::Store(StoreError::NoSpace { .. }))
        ),
        "{text}"
    );
    disk.free();
    let left = list(&lab.config.snapshot_path);
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_while_a_checkpoint_is_written_is_told_as_such_and_the_vm_goes_on() {
    let Some(mut lab) = Lab::open().await else {
        return;
    };
    let Some(disk) = small_disk() else { return };
    lab.config.snapshot_path = disk.path().join("snapshots");
    lab.config.machine.memory_mib = 128;
    let vm = lab.launcher().await.cold_boot("runs on").await.unwrap();
    // Room for its memory, as is checked before, and for nothing besides.
    let filler = File::create(disk.path().join("filler")).unwrap();
    let free = rustix::fs::statvfs(disk.path()).unwrap();
    let room = free.f_bavail * free.f_frsize - lab.config.machine.memory_bytes();
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, room).unwrap();
    drop(filler);
    let options = || CheckpointOptions::owned_by("test");
    let error = vm.checkpoint(options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{}", words(&error));
    assert_eq!(run(&vm, ["echo", "runs on"]).await, "runs on\n");
    disk.free();
    let left = list(&lab.config.snapshot_path);
    assert!(left.is_empty(), "{left:?}");
    vm.checkpoint(options()).await.unwrap();
    vm.destroy().await.unwrap();
}

fn small_disk() -> Option<SmallDisk> {
    let denied = |reason: &str| drop(real::unless_required(reason.to_owned()));
    SmallDisk::mount(160, denied).map_err(skipped).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_on_a_read_only_file_system_serve_and_none_is_built() {
    let Some(mut lab) = Lab::open().await else {
        return;
    };
    let Some(disk) = small_disk() else { return };
    lab.config.snapshot_path = disk.path().join("snapshots");
    let (launcher, snapshot) = lab.snapshot().await;
    drop((launcher, snapshot));
    disk.make_read_only();
    let launcher = lab.launcher().await;
    assert!(launcher.snapshots().is_read_only());
    let pool = pool(&launcher, 2, 1).await;
    let vm = pool.spawn("restored").await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored);
    let error = pool.warmup().await.unwrap_err();
    let text = words(&error);
    assert!(
        text.contains("nothing can be built") && text.contains("`snapshot_path`"),
        "{text}"
    );
    vm.destroy().await.unwrap();
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_run_directory_is_told_as_such_and_is_no_death_of_a_vmm() {
    let Some(mut lab) = jailed().await else {
        return;
    };
    let Some(disk) = small_disk() else { return };
    // On one file system, because jails link the files.
    let mut copy = std::process::Command::new("cp");
    copy.arg("-a")
        .arg(&lab.config.template_path)
        .arg(disk.path());
    assert!(copy.status().unwrap().success());
    lab.config.template_path = disk.path().join("templates");
    lab.config.snapshot_path = disk.path().join("snapshots");
    lab.config.run_path = disk.path().join("run");
    let launcher = lab.launcher().await;
    let pool = pool(&launcher, 1, 0).await;
    SmallDisk::fill(disk.path());
    let error = pool.spawn("no-room").await.unwrap_err();
    let SpawnError::Failed(tiers) = &error else {
        panic!("{error:?}");
    };
    let (_, last) = tiers.iter().last().unwrap();
    assert!(
        matches!(last, LaunchError::Vmm(VmmError::NoSpace { .. })),
        "{last:?}"
    );
    assert_eq!(last.reason(), "no_space");
    let text = words(&error);
    assert!(text.contains("`run_path`"), "{text}");
    disk.free();
    pool.spawn("room").await.unwrap().destroy().await.unwrap();
    pool.close().await;
}
