//! Tests two clones of one snapshot.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fixture::{launcher, sh, snapshot};

#[tokio::test(flavor = "multi_thread")]
async fn clones_share_nothing_that_matters() {
    let Some(launcher) = launcher().await else {
        return;
    };
    let snapshot = snapshot(&launcher).await;
    let a = launcher.restore_vm(snapshot, "clone-a").await.unwrap();
    let b = launcher.restore_vm(snapshot, "clone-b").await.unwrap();
    sh(&a, "echo secret > /tmp/file").await;
    assert_eq!(sh(&b, "ls /tmp").await, "");
    for script in [
        "head -c 32 /dev/urandom | sha256sum",
        "cat /etc/machine-id",
        "cat /proc/sys/kernel/random/boot_id",
        "hostname",
        "cat /proc/sys/kernel/random/uuid",
    ] {
        assert_ne!(sh(&a, script).await, sh(&b, script).await, "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clones_clock_is_right() {
    let Some(launcher) = launcher().await else {
        return;
    };
    let snapshot = snapshot(&launcher).await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let asked = now();
    let vm = launcher.restore_vm(snapshot, "clock").await.unwrap();
    // By the time that setting it took, at most.
    let late = now() - asked;
    let before = now();
    let guest: u64 = sh(&vm, "date +%s").await.trim().parse().unwrap();
    // The guest reports whole seconds, and its clock drifts a little.
    let apart = Duration::from_millis(10);
    let (earliest, latest) = (before - late - apart, now() + apart);
    assert!(
        (earliest.as_secs()..=latest.as_secs()).contains(&guest),
        "{earliest:?} {guest} {latest:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshots_memory_is_the_same_after_its_clones_wrote_to_theirs() {
    let Some(launcher) = launcher().await else {
        return;
    };
    let snapshot = snapshot(&launcher).await;
    let vm = launcher.restore_vm(snapshot, "writer").await.unwrap();
    sh(&vm, "head -c 20000000 /dev/urandom > /tmp/file").await;
    vm.destroy().await.unwrap();
    let (store, id) = (launcher.snapshots().clone(), snapshot.id());
    let verified = tokio::task::spawn_blocking(move || store.verify(id))
        .await
        .unwrap()
        .unwrap();
    assert!(verified.hashed_bytes > 128 << 20);
}
