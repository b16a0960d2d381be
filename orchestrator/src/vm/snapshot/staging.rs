//! A snapshot that is being made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use ironclaw_store::{
    Artefact as _, DirLock, RootLock, Store, ZeroPages, file, hash_and_punch_holes,
};

use super::compat::Requirements;
use super::error::SnapshotError;
use super::files::{DiskId, FileFault, FileRecord, FileRole, MAX_DISKS};
use super::id::SnapshotId;
use super::kind::{DirName, Kind, MANIFEST};
use super::label::{label, purpose};
use super::manifest::{Description, Provenance};
use super::published::Snapshot;
use super::verified::Boot;
use crate::mark;
use crate::template::{REFERENCE, Template};
use crate::vm::vmm::{Machine, SavedFiles};

/// A private directory for a VMM to write a snapshot into; removed on drop.
#[derive(Debug)]
pub struct Staging {
    store: Store<DirName>,
    inner: ironclaw_store::Staging<DirName>,
    provenance: Provenance,
    /// The roles of its files.
    roles: BTreeSet<FileRole>,
}

/// A snapshot that was just published.
#[derive(Debug)]
#[non_exhaustive]
pub struct Published {
    /// The snapshot, kept in use by this value.
    pub snapshot: Snapshot,
    /// Bytes of zeros turned into holes.
    pub punched_bytes: u64,
    /// Bytes that its files occupy on disk.
    pub disk_bytes: u64,
}

impl Staging {
    pub(super) fn create(
        store: &Store<DirName>,
        root: &RootLock,
        requirements: &Requirements,
        kind: Kind,
        parent: Option<SnapshotId>,
    ) -> Result<Self, SnapshotError> {
        let id = SnapshotId::generate();
        let label = label(id, &purpose(requirements, kind.name()));
        let provenance = Provenance { id, kind, parent };
        provenance
            .check()
            .map_err(|reason| SnapshotError::BadDescription {
                path: store.root().to_owned(),
                reason,
            })?;
        Ok(Self {
            inner: store.stage(root, &label)?,
            store: store.clone(),
            provenance,
            roles: BTreeSet::from([FileRole::Memory, FileRole::VmState]),
        })
    }

