//! Tests Firecracker with requests that our VMs do not make yet.

use std::os::unix::fs::MetadataExt as _;

use ironclaw_orchestrator::vm::firecracker::api::{SnapshotCreate, SnapshotLoad, SnapshotType, Vm};

use crate::lab::Lab;
use crate::raw_api::{Raw, load};

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_tracks_its_pages_has_snapshots_of_what_it_wrote() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, snapshot) = lab.snapshot().await;
    let raw = Raw::start(&lab);
    let mut client = raw.client().await;
    let load = SnapshotLoad {
        track_dirty_pages: Some(true),
        ..load(&snapshot)
    };
    client.call(&load).await.unwrap();
    client.call(&Vm::Resumed).await.unwrap();
    client.call(&Vm::Paused).await.unwrap();
    let create = SnapshotCreate {
        snapshot_type: SnapshotType::Diff,
        snapshot_path: lab.path().join("vmstate"),
        mem_file_path: lab.path().join("memory"),
    };
    client.call(&create).await.unwrap();
    assert!(create.snapshot_path.exists());
    let memory = create.mem_file_path.metadata().unwrap();
    assert_eq!(memory.len(), snapshot.memory().metadata().unwrap().len());
    // Only the pages that it wrote to.
    let on_disk = memory.blocks() * 512;
    assert!((1..memory.len() / 2).contains(&on_disk), "{on_disk}");
}
