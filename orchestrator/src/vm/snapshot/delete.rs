//! Deletes snapshots, where [`retention`](super::retention) allows it.

use std::time::Duration;

use ironclaw_store::{Artefact as _, Deletion, StoreError, Swept, Timestamp};

use super::defect::Defect;
use super::error::SnapshotError;
use super::id::SnapshotId;
use super::inspect;
use super::kind::{DirName, KindName};
use super::retention::{Cause, Subject, may_be_deleted};
use super::store::SnapshotStore;

impl SnapshotStore {
    /// Deletes a named snapshot, intact or not, of any kind.
    ///
    /// # Errors
    /// [`SnapshotError::InUse`] while anything restored from it lives; [`Defect::NotOurs`] for a
    /// directory without our mark.
    pub fn delete(&self, id: SnapshotId) -> Result<(), SnapshotError> {
        let name = self.name_of(id);
        match self.delete_for(name, Cause::Named)? {
            Deletion::Done | Deletion::Denied => Ok(()),
            Deletion::InUse => Err(self.in_use(name)),
            Deletion::NotOurs => Err(self.not_ours(name)),
            Deletion::Missing => Err(self.missing(name)),
        }
    }

    /// Deletes every unused base that is at least `limit` old, for any settings. Keeps checkpoints
    /// until they expire, and snapshots of a newer release.
    ///
    /// # Errors
    /// [`SnapshotError`] of the first failed deletion.
    pub fn delete_unused(&self, limit: Duration) -> Result<Swept, SnapshotError> {
        let mut swept = Swept::default();
        for name in self.0.names()? {
            let age = name.id.age();
            // Avoids reading most of the young bases.
            if name.kind == KindName::Base && age < limit {
                continue;
            }
            let path = name.directory(self.root());
            let bytes = self.0.disk_bytes(name).unwrap_or(0);
            // Otherwise it is used or foreign, or another process was faster.
            if self.delete_for(name, Cause::Unused { age, limit })? == Deletion::Done {
                swept.removed.push(path);
                swept.bytes += bytes;
            }
        }
        Ok(swept)
    }

    /// Deletes a snapshot whose content is corrupt, if it can be made again.
    pub(super) fn remove_corrupt(&self, name: DirName, error: &SnapshotError) {
        match self.delete_for(name, Cause::Unusable) {
            Ok(Deletion::Done) => tracing::warn!("a snapshot is removed: {error}"),
            Ok(Deletion::Denied) => tracing::warn!("a checkpoint is damaged, and stays: {error}"),
            // Another process found the same, or others replaced it.
            Ok(Deletion::InUse | Deletion::Missing | Deletion::NotOurs) => {}
            Err(error) => tracing::warn!(%error, "a corrupt snapshot stays for now"),
        }
    }

    pub(super) fn delete_for(
        &self,
        name: DirName,
        cause: Cause<'_>,
    ) -> Result<Deletion, SnapshotError> {
        let path = name.directory(self.root());
        self.0.delete(name, |lock| {
            let manifest = match inspect::manifest(lock.directory(), &path, name) {
                // A named snapshot need not be readable.
                Err(_) if cause == Cause::Named => Err(Defect::NotReadable),
                Err(SnapshotError::Store(StoreError::Io { source, .. }))
                    if !inspect::is_the_hosts(&source) =>
                {
                    Err(Defect::NotReadable)
                }
                found => found?,
            };
            let subject = Subject::found(&manifest, name.kind);
            Ok(may_be_deleted(subject, cause, Timestamp::now()))
        })
    }

    fn not_ours(&self, name: DirName) -> SnapshotError {
        SnapshotError::Defective {
            path: name.directory(self.root()),
            defect: Defect::NotOurs,
        }
    }
}
