//! What can go wrong with snapshots on disk.

use std::io;
use std::path::{Path, PathBuf};

use super::compat::Mismatch;
use super::defect::Defect;
use super::files::FileFault;
use super::id::SnapshotId;
use super::kind::{DirName, KindName};
use super::owner::Owners;
use crate::disk;
use crate::state_path::Exposed;
use crate::vm::digest::Sha256Digest;
use crate::vm::host_limits;

/// Failure of an operation on the snapshot store: what was attempted, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The operating system refused an operation.
    #[error("cannot {operation} {}: {}", path.display(), host_limits::told(source))]
    Io {
        /// What was attempted, as a verb phrase.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file system, or the user's quota on it, is full.
    #[error(
        "no space left to {operation} {}: free some on its file system (`ironclaw snapshot delete` \
         removes snapshots) or set IRONCLAW_SNAPSHOT_PATH to a directory on a larger one",
        path.display()
    )]
    NoSpace {
        /// What was attempted, as a verb phrase.
        operation: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// The path of the store leads to something that is not a directory.
    #[error(
        "the snapshot store {} is not a directory: remove it or set IRONCLAW_SNAPSHOT_PATH to a \
         directory",
        path.display()
    )]
    RootNotDirectory {
        /// Path of the store.
        path: PathBuf,
    },
    /// The directory of the store may not be created, read or written by this user.
    #[error(
        "cannot {operation} the snapshot store {}: {source}; give this user read, write and search \
         permission or set IRONCLAW_SNAPSHOT_PATH to a directory of its own",
        path.display()
    )]
    RootUnusable {
        /// What was attempted, as a verb phrase.
        operation: &'static str,
        /// Path of the store.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Other users could replace the snapshots that this one restores.
    #[error(
        "the snapshot store {} {}, or set IRONCLAW_SNAPSHOT_PATH to a directory of its own",
        path.display(),
        Exposed::at(path, component, *owner, *mode)
    )]
    RootExposed {
        /// Path of the store.
        path: PathBuf,
        /// What they can change: the store itself, a directory above it, or a link on the way.
        component: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Its type and permissions (inode(7)).
        mode: u32,
    },
    /// Nothing can be written to the store; what is in it can be used.
    #[error(
        "nothing can be built in the snapshot store {}, which is another user's or on a read-only \
         file system: what it holds serves, and IRONCLAW_SNAPSHOT_PATH may name one to build in",
        path.display()
    )]
    ReadOnly {
        /// Path of the store.
        path: PathBuf,
    },
    /// Another process has held the lock of the store for longer than its short operations take.
    #[error(
        "the snapshot store {} stayed locked by {owners} for {waited_secs} s: it hangs or is \
         stopped; continue or end it, then try again",
        path.display()
    )]
    Busy {
        /// Path of the store.
        path: PathBuf,
        /// Who has locked it.
        owners: Owners,
        /// How long this process waited, in seconds.
        waited_secs: u64,
    },
    /// No snapshot has this id.
    #[error("no snapshot {id}: {} does not exist; `ironclaw snapshot list` shows what there is", path.display())]
    NotFound {
        /// The id asked for.
        id: SnapshotId,
        /// Where it would be.
        path: PathBuf,
    },
    /// It has this id, and is of another kind than asked for.
    #[error("snapshot {id} is a {found}, and not a {wanted}")]
    OtherKind {
        /// The id asked for.
        id: SnapshotId,
        /// What it is.
        found: KindName,
        /// What was asked for.
        wanted: KindName,
    },
    /// A checkpoint that somebody else has.
    #[error("checkpoint {id} is not {by:?}'s, and stays")]
    NotOwner {
        /// The checkpoint.
        id: SnapshotId,
        /// Who wanted it deleted.
        by: String,
    },
    /// A clone, a pool or a build still uses the snapshot.
    #[error(
        "snapshot {id} is in use by {owners}: end the VMs and pools that use {}, then try again",
        path.display()
    )]
    InUse {
        /// The snapshot.
        id: SnapshotId,
        /// Its directory.
        path: PathBuf,
        /// Who uses it.
        owners: Owners,
    },
    /// The directory does not hold a usable snapshot.
    #[error("{} holds no usable snapshot: {defect}; {}", path.display(), defect.remedy(kind_at(path)))]
    Defective {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        defect: Defect,
    },
    /// The snapshot is sound but was made for something else.
    #[error(
        "snapshot {id} does not fit: {mismatch}; make a new one with `ironclaw snapshot create`"
    )]
    Incompatible {
        /// The snapshot.
        id: SnapshotId,
        /// The first difference found.
        mismatch: Mismatch,
    },
    /// The content of a file differs from what was published.
    #[error(
        "{} is corrupt: its SHA-256 is {found}, published was {expected}; delete the snapshot and \
         check the disk",
        path.display()
    )]
    Corrupt {
        /// The file that differs.
        path: PathBuf,
        /// Digest in the manifest.
        expected: Sha256Digest,
        /// Digest of the file as it is.
        found: Sha256Digest,
    },
    /// The VMM did not leave behind what a snapshot consists of.
    #[error("cannot publish a snapshot: {} {fault}; the VMM did not write it as asked", path.display())]
    Unpublishable {
        /// The file or directory entry.
        path: PathBuf,
        /// What is wrong with it.
        fault: FileFault,
    },
    /// The description cannot be stored in a manifest.
    #[error("cannot publish a snapshot in {}: {reason}", path.display())]
    BadDescription {
        /// The staging directory.
        path: PathBuf,
        /// Which field breaks which rule.
        reason: String,
    },
    /// This host does not say what it is.
    #[error("{} names no {what}: snapshots could not be tied to this host", path.display())]
    HostUnknown {
        /// Where it was looked for.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
}

/// Of what kind the snapshot in the directory at `path` was to be.
fn kind_at(path: &Path) -> KindName {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.and_then(DirName::parse);
    name.map_or(KindName::Base, |name| name.kind)
}

impl SnapshotError {
    /// The error of `operation` on `path`; a full disk has its own variant, wherever it shows.
    pub(super) fn io(
        operation: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        let (path, source) = (path.as_ref().to_owned(), source.into());
        if disk::is_full(&source) {
            return Self::NoSpace { operation, path };
        }
        Self::Io {
            operation,
            path,
            source,
        }
    }
}
