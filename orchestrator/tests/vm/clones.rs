//! Two clones of one snapshot.

use std::time::{SystemTime, UNIX_EPOCH};

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
    let vm = launcher
        .restore_vm(snapshot(&launcher).await, "clock")
        .await
        .unwrap();
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let before = now();
    let guest: u64 = sh(&vm, "date +%s").await.trim().parse().unwrap();
    // A second for the time between the host's reading of its clock and the guest's setting.
    assert!(
        (before - 1..=now() + 1).contains(&guest),
        "{before} {guest}"
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
