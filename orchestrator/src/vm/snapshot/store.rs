//! The directory of the snapshots.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ironclaw_store::{
    Artefact as _, DirLock, LockKind, Owners, Pin, Store, Swept, Timestamp, ZeroPages, file,
    hash_and_punch_holes,
};

use super::compat::Requirements;
use super::defect::{Defect, Part};
use super::error::SnapshotError;
use super::id::SnapshotId;
use super::inspect;
use super::kind::{DirName, Kind, KindName};
use super::manifest::Manifest;
use super::published::Snapshot;
use super::retention::{Cause, Subject, may_be_deleted};
use super::staging::Staging;
use super::verified::{self, Boot};
use crate::mark;
use crate::vm::vmm::VmmError;

/// The operation that a full disk prevents.
const WRITE: &str = "write a snapshot to";

/// A disk with fewer free bytes is full: others write to it, too.
const LEAST_ROOM: u64 = 1 << 20;

/// Snapshots in one directory; cheap to clone. Any number of processes may use it at a time.
#[derive(Debug, Clone)]
pub struct SnapshotStore(pub(super) Store<DirName>);

/// A directory with the name of a snapshot.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// The snapshot's name.
    pub id: SnapshotId,
    /// Its kind.
    pub kind: KindName,
    /// Its path.
    pub path: PathBuf,
    /// Its manifest, or the defect.
    pub state: Result<Manifest, Defect>,
    /// Bytes that its files occupy on disk.
    pub disk_bytes: u64,
    /// Whether a VM, a pool or a build uses it.
    pub in_use: bool,
}

/// A snapshot whose content matches its manifest.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Verified {
    /// Its manifest.
    pub manifest: Manifest,
    /// Bytes hashed, holes included.
    pub hashed_bytes: u64,
    /// The time that took.
    pub took: Duration,
}

