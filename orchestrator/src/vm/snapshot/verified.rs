//! Records which snapshots were hashed in this boot of the host.
//!
//! A disk may lose or change data while the host is off or crashes, so a snapshot of an earlier
//! boot is hashed before its first use. A file `.verified-<id>` beside the snapshot, with the
//! boot's id, tells other processes of this boot. A lost or incomplete one costs only another pass.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use uuid::Uuid;

use super::id::SnapshotId;
use ironclaw_host::proc;

const PREFIX: &str = ".verified-";
/// Length of a boot's id in such a file.
const BOOT_ID_BYTES: u64 = 36;

/// The current boot of the host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boot(Uuid);

impl Boot {
    /// The file with its id.
    pub(super) const FILE: &str = proc::BOOT_ID;

    pub(super) fn current() -> io::Result<Self> {
        proc::boot_id().map(Self)
    }

    pub(super) fn id(self) -> Uuid {
        self.0
    }

    /// Returns whether the snapshot `id` was hashed in it: when it was published, in the boot
    /// `published`, or since.
    pub(super) fn has_verified(self, root: &Path, id: SnapshotId, published: Uuid) -> bool {
        let kept = || fs::read_to_string(path(root, id)).ok();
        published == self.0
            || kept().is_some_and(|id| Uuid::from_str(&id).is_ok_and(|id| id == self.0))
    }

    /// Records that it was. The caller holds the snapshot's lock.
    pub(super) fn keep(self, root: &Path, id: SnapshotId) {
        let path = path(root, id);
        // Private, like the snapshot.
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

/// Removes the record of a snapshot that is being deleted. The caller holds its lock.
pub(super) fn forget(root: &Path, id: SnapshotId) -> io::Result<()> {
    match fs::remove_file(path(root, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the records of snapshots that are not `there`.
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

/// Returns whether a file is one of [`Boot::keep`], or the beginning of one.
fn is_kept(path: &Path) -> bool {
    let is_short = |facts: fs::Metadata| facts.is_file() && facts.len() <= BOOT_ID_BYTES;
    path.symlink_metadata().is_ok_and(is_short)
}

fn path(root: &Path, id: SnapshotId) -> PathBuf {
    root.join(format!("{PREFIX}{id}"))
}
