//! A published snapshot in use.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_store::{DirLock, file};

use super::error::SnapshotError;
use super::files::FileRole;
use super::id::SnapshotId;
use super::inspect;
use super::kind::DirName;
use super::manifest::Manifest;
use crate::sys;
use crate::vm::vmm::{Images, RestoreSpec, SavedFiles};

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
    pub(super) fn new(directory: PathBuf, manifest: Manifest, lock: DirLock) -> Self {
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

    /// Returns its name.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.0.manifest.id
    }

    /// Returns its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// Checks after a failed use that its files exist, have the sizes in the manifest, and can be
    /// read.
    ///
    /// # Errors
    /// [`SnapshotError::Defective`] if not; other errors are not the snapshot's fault.
    pub(crate) fn check(&self) -> Result<(), SnapshotError> {
        let Inner {
            lock,
            manifest,
            directory,
            ..
        } = &*self.0;
        let name = DirName::of(&manifest.kind, manifest.id);
        inspect::check(lock, directory, name).and_then(|found| match found {
            Ok(()) => Ok(()),
            Err(defect) => Err(SnapshotError::Defective {
                path: directory.clone(),
                defect,
            }),
        })
    }

    /// Returns the specification for a VMM, of a guest that has no images beside the snapshot's own
    /// disks.
    #[must_use]
    pub fn to_restore(&self) -> RestoreSpec {
        self.to_restore_with(&Images::new())
    }

    /// Returns the specification for a VMM, with the template's images.
    #[must_use]
    pub fn to_restore_with(&self, images: &Images) -> RestoreSpec {
        let Inner {
            manifest,
            directory,
            memory,
            vmstate,
            ..
        } = &*self.0;
        let disks = manifest.files.keys().filter_map(|role| match role {
            FileRole::Disk(id) => Some((id.clone(), directory.join(role.to_string()))),
            FileRole::Memory | FileRole::VmState => None,
        });
        RestoreSpec {
            machine: manifest.machine,
            files: SavedFiles {
                vmstate: vmstate.clone(),
                memory: memory.clone(),
                disks: disks.collect(),
            },
            images: images.clone(),
        }
    }

    /// Returns the bytes that its files occupy on disk, without holes; zero if it was removed.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn disk_bytes(&self) -> Result<u64, SnapshotError> {
        let directory = &self.0.directory;
        match file::disk_bytes(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            counted => counted.map_err(|error| SnapshotError::io("inspect", directory, error)),
        }
    }

    /// Returns the bytes of its memory file that are in the host's page cache, which a clone gets
    /// without disk access.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn cached_bytes(&self) -> Result<u64, SnapshotError> {
        File::open(&self.0.memory)
            .and_then(|file| sys::cached_bytes(&file))
            .map_err(|error| SnapshotError::io("inspect", &self.0.memory, error))
    }

    /// Returns the path of the guest's RAM, to be mapped privately and never written.
    #[must_use]
    pub fn memory(&self) -> &Path {
        &self.0.memory
    }

    /// Returns the path of its file for `role`, never to be written; `None` if it has none.
    #[must_use]
    pub fn file(&self, role: &FileRole) -> Option<PathBuf> {
        let has_it = self.0.manifest.files.contains_key(role);
        has_it.then(|| self.0.directory.join(role.to_string()))
    }

    /// Returns the path of the state of vCPUs and devices.
    #[must_use]
    pub fn vmstate(&self) -> &Path {
        &self.0.vmstate
    }
}
