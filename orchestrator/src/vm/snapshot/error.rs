//! What can go wrong with snapshots on disk.

use std::io;
use std::path::{Path, PathBuf};

use ironclaw_store::{Artefact as _, Owners, Sha256Digest, StoreError};

use super::compat::Mismatch;
use super::defect::Defect;
use super::files::FileFault;
use super::host::HostError;
use super::id::SnapshotId;
use super::kind::{DirName, KindName};

/// Failure of an operation on the snapshot store: what was attempted, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The store can't be used, or the operating system refused something in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This host does not say what it is.
    #[error(transparent)]
    Host(#[from] HostError),
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
        StoreError::io(DirName::STORE, operation, path, source).into()
    }
}
