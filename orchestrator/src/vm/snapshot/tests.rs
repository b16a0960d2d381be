use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use ironclaw_store::Artefact as _;
use proptest::prelude::*;
use tempfile::TempDir;

use super::kind::DirName;
use super::manifest::tests::{manifest, requirements};
use super::*;

pub(super) fn description() -> Description {
    let Manifest {
        generation,
        template,
        vmm,
        machine,
        host,
        ..
    } = manifest();
    Description {
        generation,
        template,
        vmm,
        machine,
        host,
    }
}

pub(super) fn store() -> (TempDir, SnapshotStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(directory.path().join("snapshots")).unwrap();
    (directory, store)
}

/// Returns a memory file of the machine's 1 MiB with a few pages of content.
fn memory() -> Vec<u8> {
    let mut memory = vec![0; 1 << 20];
    memory[5000] = 1;
    memory[900_000] = 2;
    memory
}

pub(super) fn fill(staging: &Staging) {
    fs::write(staging.memory(), memory()).unwrap();
    fs::write(staging.vmstate(), b"devices").unwrap();
}

pub(super) fn staged(store: &SnapshotStore) -> Staging {
    let staging = store.stage(&requirements()).unwrap();
    fill(&staging);
    staging
}

fn publish(store: &SnapshotStore) -> Snapshot {
    staged(store).publish(description()).unwrap().snapshot
}

