//! Checkpoints in the store: implements the promises of [`Kind::Checkpoint`].

use ironclaw_store::Deletion;

use super::compat::Requirements;
use super::error::SnapshotError;
use super::id::SnapshotId;
use super::kind::{Checkpoint, DirName, Kind, KindName};
use super::published::Snapshot;
use super::retention::Cause;
use super::staging::Staging;
use super::store::{Entry, SnapshotStore};

impl SnapshotStore {
    /// Creates a private directory to make a checkpoint in, of a VM that was restored from
    /// `parent`, if it was. `requirements` describes its VMM and machine; [`Staging::publish`]
    /// gives it its name, and the [`Snapshot`] can be restored at once.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn stage_checkpoint(
        &self,
        requirements: &Requirements,
        checkpoint: Checkpoint,
        parent: Option<SnapshotId>,
    ) -> Result<Staging, SnapshotError> {
        self.stage_kind(requirements, Kind::Checkpoint(checkpoint), parent)
    }

    /// Takes a checkpoint into use, as [`load`](Self::load) does with a base. Nobody can delete it
    /// while the [`Snapshot`] or a VM restored from it lives.
    ///
    /// # Errors
    /// [`SnapshotError`]; one that is [`Corrupt`](SnapshotError::Corrupt) stays, because it can't
    /// be made again.
    pub fn checkpoint(
        &self,
        id: SnapshotId,
        requirements: &Requirements,
    ) -> Result<Snapshot, SnapshotError> {
        self.load_named(DirName::checkpoint(id), requirements)
    }

    /// Lists all checkpoints of any owner, oldest first.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub fn checkpoints(&self) -> Result<Vec<Entry>, SnapshotError> {
        self.entries(&self.names(KindName::Checkpoint)?)
    }

    /// Deletes a checkpoint for `owner`.
    ///
    /// # Errors
    /// [`SnapshotError::NotOwner`] if it is another's, or its manifest can't be read;
    /// [`SnapshotError::InUse`] while it or a VM restored from it is used;
    /// [`SnapshotError::OtherKind`] if it is none.
    pub fn delete_checkpoint(&self, id: SnapshotId, owner: &str) -> Result<(), SnapshotError> {
        let name = DirName::checkpoint(id);
        match self.delete_for(name, Cause::AskedBy(owner))? {
            Deletion::Done => Ok(()),
            Deletion::InUse => Err(self.in_use(name)),
            Deletion::Missing => Err(self.missing(name)),
            Deletion::Denied | Deletion::NotOurs => {
                let by = owner.to_owned();
                Err(SnapshotError::NotOwner { id, by })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::vm::snapshot::manifest::tests::requirements;
    use std::ops::ControlFlow::Break;

    use crate::vm::snapshot::search::FindOrBuild;
    use crate::vm::snapshot::tests::{description, fill, staged, store};
    use crate::vm::snapshot::{Defect, FileRole, Timestamp};

    fn kept(keep_until: Option<Timestamp>) -> Checkpoint {
        Checkpoint {
            owner: "somebody".to_owned(),
            of: "vm-1".to_owned(),
            keep_until,
        }
    }

    /// Times before and after a checkpoint's expiry.
    const LONG_AGO: Timestamp = Timestamp {
        unix_seconds: 1,
        nanoseconds: 0,
    };
    const FAR_OFF: Timestamp = Timestamp {
        unix_seconds: u64::MAX,
        nanoseconds: 0,
    };

    fn take(store: &SnapshotStore, checkpoint: Checkpoint, parent: Option<SnapshotId>) -> Snapshot {
        let staging = store
            .stage_checkpoint(&requirements(), checkpoint, parent)
            .unwrap();
        fill(&staging);
        staging.publish(description()).unwrap().snapshot
    }

    fn ids(entries: &[Entry]) -> Vec<SnapshotId> {
        entries.iter().map(|entry| entry.id).collect()
    }

    /// Calls every cleanup that deletes snapshots without naming them.
    fn clean_up(store: &SnapshotStore) {
        store.sweep().unwrap();
        store.delete_unused(Duration::ZERO).unwrap();
    }

    fn publish(store: &SnapshotStore) -> SnapshotId {
        staged(store).publish(description()).unwrap().snapshot.id()
    }

    #[test]
    fn a_checkpoint_is_found_by_its_id_and_says_where_it_comes_from() {
        let (_directory, store) = store();
        let base = publish(&store);
        let mut staging = store
            .stage_checkpoint(&requirements(), kept(None), Some(base))
            .unwrap();
        fill(&staging);
        let root = staging.add_disk("root".parse().unwrap()).unwrap();
        fs::write(root, "a disk").unwrap();
        let id = staging.publish(description()).unwrap().snapshot.id();

        let taken = store.checkpoint(id, &requirements()).unwrap();
        assert_eq!(taken.manifest().kind, Kind::Checkpoint(kept(None)));
        assert_eq!(taken.manifest().parent, Some(base));
        let disk = taken
            .file(&FileRole::Disk("root".parse().unwrap()))
            .unwrap();
        assert_eq!(fs::read(disk).unwrap(), b"a disk");
        assert!(
            taken
                .file(&FileRole::Disk("other".parse().unwrap()))
                .is_none()
        );
        store.verify(id).unwrap();
        assert_eq!(ids(&store.checkpoints().unwrap()), [id]);
        assert_eq!(ids(&store.list().unwrap()), [base, id]);
    }

    #[test]
    fn a_malformed_disk_keeps_a_checkpoint_from_being_published() {
        let (_directory, store) = store();
        let staged = || {
            let staging = store
                .stage_checkpoint(&requirements(), kept(None), None)
                .unwrap();
            fill(&staging);
            staging
        };
        let mut missing = staged();
        missing.add_disk("root".parse().unwrap()).unwrap();
        let error = missing.publish(description()).unwrap_err().to_string();
        assert!(error.contains("disk-root is missing"), "{error}");
        // The VMM wrote it without being asked to.
        let stray = staged();
        fs::write(stray.memory().with_file_name("disk-root"), "x").unwrap();
        let error = stray.publish(description()).unwrap_err().to_string();
        assert!(error.contains("does not belong"), "{error}");
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn no_pool_finds_a_checkpoint_or_waits_for_one() {
        let (_directory, store) = store();
        let search = || {
            let any_age = Duration::MAX;
            store
                .search(&requirements(), &HashSet::new(), any_age)
                .unwrap()
        };
        let in_the_making = store
            .stage_checkpoint(&requirements(), kept(None), None)
            .unwrap();
        assert!(matches!(search(), Break(FindOrBuild::Build(_))));
        drop(in_the_making);
        let id = take(&store, kept(None), None).id();
        assert!(matches!(search(), Break(FindOrBuild::Build(_))));
        let error = store.load(id, &requirements()).unwrap_err();
        assert!(matches!(error, SnapshotError::OtherKind { .. }), "{error}");
        assert_eq!(store.next_generation().unwrap(), 0);
        let base = publish(&store);
        let error = store.checkpoint(base, &requirements()).unwrap_err();
        assert!(matches!(error, SnapshotError::OtherKind { .. }), "{error}");
        assert!(matches!(search(), Break(FindOrBuild::Found(found)) if found.id() == base));
    }

    #[test]
    fn cleanup_deletes_bases_and_leaves_checkpoints_until_they_expire() {
        let (_directory, store) = store();
        publish(&store);
        let for_ever = take(&store, kept(None), None).id();
        let for_long = take(&store, kept(Some(FAR_OFF)), None).id();
        take(&store, kept(Some(LONG_AGO)), None);
        clean_up(&store);
        assert_eq!(ids(&store.list().unwrap()), [for_ever, for_long]);
    }

    #[test]
    fn one_whose_time_is_past_goes_with_the_next_sweep_unless_it_is_used() {
        let (_directory, store) = store();
        let used = take(&store, kept(Some(LONG_AGO)), None);
        clean_up(&store);
        assert_eq!(ids(&store.list().unwrap()), [used.id()]);
        drop(used);
        assert_eq!(store.sweep().unwrap().removed.len(), 1);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_checkpoint_stays_as_long_as_a_sound_one() {
        type Damage = fn(&std::path::Path);
        let damages: [Damage; 4] = [
            |path| fs::remove_file(path.join("vmstate")).unwrap(),
            |path| fs::write(path.join("memory"), "cut").unwrap(),
            |path| fs::write(path.join("manifest.json"), "{").unwrap(),
            |path| fs::remove_file(path.join("manifest.json")).unwrap(),
        ];
        for damage in damages {
            let (_directory, store) = store();
            let id = take(&store, kept(None), None).id();
            let path = store.list().unwrap()[0].path.clone();
            damage(&path);
            clean_up(&store);
            let error = store.checkpoint(id, &requirements()).unwrap_err();
            assert!(error.to_string().contains("it is kept"), "{error}");
            let entry = &store.list().unwrap()[0];
            assert_eq!((entry.id, entry.kind), (id, KindName::Checkpoint));
            assert!(entry.state.is_err());
            store.delete(id).unwrap();
        }
        let (_directory, store) = store();
        let past = take(&store, kept(Some(LONG_AGO)), None);
        fs::remove_file(past.vmstate()).unwrap();
        drop(past);
        clean_up(&store);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_checkpoint_whose_content_changed_is_refused_and_stays() {
        use std::os::unix::fs::FileExt as _;
        let (_directory, store) = store();
        let snapshot = take(&store, kept(None), None);
        let (id, path) = (snapshot.id(), snapshot.memory().to_owned());
        drop(snapshot);
        let memory = fs::File::options().write(true).open(&path).unwrap();
        memory.write_all_at(b"!", 700_000).unwrap();
        // As if the host had been off meanwhile.
        let manifest = path.with_file_name("manifest.json");
        let json = fs::read_to_string(&manifest).unwrap();
        let now = crate::vm::proc::boot_id().unwrap().to_string();
        let json = json.replace(&now, &uuid::Uuid::nil().to_string());
        fs::write(&manifest, json).unwrap();
        let error = store.checkpoint(id, &requirements()).unwrap_err();
        assert!(matches!(error, SnapshotError::Corrupt { .. }), "{error}");
        assert_eq!(ids(&store.checkpoints().unwrap()), [id]);
    }

    #[test]
    fn its_owner_deletes_it_and_nobody_else_who_asks_as_one() {
        let (_directory, store) = store();
        let snapshot = take(&store, kept(None), None);
        let id = snapshot.id();
        let delete = |owner| store.delete_checkpoint(id, owner);
        let error = delete("somebody").unwrap_err();
        assert!(matches!(error, SnapshotError::InUse { .. }), "{error}");
        drop(snapshot);
        let error = delete("another").unwrap_err();
        assert!(matches!(error, SnapshotError::NotOwner { .. }), "{error}");
        delete("somebody").unwrap();
        let error = delete("somebody").unwrap_err();
        assert!(matches!(error, SnapshotError::NotFound { .. }), "{error}");
        let base = publish(&store);
        let error = store.delete_checkpoint(base, "somebody").unwrap_err();
        assert!(matches!(error, SnapshotError::OtherKind { .. }), "{error}");
        assert_eq!(ids(&store.list().unwrap()), [base]);
    }

    #[test]
    fn a_checkpoint_under_a_bases_name_is_neither_used_nor_deleted() {
        let (_directory, store) = store();
        let id = take(&store, kept(None), None).id();
        let path = store.list().unwrap()[0].path.clone();
        fs::rename(&path, store.root().join(id.to_string())).unwrap();
        clean_up(&store);
        let found = KindName::Checkpoint;
        assert_eq!(
            store.list().unwrap()[0].state,
            Err(Defect::OtherKind { found })
        );
        assert!(store.load(id, &requirements()).is_err());
    }

    #[test]
    fn a_checkpoint_of_a_newer_release_is_listed_and_stays_until_named() {
        let (_directory, store) = store();
        let newer = [
            publish(&store),
            take(&store, kept(Some(LONG_AGO)), None).id(),
        ];
        for entry in store.list().unwrap() {
            let manifest = entry.path.join("manifest.json");
            let json = fs::read_to_string(&manifest).unwrap();
            let json = json.replace("\"format\": 3", "\"format\": 4, \"new\": []");
            fs::write(&manifest, json).unwrap();
        }
        clean_up(&store);
        for entry in store.list().unwrap() {
            assert_eq!(entry.state, Err(Defect::OtherFormat { found: 4 }));
        }
        assert_eq!(ids(&store.list().unwrap()), newer);
        for id in newer {
            store.delete(id).unwrap();
        }
    }

    #[test]
    fn a_snapshot_of_format_2_serves_as_one_of_a_pool() {
        let (_directory, store) = store();
        let id = publish(&store);
        let manifest = store.list().unwrap()[0].path.join("manifest.json");
        let json = fs::read_to_string(&manifest).unwrap();
        let json = json.replace("\"format\": 3", "\"format\": 2");
        let json = json.replace("  \"kind\": \"base\",\n  \"parent\": null,\n", "");
        fs::write(&manifest, json).unwrap();
        let snapshot = store.load(id, &requirements()).unwrap();
        assert_eq!(snapshot.manifest().kind, Kind::Base);
        store.verify(id).unwrap();
        drop(snapshot);
        clean_up(&store);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_checkpoint_of_nobody_is_refused_before_anything_is_written() {
        let (_directory, store) = store();
        for owner in ["", "\u{1b}[2J", &"x".repeat(257)] {
            let mut checkpoint = kept(None);
            checkpoint.owner = owner.to_owned();
            let error = store
                .stage_checkpoint(&requirements(), checkpoint, None)
                .unwrap_err();
            assert!(error.to_string().contains("owner"), "{error}");
        }
        assert_eq!(fs::read_dir(store.root()).unwrap().count(), 0);
    }
}
