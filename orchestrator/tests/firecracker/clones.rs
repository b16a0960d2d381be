//! Tests snapshots and clones.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ironclaw_orchestrator::vm::VmHandle;
use ironclaw_orchestrator::vm::firecracker::KIND;
use ironclaw_orchestrator::vm::guest::Guest;
use ironclaw_orchestrator::vm::snapshot::Description;
use ironclaw_orchestrator::vm::vmm::Ram;

use crate::lab::{Lab, list, run};
use crate::within::within;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_published_sparse_and_private() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let created = launcher.create_snapshot().await.unwrap();
    let snapshot = &created.snapshot;
    assert_eq!(snapshot.manifest().vmm.kind, KIND);

    let size = launcher.machine().memory_bytes();
    assert_eq!(snapshot.memory().metadata().unwrap().len(), size);
    // A Linux guest would have more; this one writes to its stacks, heap and queues alone.
    let most = 8 << 20;
    assert!(
        created.disk_bytes < most,
        "{} bytes on disk",
        created.disk_bytes
    );

    let directory = snapshot.memory().parent().unwrap();
    for path in list(directory) {
        let metadata = path.metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
        assert!(metadata.blocks() * 512 < most, "{}", path.display());
    }
    assert_eq!(directory.metadata().unwrap().mode() & 0o777, 0o700);
    assert!(lab.homes().is_empty(), "the booted VM is gone");

    let (store, id) = (launcher.snapshots().clone(), snapshot.id());
    assert_eq!(store.list().unwrap().len(), 1);
    let verify = tokio::task::spawn_blocking(move || store.verify(id));
    verify.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_of_one_snapshot_share_nothing_that_matters() {
    let Some(lab) = Lab::open().await else { return };
    let (launcher, snapshot) = lab.snapshot().await;
    let a = launcher.restore_vm(&snapshot, "clone-a").await.unwrap();
    let b = launcher.restore_vm(&snapshot, "clone-b").await.unwrap();
    for count in ["1\n", "2\n", "3\n"] {
        assert_eq!(run(&a, ["counter"]).await, count);
    }
    assert_eq!(run(&b, ["counter"]).await, "1\n");
    assert_ne!(run(&a, ["entropy"]).await, run(&b, ["entropy"]).await);

    let (a, b) = (run(&a, ["identity"]).await, run(&b, ["identity"]).await);
    let (a, b): (Vec<_>, Vec<_>) = (a.lines().collect(), b.lines().collect());
    assert_eq!((a.len(), a[0], b[0]), (3, "clone-a", "clone-b"));
    for (a, b) in a.iter().zip(&b) {
        assert_ne!(a, b);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_a_clone_stay_out_of_the_snapshot() {
    let Some(lab) = Lab::open().await else { return };
    let (launcher, snapshot) = lab.snapshot().await;
    let vm = launcher.restore_vm(&snapshot, "writer").await.unwrap();
    run(&vm, ["dirty", "64"]).await;
    vm.destroy().await.unwrap();
    let (store, id) = (launcher.snapshots().clone(), snapshot.id());
    let verify = tokio::task::spawn_blocking(move || store.verify(id));
    verify.await.unwrap().unwrap();
}

/// Tolerated drift between two clocks that nobody synchronizes: far more than in the time of a
/// test.
const MAX_DRIFT: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_clones_clock_is_right_however_old_its_snapshot_is() {
    let Some(lab) = Lab::open().await else { return };
    let (launcher, snapshot) = lab.snapshot().await;
    let vm = async {
        loop {
            let asked = now();
            let vm = launcher.restore_vm(&snapshot, "clock").await.unwrap();
            // A guest's clock may be late by the time that setting it took. A clock that continues
            // from the snapshot is late by the snapshot's age, which is so much more that the two
            // can't be confused.
            let late = now() - asked;
            if snapshot.manifest().created.age().unwrap() > 2 * (late + MAX_DRIFT) {
                return (vm, late);
            }
        }
    };
    let (vm, late) = within("a restore that takes less than the snapshot's age", vm).await;
    for _ in 0..3 {
        let before = now();
        let guest = clock(&vm).await;
        let after = now();
        assert!(
            before - late - MAX_DRIFT <= guest && guest <= after + MAX_DRIFT,
            "{before:?} {guest:?} {after:?}, late by {late:?} at most"
        );
    }
}

async fn clock(vm: &VmHandle) -> Duration {
    let text = run(vm, ["clock"]).await;
    let (seconds, nanos) = text.trim().split_once('.').unwrap();
    Duration::new(seconds.parse().unwrap(), nanos.parse().unwrap())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// The second one contains only the changes since the first, until it is completed.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_snapshot_of_a_vm_is_as_complete_as_the_first() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let spec = launcher.spec(Ram::File(lab.path().join("unused")));
    let mut vm = launcher.hypervisor().boot(&spec).await.unwrap();
    let guest = Guest::open(vm.guest_channel().await.unwrap()).unwrap();
    guest.ping(Duration::from_secs(10)).await.unwrap();
    for _ in 0..3 {
        guest.exec(["counter"]).await.unwrap();
    }
    guest.exec(["dirty", "8"]).await.unwrap();
    let mut snapshots = Vec::new();
    for _ in 0..2 {
        let staging = launcher.snapshots().stage(launcher.requirements()).unwrap();
        vm.snapshot(&staging.files()).await.unwrap();
        let needs = launcher.requirements().clone();
        let description = Description {
            generation: 0,
            template: needs.template,
            vmm: needs.vmm,
            machine: needs.machine,
            host: needs.host,
        };
        let publish = tokio::task::spawn_blocking(move || staging.publish(description));
        snapshots.push(publish.await.unwrap().unwrap().snapshot);
    }
    drop(vm);
    for snapshot in &snapshots {
        let clone = launcher.restore_vm(snapshot, "clone").await.unwrap();
        assert_eq!(run(&clone, ["counter"]).await, "4\n");
        clone.destroy().await.unwrap();
    }
}
