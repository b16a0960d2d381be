//! Snapshots and their clones.

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fixture::{bench, out};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_private_sparse_and_verifiable() {
    let Some(bench) = bench().await else { return };
    let created = bench.launcher.create_snapshot().await.unwrap();
    let snapshot = &created.snapshot;
    for path in [snapshot.memory(), snapshot.vmstate()] {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let memory = snapshot.memory().metadata().unwrap();
    assert_eq!(memory.len(), 128 << 20);
    assert!(
        memory.blocks() * 512 < 8 << 20,
        "{} blocks",
        memory.blocks()
    );
    bench.launcher.snapshots().verify(snapshot.id()).unwrap();
    assert!(bench.homes().is_empty(), "the template's VM is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_share_nothing_but_their_past() {
    let Some(bench) = bench().await else { return };
    let created = bench.launcher.create_snapshot().await.unwrap();
    let (mut seeds, mut names) = (HashSet::new(), HashSet::new());
    let mut living = Vec::new();
    for number in 0..4 {
        let name = format!("clone-{number}");
        let vm = bench.launcher.restore_vm(&created.snapshot, &name).await;
        let vm = vm.unwrap();
        // Each counts for itself, though all live at once.
        assert_eq!(out(&vm, &["counter"]).await, "1\n");
        assert_eq!(out(&vm, &["counter"]).await, "2\n");
        assert!(seeds.insert(out(&vm, &["entropy"]).await));
        let identity = out(&vm, &["identity"]).await;
        assert!(identity.starts_with(&format!("{name}\n")), "{identity}");
        assert!(names.insert(identity));
        let clock: f64 = out(&vm, &["clock"]).await.trim().parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!((clock - now.as_secs_f64()).abs() < 1.0, "{clock} {now:?}");
        living.push(vm);
    }
    for vm in &living {
        out(vm, &["dirty", "8"]).await;
    }
    let verified = bench.launcher.snapshots().verify(created.snapshot.id());
    assert!(verified.is_ok(), "clones wrote to their snapshot");
    for vm in living {
        vm.destroy().await.unwrap();
    }
    assert!(bench.homes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_s_clock_goes_on_at_the_present_time() {
    let Some(bench) = bench().await else { return };
    let created = bench.launcher.create_snapshot().await.unwrap();
    // Long enough to tell the snapshot's time from ours.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let vm = bench.launcher.restore_vm(&created.snapshot, "late").await;
    let clock: f64 = out(&vm.unwrap(), &["clock"]).await.trim().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!((clock - now.as_secs_f64()).abs() < 0.5, "{clock} {now:?}");
}
