//! Snapshots on disk: made in private, published by one rename, immutable afterwards.
//!
//! ```text
//! <root>/<id>/.ironclaw       the mark that it is ours
//!             memory          the guest's RAM; zero pages are holes
//!             vmstate         processors and devices, in the VMM's format
//!             disk-<name>     what a disk held, if there are any
//!             manifest.json   Manifest: what it is, and what its files must be
//!        checkpoint-<id>/     the same of a VM that somebody used (Kind)
//!        .staging-<id>-…/     one that is being made, and for what; locked while its maker lives
//!        .trash-<id>/         one that is being deleted
//!        .verified-<id>       in which boot of the host one of an earlier boot was hashed
//! ```
//!
//! A directory's lock says who uses it, and ends with the process that holds it: exclusive while
//! a snapshot is made, shared by everything that was restored from it. So any number of processes
//! share one root, nothing of a living owner is ever removed, and whatever a killed process left
//! is seen as such. Who holds a lock is asked of the kernel ([`Owners`]).
//!
//! All functions block; asynchronous callers run them on a thread for blocking work.

mod checkpoints;
mod compat;
mod defect;
mod delete;
mod error;
mod files;
mod format2;
mod host;
mod id;
mod inspect;
mod kind;
mod lock;
mod manifest;
mod merge;
mod owner;
mod pass;
mod retention;
mod search;
mod sparse;
mod staging;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod timestamp;
mod verified;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sys;
use crate::vm::vmm::{RestoreSpec, SavedFiles};

pub use crate::vm::digest::{ParseDigestError, Sha256Digest};
pub use compat::{Mismatch, Requirements, TSC_TOLERANCE_PPM};
pub use defect::{Defect, Part};
pub use error::SnapshotError;
pub use files::{
    DiskId, FileFault, FileRecord, FileRole, MAX_DISK_BYTES, MAX_DISKS, MAX_VMSTATE_BYTES,
    ParseDiskIdError, ParseFileRoleError,
};
pub use host::Host;
pub use id::{ParseSnapshotIdError, SnapshotId};
pub use kind::{Checkpoint, Kind, KindName};
pub use manifest::{Description, FORMAT, Manifest};
pub use owner::{Owner, Owners};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz {
    pub(crate) use super::host::fuzz as cpuinfo;
    pub(crate) use super::manifest::fuzz as manifest;
}
pub(crate) use search::{Kept, Search, Theirs};
pub use staging::{Published, Staging};
pub use store::{Entry, SnapshotStore, Verified};
pub use sweep::Swept;
pub use timestamp::Timestamp;

use kind::DirName;
use lock::DirLock;
pub(crate) use merge::complete;

/// A published snapshot in use; cheap to clone. Nobody can delete it while one of these lives.
#[derive(Debug, Clone)]
pub struct Snapshot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    manifest: Manifest,
    directory: PathBuf,
    memory: PathBuf,
    vmstate: PathBuf,
    lock: DirLock,
}

impl Snapshot {
    fn new(directory: PathBuf, manifest: Manifest, lock: DirLock) -> Self {
        let memory = directory.join(FileRole::Memory.to_string());
        let vmstate = directory.join(FileRole::VmState.to_string());
        Self(Arc::new(Inner {
            manifest,
            directory,
            memory,
            vmstate,
            lock,
        }))
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.0.manifest.id
    }

    /// What it is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Looks whether its files are still there, are what its manifest says as far as sizes tell, and
    /// can be read: for who failed to use it.
    ///
    /// # Errors
    /// [`SnapshotError::Defective`] if not; whatever else keeps it from being looked at is not its
    /// own fault.
    pub(crate) fn check(&self) -> Result<(), SnapshotError> {
        let Inner {
            lock,
            manifest,
            directory,
            ..
        } = &*self.0;
        let name = DirName {
            kind: manifest.kind.name(),
            id: manifest.id,
        };
        inspect::check(lock, directory, name).and_then(|found| match found {
            Ok(()) => Ok(()),
            Err(defect) => Err(SnapshotError::Defective {
                path: directory.clone(),
                defect,
            }),
        })
    }

    /// What a VMM is to know of it.
    #[must_use]
    pub fn to_restore(&self) -> RestoreSpec {
        RestoreSpec {
            machine: self.0.manifest.machine,
            files: SavedFiles {
                vmstate: self.0.vmstate.clone(),
                memory: self.0.memory.clone(),
            },
        }
    }

    /// Bytes that its files take on disk, holes not counted; none of one that was removed.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn disk_bytes(&self) -> Result<u64, SnapshotError> {
        let directory = &self.0.directory;
        match inspect::disk_bytes(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            counted => counted.map_err(|error| SnapshotError::io("inspect", directory, error)),
        }
    }

    /// Bytes of its memory file that are in the host's page cache, from which a clone gets them
    /// without the disk.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn cached_bytes(&self) -> Result<u64, SnapshotError> {
        File::open(&self.0.memory)
            .and_then(|file| sys::cached_bytes(&file))
            .map_err(|error| SnapshotError::io("inspect", &self.0.memory, error))
    }

    /// The file with the guest's RAM, to be mapped privately and never written.
    #[must_use]
    pub fn memory(&self) -> &Path {
        &self.0.memory
    }

    /// Its file for `role`, never to be written; `None` if it has none.
    #[must_use]
    pub fn file(&self, role: &FileRole) -> Option<PathBuf> {
        let has_it = self.0.manifest.files.contains_key(role);
        has_it.then(|| self.0.directory.join(role.to_string()))
    }

    /// The file with the state of processors and devices.
    #[must_use]
    pub fn vmstate(&self) -> &Path {
        &self.0.vmstate
    }
}