pub(super) fn names(store: &SnapshotStore) -> Vec<String> {
    let entries = fs::read_dir(store.root()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn mode(path: impl AsRef<std::path::Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_published_snapshot_is_private_sparse_and_unchanged() {
    let (_directory, store) = store();
    let published = staged(&store).publish(description()).unwrap();
    let snapshot = &published.snapshot;
    assert_eq!(fs::read(snapshot.memory()).unwrap(), memory());
    assert_eq!(fs::read(snapshot.vmstate()).unwrap(), b"devices");
    assert!(published.punched_bytes >= (1 << 20) - 4 * 4096);
    assert!(fs::metadata(snapshot.memory()).unwrap().blocks() * 512 < 1 << 18);
    let directory = snapshot.memory().parent().unwrap();
    assert_eq!(mode(directory), 0o700);
    for entry in fs::read_dir(directory).unwrap() {
        assert_eq!(mode(entry.unwrap().path()), 0o600);
    }
    assert_eq!(names(&store), [snapshot.id().to_string()]);
    store.verify(snapshot.id()).unwrap();
}

#[test]
fn unpublished_staging_leaves_nothing() {
    let (_directory, store) = store();
    drop(staged(&store));
    assert!(names(&store).is_empty());
}

#[test]
fn malformed_files_of_a_vmm_are_refused_and_removed() {
    type Fault = fn(&Staging);
    let faults: [(&str, Fault); 6] = [
        ("missing", |staging| {
            fs::remove_file(staging.memory()).unwrap()
        }),
        ("instead of", |staging| {
            fs::write(staging.memory(), b"short").unwrap()
        }),
        ("empty", |staging| {
            fs::write(staging.vmstate(), b"").unwrap()
        }),
        ("more than", |staging| {
            fs::File::create(staging.vmstate())
                .unwrap()
                .set_len(MAX_VMSTATE_BYTES + 1)
                .unwrap();
        }),
        ("regular", |staging| {
            fs::remove_file(staging.vmstate()).unwrap();
            symlink("/etc/passwd", staging.vmstate()).unwrap();
        }),
        ("belong", |staging| {
            fs::write(staging.memory().with_file_name("other"), b"x").unwrap();
        }),
    ];
    let (_directory, store) = store();
    for (word, fault) in faults {
        let staging = staged(&store);
        fault(&staging);
        let error = staging.publish(description()).unwrap_err().to_string();
        assert!(error.contains(word), "{error:?} should say {word:?}");
        assert!(names(&store).is_empty());
    }
}

#[test]
fn a_snapshot_of_another_template_is_not_loaded() {
    let (_directory, store) = store();
    let id = publish(&store).id();
    assert_eq!(store.load(id, &requirements()).unwrap().id(), id);
    let mut other = requirements();
    other.template = "ee".repeat(32).parse().unwrap();
    let error = store.load(id, &other).unwrap_err();
    assert!(
        matches!(error, SnapshotError::Incompatible { .. }),
        "{error}"
    );
}

#[test]
fn damage_is_found_by_size_at_once_and_by_content_on_verify() {
    let (_directory, store) = store();
    let snapshot = publish(&store);
    let file = fs::File::options()
        .write(true)
        .open(snapshot.memory())
        .unwrap();
    file.write_all_at(b"!", 700_000).unwrap();
    let error = store.verify(snapshot.id()).unwrap_err();
    assert!(matches!(error, SnapshotError::Corrupt { .. }), "{error}");
    file.set_len(1000).unwrap();
    let error = store
        .load(snapshot.id(), &requirements())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("1000 bytes") && error.contains("1048576"),
        "{error}"
    );
}

/// Makes a snapshot look as if from another boot of the host.
fn age(store: &SnapshotStore, id: SnapshotId) {
    let path = DirName::base(id)
        .directory(store.root())
        .join("manifest.json");
    let json = fs::read_to_string(&path).unwrap();
    let now = crate::vm::proc::boot_id().unwrap().to_string();
    assert!(json.contains(&now));
    fs::write(path, json.replace(&now, &uuid::Uuid::nil().to_string())).unwrap();
}

/// Changes one byte of its memory.
fn flip(store: &SnapshotStore, id: SnapshotId) {
    let path = DirName::base(id).directory(store.root()).join("memory");
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"!", 700_000).unwrap();
}

#[test]
fn a_snapshot_changed_while_the_host_was_off_is_refused_and_removed() {
    let (_directory, store) = store();
    let id = publish(&store).id();
    age(&store, id);
    flip(&store, id);
    let error = store.load(id, &requirements()).unwrap_err();
    assert!(matches!(error, SnapshotError::Corrupt { .. }), "{error}");
    assert!(names(&store).is_empty());
}

#[test]
fn a_snapshot_is_hashed_once_in_each_boot_of_the_host() {
    let (_directory, store) = store();
    let load = |id| store.load(id, &requirements());
    // It was hashed when published.
    let id = publish(&store).id();
    flip(&store, id);
    load(id).unwrap();

    let id = publish(&store).id();
    age(&store, id);
    load(id).unwrap();
    flip(&store, id);
    load(id).unwrap();
    let kept = store.root().join(format!(".verified-{id}"));
    assert_eq!(mode(&kept), 0o600);
    fs::write(&kept, uuid::Uuid::nil().to_string()).unwrap();
    let error = load(id).unwrap_err();
    assert!(matches!(error, SnapshotError::Corrupt { .. }), "{error}");
    assert!(!kept.exists());
}

#[test]
fn deleting_a_snapshot_forgets_that_it_was_hashed() {
    let (_directory, store) = store();
    let (deleted, swept) = (publish(&store).id(), publish(&store).id());
    for id in [deleted, swept] {
        age(&store, id);
        drop(store.load(id, &requirements()).unwrap());
    }
    store.delete(deleted).unwrap();
    assert_eq!(names(&store).len(), 2, "{:?}", names(&store));
    store.sweep().unwrap();
    assert_eq!(names(&store).len(), 2, "{:?}", names(&store));
    // Deleted by hand.
    fs::remove_dir_all(DirName::base(swept).directory(store.root())).unwrap();
    store.sweep().unwrap();
    assert!(names(&store).is_empty());
}

#[test]
fn a_snapshot_in_use_can_not_be_deleted() {
    let (_directory, store) = store();
    let snapshot = publish(&store);
    let id = snapshot.id();
    let second = store.load(id, &requirements()).unwrap();
    assert!(store.list().unwrap()[0].in_use);
    drop(snapshot);
    let error = store.delete(id).unwrap_err();
    assert!(matches!(error, SnapshotError::InUse { .. }), "{error}");
    let us = format!("this process ({})", std::process::id());
    assert!(error.to_string().contains(&us), "{error}");
    assert_eq!(store.owners(id).unwrap().0.len(), 1);
    drop(second);
    assert!(!store.list().unwrap()[0].in_use);
    assert!(store.owners(id).unwrap().0.is_empty());
    store.delete(id).unwrap();
    assert!(names(&store).is_empty());
    assert!(matches!(
        store.delete(id),
        Err(SnapshotError::NotFound { .. })
    ));
    assert!(matches!(
        store.load(id, &requirements()),
        Err(SnapshotError::NotFound { .. })
    ));
}

#[test]
fn a_sweep_removes_what_the_dead_left_and_nothing_else() {
    let (_directory, store) = store();
    let sound = publish(&store).id();
    let in_use = publish(&store);
    let living = staged(&store);
    let torn = publish(&store).id();
    fs::remove_file(DirName::base(torn).directory(store.root()).join("vmstate")).unwrap();
    let dead = staged(&store);
    let dead_path = dead.memory().parent().unwrap().to_owned();
    // Like a killed process: the lock is gone, the directory stays.
    let copy = store.root().join(format!(
        ".staging-{}-{}",
        SnapshotId::generate(),
        "a".repeat(16)
    ));
    fs::rename(&dead_path, &copy).unwrap();
    drop(dead);
    let half_made = store.root().join(format!(
        ".staging-{}-{}",
        SnapshotId::generate(),
        "a".repeat(16)
    ));
    fs::create_dir(half_made).unwrap();
    // Of a release before the mark, half deleted.
    let former = publish(&store).id();
    let trash = store.root().join(format!(".trash-{former}"));
    fs::rename(DirName::base(former).directory(store.root()), &trash).unwrap();
    fs::remove_file(trash.join(".ironclaw")).unwrap();
    fs::remove_file(trash.join("memory")).unwrap();
    fs::create_dir(store.root().join("not-ours")).unwrap();

    let swept = store.sweep().unwrap();
    assert_eq!(swept.removed.len(), 4, "{swept:?}");
    assert!(swept.bytes > 0);
    let mut left = names(&store);
    left.sort();
    let mut expected = vec![
        sound.to_string(),
        in_use.id().to_string(),
        living
            .memory()
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned(),
        "not-ours".to_owned(),
    ];
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn foreign_entries_are_left_alone_whatever_their_name() {
    let (_directory, store) = store();
    let id = SnapshotId::generate();
    let names = [
        id.to_string(),
        format!(".trash-{}", SnapshotId::generate()),
        ".trash-photos".to_owned(),
        format!(".staging-{}-{}", SnapshotId::generate(), "a".repeat(16)),
        ".staging-photos".to_owned(),
        format!(".verified-{}", SnapshotId::generate()),
        ".verified-photos".to_owned(),
    ];
    for name in &names {
        let path = store.root().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("memory"), "somebody's").unwrap();
        // The manifest of another snapshot does not mark the directory either.
        fs::write(path.join("manifest.json"), r#"{"id":"x","format":1}"#).unwrap();
        let file = store.root().join(format!("{name}-file"));
        fs::write(file, "somebody's").unwrap();
    }
    fs::write(
        store
            .root()
            .join(format!(".verified-{}", SnapshotId::generate())),
        "x".repeat(37),
    )
    .unwrap();
    let all = self::names(&store).len();

    assert!(store.sweep().unwrap().removed.is_empty());
    assert!(
        store
            .delete_unused(std::time::Duration::ZERO)
            .unwrap()
            .removed
            .is_empty()
    );
    let error = store.delete(id).unwrap_err();
    let SnapshotError::Defective {
        defect: Defect::NotOurs,
        ..
    } = error
    else {
        panic!("{error}");
    };
    let load = store.load(id, &requirements()).unwrap_err().to_string();
    assert!(
        load.contains("by hand") && load.contains(&id.to_string()),
        "{load}"
    );
    let listed = store.list().unwrap();
    assert_eq!(listed[0].state, Err(Defect::NotOurs));
    assert_eq!(self::names(&store).len(), all);
    for name in &names {
        assert!(store.root().join(name).join("memory").exists(), "{name}");
    }
}

#[test]
fn a_snapshot_of_the_last_release_is_ours_by_its_manifest() {
    let (_directory, store) = store();
    let ids = [
        publish(&store).id(),
        publish(&store).id(),
        publish(&store).id(),
    ];
    for id in ids {
        fs::remove_file(DirName::base(id).directory(store.root()).join(".ironclaw")).unwrap();
    }
    drop(store.load(ids[0], &requirements()).unwrap());
    store.delete(ids[0]).unwrap();
    // Truncated, and of another format.
    fs::remove_file(
        DirName::base(ids[1])
            .directory(store.root())
            .join("vmstate"),
    )
    .unwrap();
    assert_eq!(store.sweep().unwrap().removed.len(), 1);
    let manifest = DirName::base(ids[2])
        .directory(store.root())
        .join("manifest.json");
    let json = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, json.replace("\"format\": 3", "\"format\": 99")).unwrap();
    let state = store.list().unwrap()[0].state.clone();
    assert_eq!(state, Err(Defect::OtherFormat { found: 99 }));
    store.delete(ids[2]).unwrap();
    assert!(names(&store).is_empty());
}

#[test]
fn delete_unused_removes_only_old_unused_snapshots() {
    let (_directory, store) = store();
    let unused = publish(&store).id();
    let in_use = publish(&store);
    let hour = std::time::Duration::from_secs(3600);
    assert!(store.delete_unused(hour).unwrap().removed.is_empty());
    let deleted = store.delete_unused(std::time::Duration::ZERO).unwrap();
    assert_eq!(
        deleted.removed,
        [DirName::base(unused).directory(store.root())]
    );
    assert!(deleted.bytes > 0);
    assert_eq!(names(&store), [in_use.id().to_string()]);
}

#[test]
fn a_root_that_can_not_be_trusted_or_used_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let exposed = directory.path().join("exposed");
    fs::create_dir(&exposed).unwrap();
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o777)).unwrap();
    let error = SnapshotStore::open(&exposed).unwrap_err().to_string();
    assert!(
        error.contains("`snapshot_path`") && error.contains("0777"),
        "{error}"
    );
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = SnapshotStore::open(path).unwrap_err();
        assert!(
            matches!(
                error,
                SnapshotError::Store(StoreError::RootNotDirectory { .. })
            ),
            "{error}"
        );
    }
    if !rustix::process::geteuid().is_root() {
        let locked = directory.path().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
        let error = SnapshotStore::open(locked).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Store(StoreError::RootUnusable { .. })),
            "{error}"
        );
    }
}

