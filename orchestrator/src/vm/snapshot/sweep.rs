//! Removing what nobody uses.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::SnapshotError;
use super::id::SnapshotId;
use super::inspect;
use super::lock::{self, DirLock, Kind};
use super::staging;
use super::verified;

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
    match fs::remove_dir_all(path) {
        // Another process swept it meanwhile.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SnapshotError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

pub(super) fn run(root: &Path, ids: &[SnapshotId]) -> Result<Swept, SnapshotError> {
    let failed = |error| SnapshotError::io("list", root, error);
    let mut swept = Swept::default();
    for entry in fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if verified::sweep(root, &name)? {
            continue;
        }
        if name.starts_with(TRASH) {
            swept.take(&entry.path())?;
        } else if name.starts_with(staging::PREFIX) {
            let path = entry.path();
            let _root = lock::root(root)?;
            // Locked: its maker lives.
            if let Some(_lock) = try_lock(&path)? {
                swept.take(&path)?;
            }
        }
    }
    for id in ids {
        let path = id.directory(root);
        let root_lock = lock::root(root)?;
        let Some(lock) = try_lock(&path)? else {
            continue;
        };
        match inspect::read(lock.directory(), &path, *id)? {
            Err(defect) if defect.is_garbage() => {
                tracing::warn!(path = %path.display(), %defect, "an unusable snapshot is removed");
                let trash = put_aside(root, &path, *id)?;
                drop((root_lock, lock));
                swept.take(&trash)?;
            }
            _ => {}
        }
    }
    Ok(swept)
}

fn try_lock(path: &Path) -> Result<Option<DirLock>, SnapshotError> {
    match DirLock::try_lock(path, Kind::Exclusive) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
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
