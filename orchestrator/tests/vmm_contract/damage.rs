//! Removes files of snapshots under an open pool.

use std::fs;

use ironclaw_orchestrator::vm::{Origin, Pool, PoolOptions, VmHandle};

use crate::backend::Backend;

on_each_vmm!(
    "damage":
    a_snapshot_without_state_costs_one_boot_and_is_built_anew,
    one_broken_snapshot_of_three_costs_no_boot,
    a_removed_directory_of_snapshots_is_made_anew,
    a_warmup_fails_while_the_directory_of_snapshots_is_a_file_and_heals_after_that,
    a_refresh_replaces_what_was_removed,
);

/// Opens a pool of `size` snapshots, without warm clones.
async fn pool(backend: &Backend, size: usize) -> Pool {
    let options = PoolOptions::new(size).with_warm(0);
    let pool = Pool::open(backend.launcher.clone(), options).await.unwrap();
    pool.warmup().await.unwrap();
    assert_eq!(pool.snapshots().len(), size);
    pool
}

async fn origin(pool: &Pool) -> Origin {
    let vm: VmHandle = pool.spawn("served").await.unwrap();
    let origin = vm.origin();
    assert_eq!(vm.exec(["echo", "on"]).await.unwrap().stdout, b"on\n");
    vm.destroy().await.unwrap();
    origin
}

async fn a_snapshot_without_state_costs_one_boot_and_is_built_anew(backend: &Backend) {
    let pool = pool(backend, 1).await;
    let bad = pool.snapshots()[0];
    let directory = backend.launcher.snapshots().root().join(bad.to_string());
    fs::remove_file(directory.join("vmstate")).unwrap();
    assert_eq!(origin(&pool).await, Origin::ColdBooted);
    let stats = pool.stats();
    assert_eq!(stats.fallbacks.get("snapshot"), Some(&1), "{stats:?}");
    pool.warmup().await.unwrap();
    assert!(!pool.snapshots().contains(&bad));
    assert_eq!(origin(&pool).await, Origin::Restored);
    pool.close().await;
    assert!(!directory.exists(), "it was left");
}

async fn one_broken_snapshot_of_three_costs_no_boot(backend: &Backend) {
    let pool = pool(backend, 3).await;
    let root = backend.launcher.snapshots().root();
    let bad = pool.snapshots()[1];
    fs::remove_file(root.join(bad.to_string()).join("vmstate")).unwrap();
    for _ in 0..4 {
        assert_eq!(origin(&pool).await, Origin::Restored);
    }
    pool.warmup().await.unwrap();
    let present = pool.snapshots();
    assert!(present.len() == 3 && !present.contains(&bad), "{present:?}");
    pool.close().await;
}

async fn a_removed_directory_of_snapshots_is_made_anew(backend: &Backend) {
    let pool = pool(backend, 2).await;
    let before = pool.snapshots();
    let root = backend.launcher.snapshots().root();
    fs::remove_dir_all(root).unwrap();
    pool.footprint().await.unwrap();
    // The warm-up notices it before any spawn does.
    pool.warmup().await.unwrap();
    let present = pool.snapshots();
    assert_eq!(present.len(), 2);
    assert!(present.iter().all(|id| !before.contains(id)), "{present:?}");
    assert_eq!(origin(&pool).await, Origin::Restored);
    pool.close().await;
}

async fn a_warmup_fails_while_the_directory_of_snapshots_is_a_file_and_heals_after_that(
    backend: &Backend,
) {
    let pool = pool(backend, 1).await;
    let before = pool.snapshots();
    let root = backend.launcher.snapshots().root();
    fs::remove_dir_all(root).unwrap();
    fs::write(root, "").unwrap();
    // None of its snapshots can serve, so it does not count as full.
    let error = pool.warmup().await.unwrap_err();
    let reason = format!("{error:?}");
    assert!(reason.contains("NotADirectory"), "{reason}");
    assert_eq!(origin(&pool).await, Origin::ColdBooted);
    fs::remove_file(root).unwrap();
    pool.warmup().await.unwrap();
    assert!(pool.snapshots().iter().all(|id| !before.contains(id)));
    assert_eq!(origin(&pool).await, Origin::Restored);
    pool.close().await;
}

async fn a_refresh_replaces_what_was_removed(backend: &Backend) {
    let pool = pool(backend, 1).await;
    let root = backend.launcher.snapshots().root();
    let [bad] = pool.snapshots()[..] else {
        panic!("{:?}", pool.stats());
    };
    fs::remove_file(root.join(bad.to_string()).join("vmstate")).unwrap();
    pool.refresh().await.unwrap();
    assert!(!pool.snapshots().contains(&bad));
    fs::remove_dir_all(root).unwrap();
    pool.refresh().await.unwrap();
    assert_eq!(origin(&pool).await, Origin::Restored);
    pool.close().await;
}