#[test]
fn several_makers_publish_side_by_side_in_order_of_their_names() {
    let (_directory, store) = store();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| publish(&store));
        }
    });
    let ids: Vec<_> = store
        .list()
        .unwrap()
        .into_iter()
        .map(|entry| entry.id)
        .collect();
    assert_eq!(ids.len(), 4);
    assert!(ids.is_sorted());
    assert!(
        store
            .list()
            .unwrap()
            .iter()
            .all(|entry| entry.state.is_ok())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_memory_reads_back_the_same_and_has_the_digest_of_its_content(
        pages in proptest::collection::vec((0..256usize, any::<u8>(), 1..9000usize), 0..40),
        holes in any::<bool>(),
    ) {
        let (_directory, store) = store();
        let staging = store.stage(&requirements()).unwrap();
        let mut content = vec![0u8; 1 << 20];
        let file = fs::File::create_new(staging.memory()).unwrap();
        file.set_len(1 << 20).unwrap();
        for (page, byte, length) in pages {
            let start = page * 4096;
            let end = (start + length).min(content.len());
            content[start..end].fill(byte);
            file.write_all_at(&content[start..end], start as u64).unwrap();
        }
        if !holes {
            file.write_all_at(&content, 0).unwrap();
        }
        fs::write(staging.vmstate(), b"v").unwrap();
        let snapshot = staging.publish(description()).unwrap().snapshot;
        prop_assert!(fs::read(snapshot.memory()).unwrap() == content);
        let blocks: Vec<u8> = content.chunks(64 << 10).flat_map(|block| *Sha256Digest::of(block).as_bytes()).collect();
        let digest = Sha256Digest::of(&blocks);
        prop_assert_eq!(snapshot.manifest().files[&FileRole::Memory].sha256_of_blocks, digest);
        prop_assert!(store.verify(snapshot.id()).is_ok());
    }
}
