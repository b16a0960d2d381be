//! The roads on which a snapshot is deleted. Who may go is up to [`retention`](super::retention).

use std::time::Duration;

use super::defect::Defect;
use super::error::SnapshotError;
use super::id::SnapshotId;
use super::inspect;
use super::kind::{DirName, KindName};
use super::lock::{self, DirLock, Kind, in_use};
use super::retention::{Cause, Subject, may_be_deleted};
use super::store::SnapshotStore;
use super::sweep::{self, Swept};
use super::timestamp::Timestamp;

/// What became of a snapshot that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deletion {
    Done,
    /// Somebody uses it.
    InUse,
    /// The cause is none to delete it.
    Denied,
}

impl SnapshotStore {
    /// Deletes a snapshot, sound or not, and of whatever kind: for somebody who named it.
    ///
    /// # Errors
    /// [`SnapshotError::InUse`] while anything that was restored from it lives;
    /// [`Defect::NotOurs`] of a directory that nothing marks as a snapshot.
    pub fn delete(&self, id: SnapshotId) -> Result<(), SnapshotError> {
        let name = self.name_of(id);
        match self.delete_for(name, Cause::Named)? {
            Deletion::Done | Deletion::Denied => Ok(()),
            Deletion::InUse => Err(in_use(id, name.directory(self.root()))),
        }
    }

    /// Deletes every snapshot of pools that is at least so old and that nobody uses, for whatever
    /// settings it was made. Checkpoints stay, but for those whose time is past, and so does what a
    /// newer release made.
    ///
    /// # Errors
    /// [`SnapshotError`] for the first that could not be deleted.
    pub fn delete_unused(&self, limit: Duration) -> Result<Swept, SnapshotError> {
        let mut swept = Swept::default();
        let mut names = self.names(KindName::Base)?;
        names.extend(self.names(KindName::Checkpoint)?);
        for name in names {
            let age = name.id.age();
            // Of those of pools that spares a look at most.
            if name.kind == KindName::Base && age < limit {
                continue;
            }
            let path = name.directory(self.root());
            let bytes = inspect::disk_bytes(&path).unwrap_or(0);
            match self.delete_for(name, Cause::Unused { age, limit }) {
                Ok(Deletion::Done) => {
                    swept.removed.push(path);
                    swept.bytes += bytes;
                }
                // Another process was faster, or it is somebody's.
                Ok(Deletion::InUse | Deletion::Denied)
                | Err(SnapshotError::NotFound { .. })
                | Err(SnapshotError::Defective {
                    defect: Defect::NotOurs,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(swept)
    }

    /// Takes a snapshot away whose content is not what was published, if it can be made again.
    pub(super) fn remove_corrupt(&self, name: DirName, error: &SnapshotError) {
        match self.delete_for(name, Cause::Unusable) {
            Ok(Deletion::Done) => tracing::warn!("a snapshot is removed: {error}"),
            Ok(Deletion::Denied) => tracing::warn!("a checkpoint is damaged, and stays: {error}"),
            // Another process found the same.
            Ok(Deletion::InUse) | Err(SnapshotError::NotFound { .. }) => {}
            Err(error) => tracing::warn!(%error, "a corrupt snapshot stays for now"),
        }
    }

    pub(super) fn delete_for(
        &self,
        name: DirName,
        cause: Cause<'_>,
    ) -> Result<Deletion, SnapshotError> {
        let path = name.directory(self.root());
        let root = lock::root(self.root())?;
        let lock = match DirLock::try_lock(&path, Kind::Exclusive) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(Deletion::InUse),
            Err(error) => return Err(self.missing_or(name, "lock", error)),
        };
        if !inspect::is_ours(lock.directory(), &path, name.id)? {
            let defect = Defect::NotOurs;
            return Err(SnapshotError::Defective { path, defect });
        }
        let manifest = match inspect::manifest(lock.directory(), &path, name) {
            // Whoever named it need not know what it is.
            Err(_) if cause == Cause::Named => Err(Defect::NotReadable),
            Err(SnapshotError::Io { source, .. }) if !inspect::is_the_hosts(&source) => {
                Err(Defect::NotReadable)
            }
            found => found?,
        };
        let subject = Subject::found(&manifest, name.kind);
        if !may_be_deleted(subject, cause, Timestamp::now()) {
            return Ok(Deletion::Denied);
        }
        let trash = sweep::put_aside(self.root(), &path, name.id)?;
        drop((root, lock));
        sweep::remove(&trash)?;
        Ok(Deletion::Done)
    }
}