    /// Returns the snapshot's future name.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.provenance.id
    }

    /// Returns the path for the guest's RAM.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.file(&FileRole::Memory)
    }

    /// Returns the path for the state of vCPUs and devices.
    #[must_use]
    pub fn vmstate(&self) -> PathBuf {
        self.file(&FileRole::VmState)
    }

    /// Returns the paths for a VMM to write.
    #[must_use]
    pub fn files(&self) -> SavedFiles {
        let disks = self.roles.iter().filter_map(|role| match role {
            FileRole::Disk(id) => Some((id.clone(), self.file(role))),
            FileRole::Memory | FileRole::VmState => None,
        });
        SavedFiles {
            vmstate: self.vmstate(),
            memory: self.memory(),
            disks: disks.collect(),
        }
    }

    /// Adds a disk to the snapshot; returns the path for its content.
    ///
    /// # Errors
    /// [`SnapshotError::BadDescription`] beyond [`MAX_DISKS`].
    pub fn add_disk(&mut self, disk: DiskId) -> Result<PathBuf, SnapshotError> {
        let role = FileRole::Disk(disk);
        let path = self.file(&role);
        self.roles.insert(role);
        if self.roles.len() > 2 + MAX_DISKS {
            return Err(SnapshotError::BadDescription {
                path: self.inner.path().to_owned(),
                reason: format!("it has more than {MAX_DISKS} disks"),
            });
        }
        Ok(path)
    }

    /// Has `template` kept for as long as the snapshot exists, which can't be restored without it. The
    /// caller has it pinned.
    ///
    /// # Errors
    /// [`SnapshotError::Store`]
    pub fn keep(&self, template: &Template) -> Result<(), SnapshotError> {
        let Provenance { id, kind, .. } = &self.provenance;
        let published = DirName::of(kind, *id).directory(self.store.root());
        Ok(template.keep_for(self.inner.path(), &published)?)
    }

    fn file(&self, role: &FileRole) -> PathBuf {
        self.inner.path().join(role.to_string())
    }

    /// Publishes the files that a VMM wrote, and no longer writes: checks them, punches holes for
    /// zero pages, hashes and syncs them, and gives the snapshot its name, atomically.
    ///
    /// # Errors
    /// [`SnapshotError`]; it is removed then.
    pub fn publish(self, description: Description) -> Result<Published, SnapshotError> {
        description
            .check()
            .map_err(|reason| SnapshotError::BadDescription {
                path: self.inner.path().to_owned(),
                reason,
            })?;
        self.refuse_strays()?;
        let (mut files, mut punched_bytes) = (BTreeMap::new(), 0);
        for role in &self.roles {
            let (record, punched) = self.seal(role, description.machine)?;
            files.insert(role.clone(), record);
            punched_bytes += punched;
        }
        let boot_id = Boot::current()
            .map_err(|error| SnapshotError::io("read the boot id in", Boot::FILE, error))?
            .id();
        let Self {
            store,
            inner,
            provenance,
            ..
        } = self;
        let manifest = description.into_manifest(provenance, boot_id, files);
        let path = inner.path().join(MANIFEST);
        manifest
            .to_json()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            .and_then(|json| file::write_new(&path, &json))
            .map_err(|error| SnapshotError::io("write", &path, error))?;
        let name = DirName::of(&manifest.kind, manifest.id);
        let lock = inner.publish(name)?;
        let disk_bytes = store.disk_bytes(name)?;
        let snapshot = Snapshot::new(name.directory(store.root()), manifest, lock);
        Ok(Published {
            snapshot,
            punched_bytes,
            disk_bytes,
        })
    }

    fn refuse_strays(&self) -> Result<(), SnapshotError> {
        let path = self.inner.path();
        let failed = |error| SnapshotError::io("list", path, error);
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let role = name.to_str().and_then(|name| name.parse().ok());
            let belongs = role.is_some_and(|role| self.roles.contains(&role));
            if !belongs && name != mark::NAME && name != REFERENCE {
                return Err(SnapshotError::Unpublishable {
                    path: entry.path(),
                    fault: FileFault::Stray,
                });
            }
        }
        Ok(())
    }

    /// Checks, hashes and syncs one file; returns its record, and the bytes turned into holes.
    fn seal(&self, role: &FileRole, machine: Machine) -> Result<(FileRecord, u64), SnapshotError> {
        let path = self.file(role);
        // A VMM's state has few zero pages, and is read at once.
        let zero_pages = match role {
            FileRole::Memory | FileRole::Disk(_) => ZeroPages::Punch,
            FileRole::VmState => ZeroPages::Keep,
        };
        let faulty = |fault| SnapshotError::Unpublishable {
            path: path.clone(),
            fault,
        };
        let lock: &DirLock = self.inner.lock()?;
        let file = match file::open_regular_to_change(lock.directory(), &role.to_string()) {
            Ok(Some(file)) => file,
            Ok(None) => return Err(faulty(FileFault::NotRegular)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(faulty(FileFault::Missing));
            }
            Err(error) => return Err(SnapshotError::io("open", &path, error)),
        };
        let failed = |operation| {
            let path = path.clone();
            move |error: io::Error| SnapshotError::io(operation, path, error)
        };
        let bytes = file.metadata().map_err(failed("inspect"))?.len();
        role.check(machine, bytes).map_err(faulty)?;
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(failed("protect"))?;
        let passed = hash_and_punch_holes(&file, bytes, zero_pages).map_err(failed("hash"))?;
        file.sync_all().map_err(failed("sync"))?;
        let record = FileRecord {
            bytes,
            sha256_of_blocks: passed.digest,
        };
        Ok((record, passed.punched))
    }
}
