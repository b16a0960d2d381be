//! Removing what nobody uses, if we made it: other things in the directory are left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::SnapshotError;
use super::id::SnapshotId;
use super::inspect;
use super::kind::DirName;
use super::lock::{self, DirLock, Kind};
use super::retention::{Cause, Subject, may_be_deleted};
use super::staging;
use super::timestamp::Timestamp;
use super::verified;
use crate::mark::{self, Mark};

/// How the name of a snapshot starts that is being deleted.
const TRASH: &str = ".trash-";

/// What a sweep removed.
#[derive(Debug, Clone, Default)]
pub struct Swept {
    /// Directories that are gone.
    pub removed: Vec<PathBuf>,
    /// Bytes on disk that were freed.
    pub bytes: u64,
}

/// Takes a snapshot's name away from it, so that it is gone at once, however long removing its
/// files takes. The caller holds the locks of the root and of the snapshot.
pub(super) fn put_aside(
    root: &Path,
    path: &Path,
    id: SnapshotId,
) -> Result<PathBuf, SnapshotError> {
    let trash = root.join(format!("{TRASH}{id}"));
    fs::rename(path, &trash).map_err(|error| SnapshotError::io("delete", path, error))?;
    verified::forget(root, id)?;
    Ok(trash)
}

pub(super) fn remove(path: &Path) -> Result<(), SnapshotError> {
    mark::remove(path).map_err(|error| SnapshotError::io("remove", path, error))
}

pub(super) fn run(root: &Path, names: &[DirName]) -> Result<Swept, SnapshotError> {
    let failed = |error| SnapshotError::io("list", root, error);
    let mut swept = Swept::default();
    for entry in fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if verified::sweep(root, &name)? {
            continue;
        }
        let trashed = name.strip_prefix(TRASH).and_then(|id| id.parse().ok());
        let Some(id) = trashed.or_else(|| staging::id(&name)) else {
            continue;
        };
        let path = entry.path();
        let _root = lock::root(root)?;
        // Locked: its maker lives.
        let Some(lock) = try_lock(&path)? else {
            continue;
        };
        let bare = mark::read(lock.directory())
            .map_err(|error| SnapshotError::io("inspect", &path, error))?
            == Mark::Bare;
        if bare {
            mark::remove_bare(&path).map_err(|error| SnapshotError::io("remove", &path, error))?;
            swept.removed.push(path);
        } else if inspect::is_ours(lock.directory(), &path, id)? {
            swept.take(&path)?;
        }
    }
    for name in names {
        let path = name.directory(root);
        let root_lock = lock::root(root)?;
        let Some(lock) = try_lock(&path)? else {
            continue;
        };
        if let Some(why) = may_go(&lock, &path, *name)? {
            tracing::warn!(path = %path.display(), "a snapshot is removed: {why}");
            let trash = put_aside(root, &path, name.id)?;
            drop((root_lock, lock));
            swept.take(&trash)?;
        }
    }
    Ok(swept)
}

/// Why a sweep may remove a snapshot that nobody uses; `None`: it stays.
fn may_go(lock: &DirLock, path: &Path, name: DirName) -> Result<Option<String>, SnapshotError> {
    let (manifest, cause, why) = match inspect::read(lock.directory(), path, name)? {
        Ok(manifest) => (Ok(manifest), Cause::Swept, "its time is past".to_owned()),
        Err(defect) if defect.is_garbage() => {
            // It may say nevertheless what it is for.
            let manifest = inspect::manifest(lock.directory(), path, name)?;
            (manifest, Cause::Unusable, defect.to_string())
        }
        Err(_) => return Ok(None),
    };
    let subject = Subject::found(&manifest, name.kind);
    Ok(may_be_deleted(subject, cause, Timestamp::now()).then_some(why))
}

fn try_lock(path: &Path) -> Result<Option<DirLock>, SnapshotError> {
    match DirLock::try_lock(path, Kind::Exclusive) {
        // Gone since, or something else than a directory.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        result => result.map_err(|error| SnapshotError::io("lock", path, error)),
    }
}

impl Swept {
    fn take(&mut self, path: &Path) -> Result<(), SnapshotError> {
        // Best effort: it may be gone already, and then it freed nothing.
        let bytes = inspect::disk_bytes(path).unwrap_or(0);
        remove(path)?;
        self.removed.push(path.to_owned());
        self.bytes += bytes;
        Ok(())
    }
}
