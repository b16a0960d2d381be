//! A snapshot that is being made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Snapshot;
use super::compat::Requirements;
use super::defect::MANIFEST;
use super::error::SnapshotError;
use super::files::{DiskId, FileFault, FileRecord, FileRole, MAX_DISKS};
use super::id::SnapshotId;
use super::inspect::{disk_bytes, open_regular_as};
use super::kind::{DirName, Kind};
use super::lock::{self, DirLock};
use super::manifest::{Description, Provenance};
use super::pass::{self, ZeroPages};
use super::search;
use super::store::SnapshotStore;
use super::verified::Boot;
use crate::mark;
use crate::vm::root_lock::RootLock;
use crate::vm::vmm::Machine;

/// How the name of a staging directory starts.
pub(super) const PREFIX: &str = ".staging-";

/// A private directory for a VMM to write a snapshot into. Dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    store: SnapshotStore,
    provenance: Provenance,
    /// What it will consist of.
    roles: BTreeSet<FileRole>,
    path: PathBuf,
    /// Gone when the snapshot was published, and lives on in it.
    lock: Option<DirLock>,
}

/// A snapshot that was just published.
#[derive(Debug)]
pub struct Published {
    /// The snapshot, in use by whoever has this.
    pub snapshot: Snapshot,
    /// Bytes of zeros that became holes.
    pub punched_bytes: u64,
    /// Bytes that its files take on disk.
    pub disk_bytes: u64,
}

impl Staging {
    /// With the root locked, nobody sees the directory before it is locked itself.
    pub(super) fn create(
        store: &SnapshotStore,
        _root: &RootLock,
        requirements: &Requirements,
        kind: Kind,
        parent: Option<SnapshotId>,
    ) -> Result<Self, SnapshotError> {
        if store.is_read_only() {
            return Err(SnapshotError::ReadOnly {
                path: store.root().to_owned(),
            });
        }
        let id = SnapshotId::generate();
        let purpose = search::purpose(requirements, kind.name());
        let provenance = Provenance { id, kind, parent };
        provenance
            .check()
            .map_err(|reason| SnapshotError::BadDescription {
                path: store.root().to_owned(),
                reason,
            })?;
        let path = store.root().join(format!("{PREFIX}{id}-{purpose}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| SnapshotError::io("create the directory", &path, error))?;
        let lock = match DirLock::try_lock(&path, lock::Kind::Exclusive) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                let busy = io::ErrorKind::ResourceBusy;
                return Err(SnapshotError::io("lock", &path, io::Error::from(busy)));
            }
            Err(error) => return Err(SnapshotError::io("lock", &path, error)),
        };
        let marked = mark::put(lock.directory());
        let staging = Self {
            store: store.clone(),
            provenance,
            roles: BTreeSet::from([FileRole::Memory, FileRole::VmState]),
            path,
            lock: Some(lock),
        };
        marked.map_err(|error| SnapshotError::io("write to", &staging.path, error))?;
        Ok(staging)
    }

