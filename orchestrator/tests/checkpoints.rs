//! Tests that pools leave checkpoints alone, with the hypervisor of `pool_cycles`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "pool_cycles uses the rest")]
#[path = "pool_cycles/fault.rs"]
mod fault;
#[path = "pool_cycles/guest.rs"]
mod guest;
#[path = "pool_cycles/launcher.rs"]
mod launcher;
#[path = "pool_cycles/vm.rs"]
mod vm;
#[allow(dead_code, reason = "pool_cycles uses the rest")]
#[path = "pool_cycles/world.rs"]
mod world;

use std::time::Duration;

use ironclaw_orchestrator::vm::snapshot::{Checkpoint, Description};
use ironclaw_orchestrator::vm::{Pool, PoolOptions};

use launcher::launcher;
use world::World;

#[tokio::test(flavor = "multi_thread")]
async fn no_pool_takes_a_checkpoint_or_deletes_it() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let launcher = launcher(directory.path(), &World::new());
    let (store, needs) = (launcher.snapshots(), launcher.requirements().clone());
    let checkpoint = Checkpoint {
        owner: "somebody".to_owned(),
        of: "vm-1".to_owned(),
        keep_until: None,
    };
    let staging = store.stage_checkpoint(&needs, checkpoint, None).unwrap();
    let memory = std::fs::File::create(staging.memory()).unwrap();
    memory.set_len(needs.machine.memory_bytes()).unwrap();
    std::fs::write(staging.vmstate(), "devices").unwrap();
    // Fits the pool except for its kind.
    let description = Description {
        generation: 0,
        template: needs.template,
        vmm: needs.vmm,
        machine: needs.machine,
        host: needs.host,
    };
    let id = staging.publish(description).unwrap().snapshot.id();

    let pool = Pool::open(launcher.clone(), PoolOptions::new(1))
        .await
        .unwrap();
    pool.warmup().await.unwrap();
    let base = pool.snapshots();
    assert_eq!(base.len(), 1, "a snapshot of its own");
    assert!(!base.contains(&id));
    pool.refresh().await.unwrap();
    assert!(!pool.snapshots().contains(&id));
    pool.close().await;
    let swept = store.delete_unused(Duration::ZERO).unwrap();
    assert!(!swept.removed.is_empty());
    let left: Vec<_> = store.list().unwrap().iter().map(|it| it.id).collect();
    assert_eq!(left, [id]);
}
