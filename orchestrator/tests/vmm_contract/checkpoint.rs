//! Checkpoints of VMs in use, and the copies made from them.

use std::collections::HashSet;

use ironclaw_orchestrator::vm::firecracker;
use ironclaw_orchestrator::vm::snapshot::{Kind, Snapshot};
use ironclaw_orchestrator::vm::{
    CheckpointError, CheckpointOptions, Origin, SpawnError, SpawnOptions, State, VmError, VmHandle,
};

use crate::backend::Backend;
use crate::room::{of_vms, pool};

on_each_vmm!(
    "checkpoint":
    a_vm_and_two_copies_of_it_go_on_with_its_files_and_identities_of_their_own,
    a_checkpoint_is_refused_while_commands_would_be_lost_and_the_vm_goes_on,
    a_copy_takes_room_like_any_vm_and_is_refused_by_a_closed_pool,
);

/// The test guest has no shell, and its VMM ends connections with a checkpoint.
fn can(backend: &Backend) -> bool {
    backend.launcher.vmm().kind != firecracker::KIND
}

fn kept() -> CheckpointOptions {
    CheckpointOptions::owned_by("suite")
}

async fn lines(vm: &VmHandle, script: &str) -> Vec<String> {
    let output = vm.exec(["sh", "-c", script]).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Runs a copy from `checkpoint` by the same pool.
async fn a_vm_and_two_copies_of_it_go_on_with_its_files_and_identities_of_their_own(
    backend: &Backend,
) {
    if !can(backend) {
        return;
    }
    let pool = pool(&backend.launcher, 0, &of_vms(4)).await;
    let vm = pool.spawn("original").await.unwrap();
    lines(&vm, "echo before > /tmp/mark").await;
    let checkpoint: Snapshot = vm.checkpoint(kept()).await.unwrap();
    assert_eq!(vm.state(), State::Running);
    lines(&vm, "echo after > /tmp/mark").await;
    let Kind::Checkpoint(of) = &checkpoint.manifest().kind else {
        panic!("{:?}", checkpoint.manifest());
    };
    assert_eq!(
        (of.of.as_str(), of.owner.as_str()),
        (vm.id().to_string().as_str(), "suite")
    );

    let one = pool
        .fork(&checkpoint, SpawnOptions::named("one"))
        .await
        .unwrap();
    // A copy can be checkpointed in its turn, and a held one is held afterwards.
    one.pause().await.unwrap();
    let second: Snapshot = one.checkpoint(kept()).await.unwrap();
    assert_eq!(one.state(), State::Paused);
    one.resume().await.unwrap();
    assert_eq!(second.manifest().parent, Some(checkpoint.id()));
    let two = pool
        .fork(&checkpoint, SpawnOptions::named("two"))
        .await
        .unwrap();
    let three = pool
        .fork(&second, SpawnOptions::named("three"))
        .await
        .unwrap();
    assert_eq!(one.origin(), Origin::Restored);
    assert_eq!(lines(&vm, "cat /tmp/mark").await, ["after"]);
    let mut seen = HashSet::new();
    for vm in [&vm, &one, &two, &three] {
        let own = lines(
            vm,
            "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1",
        );
        let own = own.await;
        assert_eq!(own[0], vm.name());
        assert!(own.into_iter().all(|line| seen.insert(line)), "{seen:?}");
    }
    for copy in [one, two, three] {
        assert_eq!(lines(&copy, "cat /tmp/mark").await, ["before"]);
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs();
        let told: u64 = lines(&copy, "date +%s").await[0].parse().unwrap();
        assert!(
            told.abs_diff(now) <= 5,
            "its clock says {told}, and it is {now}"
        );
        copy.destroy().await.unwrap();
    }
    vm.destroy().await.unwrap();
    let store = backend.launcher.snapshots();
    let (id, second) = (checkpoint.id(), {
        let id = second.id();
        drop((second, checkpoint));
        id
    });
    // No pool deletes them, and their owner does.
    pool.refresh().await.unwrap();
    pool.close().await;
    assert_eq!(store.checkpoints().unwrap().len(), 2);
    for id in [id, second] {
        store.delete_checkpoint(id, "suite").unwrap();
    }
}

async fn a_checkpoint_is_refused_while_commands_would_be_lost_and_the_vm_goes_on(
    backend: &Backend,
) {
    let pool = pool(&backend.launcher, 0, &of_vms(1)).await;
    let vm = pool.spawn("busy").await.unwrap();
    let running = vm.start(["sleep", "3600000"]).await.unwrap();
    let error = vm.checkpoint(kept()).await.unwrap_err();
    assert!(
        matches!(error, CheckpointError::Vm(VmError::NoCheckpoint(_))),
        "{error:?}"
    );
    assert_eq!(vm.state(), State::Running);
    assert_eq!(vm.exec(["echo", "on"]).await.unwrap().stdout, b"on\n");
    drop(running);
    vm.destroy().await.unwrap();
    assert!(
        backend
            .launcher
            .snapshots()
            .checkpoints()
            .unwrap()
            .is_empty()
    );
    pool.close().await;
}

async fn a_copy_takes_room_like_any_vm_and_is_refused_by_a_closed_pool(backend: &Backend) {
    if !can(backend) {
        return;
    }
    let pool = pool(&backend.launcher, 0, &of_vms(1)).await;
    let vm = pool.spawn("original").await.unwrap();
    let checkpoint: Snapshot = vm.checkpoint(kept()).await.unwrap();
    let impatient = || SpawnOptions {
        patience: std::time::Duration::from_millis(50),
        ..SpawnOptions::named("copy")
    };
    let error = pool.fork(&checkpoint, impatient()).await.unwrap_err();
    assert!(matches!(error, SpawnError::PoolExhausted { .. }), "{error}");
    vm.destroy().await.unwrap();
    let copy = pool.fork(&checkpoint, impatient()).await.unwrap();
    assert_eq!(pool.stats().leased, 1);
    assert_eq!(pool.vms().len(), 1);
    let again = pool.clone();
    pool.close_with_vms().await;
    assert!(!crate::backend::is_alive(copy.pid()));
    let error = again.fork(&checkpoint, impatient()).await.unwrap_err();
    assert!(matches!(error, SpawnError::Closed), "{error}");
    assert_eq!(again.stats().leased, 0);
}
