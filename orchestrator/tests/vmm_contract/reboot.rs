//! Snapshots that are older than this boot of the host.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ironclaw_orchestrator::vm::{Origin, Pool, PoolOptions};
use libtest_mimic::Trial;

use crate::backend::{Backend, Kind};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "reboot::a_snapshot_corrupted_on_disk_serves_nobody_and_the_pool_heals".into(),
        a_snapshot_corrupted_on_disk_serves_nobody,
    )]
}

async fn a_snapshot_corrupted_on_disk_serves_nobody() {
    let backend = Kind::Simulator.start().await.unwrap();
    let (sound, changed) = (snapshot(&backend).await, snapshot(&backend).await);
    let memory = fs::File::options().write(true).open(changed.join("memory"));
    memory.unwrap().write_all_at(b"!", 700_000).unwrap();

    let pool = Pool::open(backend.launcher.clone(), PoolOptions::new(2));
    let pool = pool.await.unwrap();
    assert_eq!(pool.stats().snapshots, 1);
    assert!(sound.exists() && !changed.exists());
    pool.warmup().await.unwrap();
    let vm = pool.spawn("served").await.unwrap();
    assert_eq!(vm.origin(), Origin::Warm);
    vm.destroy().await.unwrap();
    assert_eq!(pool.stats().snapshots, 2);
    pool.close().await;
}

/// Creates a snapshot that seems to be of another boot of the host; returns its directory.
async fn snapshot(backend: &Backend) -> std::path::PathBuf {
    let created = backend.launcher.create_snapshot().await.unwrap();
    let directory = created.snapshot.memory().parent().unwrap().to_owned();
    drop(created);
    let path = directory.join("manifest.json");
    let manifest = fs::read_to_string(&path).unwrap();
    let now = fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).unwrap();
    assert!(manifest.contains(now.trim()));
    let other = "00000000-0000-0000-0000-000000000000";
    fs::write(path, manifest.replace(now.trim(), other)).unwrap();
    directory
}