    /// The name that the snapshot will have.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.provenance.id
    }

    /// Where the guest's RAM belongs.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.file(&FileRole::Memory)
    }

    /// Where the state of processors and devices belongs.
    #[must_use]
    pub fn vmstate(&self) -> PathBuf {
        self.file(&FileRole::VmState)
    }

    /// Makes a disk part of the snapshot; says where its content belongs.
    ///
    /// # Errors
    /// [`SnapshotError::BadDescription`] beyond [`MAX_DISKS`].
    pub fn add_disk(&mut self, disk: DiskId) -> Result<PathBuf, SnapshotError> {
        let role = FileRole::Disk(disk);
        let path = self.file(&role);
        self.roles.insert(role);
        if self.roles.len() > 2 + MAX_DISKS {
            let (path, reason) = (
                self.path.clone(),
                format!("it has more than {MAX_DISKS} disks"),
            );
            return Err(SnapshotError::BadDescription { path, reason });
        }
        Ok(path)
    }

    fn file(&self, role: &FileRole) -> PathBuf {
        self.path.join(role.to_string())
    }

    /// Publishes what a VMM wrote, which must not be written any more: checks it, makes its zero
    /// pages holes, hashes it, puts it safely on disk, and gives it its name, at once or not at
    /// all.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing of it is left then.
    pub fn publish(mut self, description: Description) -> Result<Published, SnapshotError> {
        description
            .check()
            .map_err(|reason| SnapshotError::BadDescription {
                path: self.path.clone(),
                reason,
            })?;
        self.refuse_strays()?;
        let (mut files, mut punched_bytes) = (BTreeMap::new(), 0);
        for role in &self.roles {
            let (record, punched) = self.seal(role, description.machine)?;
            files.insert(role.clone(), record);
            punched_bytes += punched;
        }
        let boot_id = Boot::current()?.id();
        let manifest = description.into_manifest(self.provenance.clone(), boot_id, files);
        let path = self.path.join(MANIFEST);
        let json = manifest.to_json().map_err(|error| {
            SnapshotError::io(
                "write",
                &path,
                io::Error::new(io::ErrorKind::InvalidData, error),
            )
        })?;
        write_new(&path, &json)?;
        sync_directory(&self.path)?;

        let name = DirName {
            kind: manifest.kind.name(),
            id: manifest.id,
        };
        let directory = name.directory(self.store.root());
        let root = lock::root(self.store.root())?;
        fs::rename(&self.path, &directory)
            .map_err(|error| SnapshotError::io("publish", &directory, error))?;
        self.path.clone_from(&directory);
        sync_directory(self.store.root())?;
        // From here on it is a snapshot like any other, and this process uses it.
        let Some(lock) = self.lock.take() else {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            return Err(SnapshotError::io("keep the lock of", &directory, gone));
        };
        lock.share()
            .map_err(|error| SnapshotError::io("share the lock of", &directory, error))?;
        drop(root);
        let disk_bytes = disk_bytes(&directory)
            .map_err(|error| SnapshotError::io("measure", &directory, error))?;
        let snapshot = Snapshot::new(directory, manifest, lock);
        Ok(Published {
            snapshot,
            punched_bytes,
            disk_bytes,
        })
    }

    fn refuse_strays(&self) -> Result<(), SnapshotError> {
        let failed = |error| SnapshotError::io("list", &self.path, error);
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let role = name.to_str().and_then(|name| name.parse().ok());
            let belongs = role.is_some_and(|role| self.roles.contains(&role));
            if !belongs && name != mark::NAME {
                return Err(SnapshotError::Unpublishable {
                    path: entry.path(),
                    fault: FileFault::Stray,
                });
            }
        }
        Ok(())
    }

    /// Checks, hashes and syncs one file; says how many bytes of it became holes.
    fn seal(&self, role: &FileRole, machine: Machine) -> Result<(FileRecord, u64), SnapshotError> {
        let path = self.file(role);
        // A VMM's state has hardly any, and is read at once.
        let zero_pages = match role {
            FileRole::Memory | FileRole::Disk(_) => ZeroPages::Punch,
            FileRole::VmState => ZeroPages::Keep,
        };
        let faulty = |fault| SnapshotError::Unpublishable {
            path: path.clone(),
            fault,
        };
        let Some(lock) = &self.lock else {
            return Err(faulty(FileFault::Missing));
        };
        let file = match open_regular_as(lock.directory(), &role.to_string(), OFlags::RDWR) {
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
        let passed = pass::over(&file, &path, bytes, zero_pages)?;
        file.sync_all().map_err(failed("sync"))?;
        let record = FileRecord {
            bytes,
            sha256_of_blocks: passed.digest,
        };
        Ok((record, passed.punched))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.is_none() {
            return;
        }
        if let Err(error) = mark::remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a later sweep must remove it");
        }
    }
}

/// The snapshot that a staging directory of this name and purpose will become.
pub(super) fn id_for(name: &str, purpose: &str) -> Option<SnapshotId> {
    name.ends_with(purpose).then(|| id(name))?
}

/// The snapshot that a staging directory of this name will become, for whatever purpose.
pub(super) fn id(name: &str) -> Option<SnapshotId> {
    let (id, purpose) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let is_purpose = purpose.len() == 16 && purpose.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_purpose.then(|| id.parse().ok())?
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), SnapshotError> {
    let write = || {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|error| SnapshotError::io("write", path, error))
}

pub(super) fn sync_directory(path: &Path) -> Result<(), SnapshotError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| SnapshotError::io("sync", path, error))
}
