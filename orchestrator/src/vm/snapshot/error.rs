//! Errors of snapshots on disk.

use std::io;
use std::path::{Path, PathBuf};

use ironclaw_store::{Artefact as _, Owners, Sha256Digest, StoreError};

use super::compat::Mismatch;
use super::defect::Defect;
use super::files::FileFault;
use super::host::HostError;
use super::id::SnapshotId;
use super::kind::{DirName, KindName};

/// The error of an operation on the snapshot store: the operation, the path, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The store can't be used, or a system call in it failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host's identity is unknown.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No snapshot has this id.
    #[error("no snapshot {id}: {} does not exist; `ironclaw snapshot list` shows what there is", path.display())]
    NotFound {
        /// The id.
        id: SnapshotId,
        /// Its path, if it existed.
        path: PathBuf,
    },
    /// The snapshot with this id is of another kind than requested.
    #[error("snapshot {id} is a {found}, and not a {wanted}")]
    OtherKind {
        /// The id.
        id: SnapshotId,
        /// Its kind.
        found: KindName,
        /// The requested kind.
        wanted: KindName,
    },
    /// The checkpoint belongs to another owner.
    #[error("checkpoint {id} is not {by:?}'s, and stays")]
    NotOwner {
        /// The checkpoint's id.
        id: SnapshotId,
        /// The owner who requested its deletion.
        by: String,
    },
    /// A clone, a pool or a build still uses the snapshot.
    #[error(
        "snapshot {id} is in use by {owners}: end the VMs and pools that use {}, then try again",
        path.display()
    )]
    InUse {
        /// The snapshot's id.
        id: SnapshotId,
        /// Its directory.
        path: PathBuf,
        /// The processes that use it.
        owners: Owners,
    },
    /// The directory has no usable snapshot.
    #[error("{} holds no usable snapshot: {defect}; {}", path.display(), defect.remedy(kind_at(path)))]
    Defective {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        defect: Defect,
    },
    /// The snapshot is intact but was made for something else.
    #[error(
        "snapshot {id} does not fit: {mismatch}; make a new one with `ironclaw snapshot create`"
    )]
    Incompatible {
        /// The snapshot's id.
        id: SnapshotId,
        /// The first difference.
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
        /// The digest in the manifest.
        expected: Sha256Digest,
        /// The digest of the file.
        found: Sha256Digest,
    },
    /// The VMM did not write a snapshot's files as required.
    #[error("cannot publish a snapshot: {} {fault}; the VMM did not write it as asked", path.display())]
    Unpublishable {
        /// The file or directory entry.
        path: PathBuf,
        /// What is wrong with it.
        fault: FileFault,
    },
    /// The description can't be stored in a manifest.
    #[error("cannot publish a snapshot in {}: {reason}", path.display())]
    BadDescription {
        /// The staging directory.
        path: PathBuf,
        /// The field, and the rule that it breaks.
        reason: String,
    },
}

/// Returns the kind of snapshot that the directory at `path` is for.
fn kind_at(path: &Path) -> KindName {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.and_then(DirName::parse);
    name.map_or(KindName::Base, |name| name.kind)
}

impl SnapshotError {
    /// Creates the error of `operation` on `path`; a full disk has its own variant.
    pub(super) fn io(
        operation: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        StoreError::io(DirName::STORE, operation, path, source).into()
    }
}
