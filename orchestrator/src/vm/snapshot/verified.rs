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

use super::id::SnapshotId;
use ironclaw_host::proc;

const PREFIX: &str = ".verified-";
/// Of a boot's id in such a file.
const BOOT_ID_BYTES: u64 = 36;

/// The boot that the host is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boot(Uuid);

impl Boot {
    /// Where the host says it.
    pub(super) const FILE: &str = proc::BOOT_ID;

    pub(super) fn current() -> io::Result<Self> {
        proc::boot_id().map(Self)
    }

    pub(super) fn id(self) -> Uuid {
        self.0
    }

    /// Whether the snapshot `id` was hashed in it: when it was published, in the boot `published`, or
    /// since.
    pub(super) fn has_verified(self, root: &Path, id: SnapshotId, published: Uuid) -> bool {
        let kept = || fs::read_to_string(path(root, id)).ok();
        published == self.0
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
pub(super) fn forget(root: &Path, id: SnapshotId) -> io::Result<()> {
    match fs::remove_file(path(root, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what is kept of snapshots that are not `there`.
pub(super) fn sweep(root: &Path, there: impl Fn(SnapshotId) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let Some(Ok(id)) = id.map(SnapshotId::from_str) else {
            continue;
        };
        if !there(id) && is_kept(&root.join(name)) {
            forget(root, id)?;
        }
    }
    Ok(())
}

/// Whether a file is what [`Boot::keep`] makes, or the beginning of that.
fn is_kept(path: &Path) -> bool {
    let is_short = |facts: fs::Metadata| facts.is_file() && facts.len() <= BOOT_ID_BYTES;
    path.symlink_metadata().is_ok_and(is_short)
}

fn path(root: &Path, id: SnapshotId) -> PathBuf {
    root.join(format!("{PREFIX}{id}"))
}