impl SnapshotStore {
    /// Opens the store in `root`, which is created with mode 0700 if missing.
    ///
    /// # Errors
    /// [`SnapshotError`]: it can't be created or used, or users other than root could change its
    /// content or replace it.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, SnapshotError> {
        Ok(Self(Store::open(root)?))
    }

    /// Returns whether its content can be used but nothing can be made: it is root's, or its file
    /// system is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.0.is_read_only()
    }

    /// Returns the error of making something here.
    pub(crate) fn read_only(&self) -> SnapshotError {
        self.0.read_only().into()
    }

    /// Returns the store's directory, an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.0.root()
    }

    /// Checks that the file system has room for `bytes` more. Call it before a guest's memory is
    /// put there: a VMM that finds the disk full under its mapping dies of SIGBUS without a
    /// message.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] if it has not.
    pub fn ensure_room(&self, bytes: u64) -> Result<(), SnapshotError> {
        Ok(self.0.ensure_room(WRITE, bytes)?)
    }

    /// Returns the error of a full disk if that is why a VMM, which failed so, could not write there: it says
    /// that in words of its own, or dies.
    pub(crate) fn full_disk(&self, failed: Option<&VmmError>) -> Option<SnapshotError> {
        match failed.is_some_and(VmmError::tells_full_disk) {
            true => Some(self.0.no_space(WRITE).into()),
            false => self.ensure_room(LEAST_ROOM).err(),
        }
    }

    /// Creates a private directory to make a base in that will meet `requirements`; a snapshot of a
    /// used VM is [a checkpoint](Self::stage_checkpoint).
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn stage(&self, requirements: &Requirements) -> Result<Staging, SnapshotError> {
        self.stage_kind(requirements, Kind::Base, None)
    }

    pub(super) fn stage_kind(
        &self,
        requirements: &Requirements,
        kind: Kind,
        parent: Option<SnapshotId>,
    ) -> Result<Staging, SnapshotError> {
        self.0.make_anew()?;
        let root = self.0.lock()?;
        Staging::create(&self.0, &root, requirements, kind, parent)
    }

    /// Takes a base into use, if it is intact by its manifest and the sizes of its files, and fits
    /// `requirements`. At the first use after a boot of the host, reads all of it, as
    /// [`verify`](Self::verify) does.
    ///
    /// # Errors
    /// [`SnapshotError`]; one that is [`Corrupt`](SnapshotError::Corrupt) is deleted, unless in
    /// use.
    pub fn load(
        &self,
        id: SnapshotId,
        requirements: &Requirements,
    ) -> Result<Snapshot, SnapshotError> {
        self.load_named(DirName::base(id), requirements)
    }

    pub(super) fn load_named(
        &self,
        name: DirName,
        requirements: &Requirements,
    ) -> Result<Snapshot, SnapshotError> {
        let id = name.id;
        let (lock, manifest) = self.use_it(name)?;
        requirements
            .check(&manifest)
            .map_err(|mismatch| SnapshotError::Incompatible { id, mismatch })?;
        let boot = Boot::current()
            .map_err(|error| SnapshotError::io("read the boot id in", Boot::FILE, error))?;
        if !boot.has_verified(self.root(), id, manifest.boot_id) {
            if let Err(error) = self.hash(&lock, name, &manifest) {
                // Its own lock would count as a use.
                drop(lock);
                if matches!(error, SnapshotError::Corrupt { .. }) {
                    self.remove_corrupt(name, &error);
                }
                return Err(error);
            }
            boot.keep(self.root(), id);
        }
        Ok(Snapshot::new(name.directory(self.root()), manifest, lock))
    }

    /// Returns one more than the highest existing generation.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub fn next_generation(&self) -> Result<u64, SnapshotError> {
        let entries = self.entries(&self.names(KindName::Base)?)?;
        let manifests = entries.iter().filter_map(|entry| entry.state.as_ref().ok());
        let highest = manifests.map(|manifest| manifest.generation).max();
        Ok(highest.map_or(0, |highest| highest.saturating_add(1)))
    }

    /// Lists everything with the name of a snapshot, oldest first.
    ///
    /// # Errors
    /// [`SnapshotError`] if the directory can't be read; an unusable snapshot is an entry.
    pub fn list(&self) -> Result<Vec<Entry>, SnapshotError> {
        let mut names = self.0.names()?;
        names.sort_by_key(|name| name.id);
        self.entries(&names)
    }

    pub(super) fn entries(&self, names: &[DirName]) -> Result<Vec<Entry>, SnapshotError> {
        let mut entries = Vec::new();
        for name in names {
            match self.entry(*name) {
                Ok(entry) => entries.push(entry),
                // Deleted meanwhile.
                Err(SnapshotError::Store(error)) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    /// Hashes the files of a snapshot and compares them with its manifest.
    ///
    /// # Errors
    /// [`SnapshotError::Corrupt`] with the first file that differs.
    pub fn verify(&self, id: SnapshotId) -> Result<Verified, SnapshotError> {
        let start = Instant::now();
        let name = self.name_of(id);
        let (lock, manifest) = self.use_it(name)?;
        let hashed_bytes = self.hash(&lock, name, &manifest)?;
        Ok(Verified {
            manifest,
            hashed_bytes,
            took: start.elapsed(),
        })
    }

    /// Compares the files of a snapshot with its manifest; returns the bytes hashed.
    fn hash(
        &self,
        lock: &DirLock,
        name: DirName,
        manifest: &Manifest,
    ) -> Result<u64, SnapshotError> {
        let directory = name.directory(self.root());
        let mut hashed_bytes = 0;
        for (role, record) in &manifest.files {
            let file = role.to_string();
            let path = directory.join(&file);
            let opened = match file::open_regular(lock.directory(), &file) {
                Ok(Some(opened)) => opened,
                Ok(None) => {
                    let file = Part::File(role.clone());
                    let defect = Defect::NotRegular { file };
                    return Err(SnapshotError::Defective {
                        path: directory,
                        defect,
                    });
                }
                Err(error) => return Err(SnapshotError::io("open", path, error)),
            };
            let found = hash_and_punch_holes(&opened, record.bytes, ZeroPages::Keep)
                .map_err(|error| SnapshotError::io("read", &path, error))?
                .digest;
            if found != record.sha256_of_blocks {
                return Err(SnapshotError::Corrupt {
                    path,
                    expected: record.sha256_of_blocks,
                    found,
                });
            }
            hashed_bytes += record.bytes;
        }
        Ok(hashed_bytes)
    }

    /// Finds the processes that use a snapshot at this moment.
    ///
    /// # Errors
    /// [`SnapshotError`] if it does not exist.
    pub fn owners(&self, id: SnapshotId) -> Result<Owners, SnapshotError> {
        let name = self.name_of(id);
        let owners = self.0.owners(name)?;
        owners.ok_or_else(|| self.missing(name))
    }

    /// Removes the leftovers of killed processes: unfinished and half-deleted snapshots, and
    /// unusable bases; and expired checkpoints. Keeps what a living process uses, and foreign
    /// entries.
    ///
    /// # Errors
    /// [`SnapshotError`] of the first failed removal.
    pub fn sweep(&self) -> Result<Swept, SnapshotError> {
        let is_there = |id| self.name_of(id).directory(self.root()).exists();
        verified::sweep(self.root(), is_there)
            .map_err(|error| SnapshotError::io("sweep", self.root(), error))?;
        self.0.sweep(|name, lock| self.may_be_swept(name, lock))
    }

    /// Returns the reason why a sweep may remove an unused snapshot; `None`: it stays.
    fn may_be_swept(&self, name: DirName, lock: &DirLock) -> Result<Option<String>, SnapshotError> {
        let path = name.directory(self.root());
        let (manifest, cause, why) = match inspect::read(lock.directory(), &path, name)? {
            Ok(manifest) => (Ok(manifest), Cause::Swept, "its time is past".to_owned()),
            Err(defect) if defect.is_garbage() => {
                // The manifest may be readable nevertheless.
                let manifest = inspect::manifest(lock.directory(), &path, name)?;
                (manifest, Cause::Unusable, defect.to_string())
            }
            Err(_) => return Ok(None),
        };
        let subject = Subject::found(&manifest, name.kind);
        Ok(may_be_deleted(subject, cause, Timestamp::now()).then_some(why))
    }

    /// Lists the directories of snapshots of one kind, oldest first.
    pub(super) fn names(&self, kind: KindName) -> Result<Vec<DirName>, SnapshotError> {
        let mut names = self.0.names()?;
        names.retain(|name| name.kind == kind);
        Ok(names)
    }

    /// Returns the directory of a snapshot of any kind.
    pub(super) fn name_of(&self, id: SnapshotId) -> DirName {
        let checkpoint = DirName::checkpoint(id);
        match checkpoint.directory(self.root()).symlink_metadata() {
            Ok(_) => checkpoint,
            Err(_) => DirName::base(id),
        }
    }

    fn entry(&self, name: DirName) -> Result<Entry, SnapshotError> {
        let DirName { kind, id } = name;
        let path = name.directory(self.root());
        let failed = |error| SnapshotError::io("inspect", path.clone(), error);
        let _root = self.0.lock()?;
        let look = match DirLock::try_lock(&path, LockKind::Exclusive) {
            // Root's own.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Entry {
                    id,
                    kind,
                    state: Err(Defect::NotReadable),
                    disk_bytes: 0,
                    in_use: false,
                    path,
                });
            }
            look => look.map_err(failed)?,
        };
        let in_use = look.is_none();
        let directory = mark::open(&path).map_err(failed)?;
        let state = inspect::read(&directory, &path, name)?;
        let disk_bytes = file::disk_bytes(&path).map_err(failed)?;
        Ok(Entry {
            id,
            kind,
            state,
            disk_bytes,
            in_use,
            path: path.clone(),
        })
    }

    /// Takes the shared lock of an intact snapshot, and reads its manifest.
    fn use_it(&self, name: DirName) -> Result<(DirLock, Manifest), SnapshotError> {
        let path = name.directory(self.root());
        let lock = match self.0.pin(name)? {
            Pin::Held(lock) => lock,
            Pin::Busy => return Err(self.in_use(name)),
            Pin::Missing => return Err(self.missing(name)),
        };
        match inspect::read(lock.directory(), &path, name)? {
            Ok(manifest) => Ok((lock, manifest)),
            Err(defect) => Err(SnapshotError::Defective { path, defect }),
        }
    }

    pub(super) fn missing(&self, name: DirName) -> SnapshotError {
        let DirName { kind: wanted, id } = name;
        let other = match wanted {
            KindName::Base => DirName::checkpoint(id),
            KindName::Checkpoint => DirName::base(id),
        };
        if other.directory(self.root()).exists() {
            let found = other.kind;
            return SnapshotError::OtherKind { id, found, wanted };
        }
        let path = name.directory(self.root());
        SnapshotError::NotFound { id, path }
    }

    /// The holder of the lock may have released it meanwhile; then nobody is named.
    pub(super) fn in_use(&self, name: DirName) -> SnapshotError {
        let owners = self.0.owners(name).ok().flatten();
        SnapshotError::InUse {
            id: name.id,
            owners: owners.unwrap_or_default(),
            path: name.directory(self.root()),
        }
    }
}
