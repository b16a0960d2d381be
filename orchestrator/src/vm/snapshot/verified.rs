//! Which snapshots were hashed since the host started.
//!
//! A disk may change what is on it while the host is off or crashes, so a snapshot of an earlier
//! boot is hashed before it is used for the first time. That it was is kept for the other processes
//! of this boot in a file `.verified-<id>` beside the snapshot, which holds the boot's id. Losing one,
//! or finding half of one, costs no more than another look.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use uuid::Uuid;

use super::error::SnapshotError;
use super::id::SnapshotId;
use super::kind::DirName;
use super::manifest::Manifest;
use crate::vm::proc;

const PREFIX: &str = ".verified-";
/// Of a boot's id in such a file.
const BOOT_ID_BYTES: u64 = 36;

/// The boot that the host is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boot(Uuid);

impl Boot {
    pub(super) fn current() -> Result<Self, SnapshotError> {
        let id = proc::boot_id();
        id.map(Self)
            .map_err(|error| SnapshotError::io("read the boot id in", proc::BOOT_ID, error))
    }

    pub(super) fn id(self) -> Uuid {
        self.0
    }

    /// Whether the snapshot was hashed in it: when it was published, or since.
    pub(super) fn has_verified(self, root: &Path, manifest: &Manifest) -> bool {
        let kept = || fs::read_to_string(path(root, manifest.id)).ok();
        manifest.boot_id == self.0
            || kept().is_some_and(|id| Uuid::from_str(&id).is_ok_and(|id| id == self.0))
    }

    /// Keeps that it was. The caller holds the snapshot's lock.
    pub(super) fn keep(self, root: &Path, id: SnapshotId) {
        let path = path(root, id);
        // For us alone, like the snapshot.
        let written = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(self.0.to_string().as_bytes()));
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "it is verified again the next time");
        }
    }
}

/// Forgets what was kept of a snapshot that is deleted. The caller holds its lock.
pub(super) fn forget(root: &Path, id: SnapshotId) -> Result<(), SnapshotError> {
    remove(&path(root, id))
}

/// Whether a file of the root is what is kept of a snapshot; if that is gone, the file goes, too.
pub(super) fn sweep(root: &Path, name: &str) -> Result<bool, SnapshotError> {
    let Some(id) = name.strip_prefix(PREFIX) else {
        return Ok(false);
    };
    let Ok(id) = SnapshotId::from_str(id) else {
        return Ok(false);
    };
    let path = root.join(name);
    let is_there = |name: DirName| name.directory(root).exists();
    let is_gone = !is_there(DirName::base(id)) && !is_there(DirName::checkpoint(id));
    if is_gone && is_kept(&path) {
        remove(&path)?;
    }
    Ok(true)
}

/// Whether a file is what [`Boot::keep`] makes, or the beginning of that.
fn is_kept(path: &Path) -> bool {
    let is_short = |facts: fs::Metadata| facts.is_file() && facts.len() <= BOOT_ID_BYTES;
    path.symlink_metadata().is_ok_and(is_short)
}

fn path(root: &Path, id: SnapshotId) -> PathBuf {
    root.join(format!("{PREFIX}{id}"))
}

fn remove(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SnapshotError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}
