//! The directory that holds the snapshots.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ironclaw_store::{
    Artefact as _, DirLock, LockKind, Owners, Pin, Store, Swept, Timestamp, ZeroPages, file,
    pass_over,
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

/// Snapshots in one directory; cheap to clone. Any number of processes may use it at a time.
#[derive(Debug, Clone)]
pub struct SnapshotStore(pub(super) Store<DirName>);

/// A directory with the name of a snapshot.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name.
    pub id: SnapshotId,
    /// What it is for.
    pub kind: KindName,
    /// Where it is.
    pub path: PathBuf,
    /// What it is, or why it is none.
    pub state: Result<Manifest, Defect>,
    /// Bytes that its files take on disk.
    pub disk_bytes: u64,
    /// Whether a VM, a pool or a build uses it.
    pub in_use: bool,
}

/// A snapshot whose content is what was published.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What it is.
    pub manifest: Manifest,
    /// Bytes that were hashed, holes included.
    pub hashed_bytes: u64,
    /// How long that took.
    pub took: Duration,
}

impl SnapshotStore {
    /// Opens the store in `root`, which is created with mode 0700 if it does not exist.
    ///
    /// # Errors
    /// [`SnapshotError`]: it can't be created or used, or other users than root could change what is
    /// in it, or put another directory in its place.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, SnapshotError> {
        Ok(Self(Store::open(root)?))
    }

    /// Whether what is here can be used and nothing can be made: it is root's, or the file system
    /// is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.0.is_read_only()
    }

    /// That nothing can be made here, in words.
    pub(crate) fn read_only(&self) -> SnapshotError {
        self.0.read_only().into()
    }

    /// The store's directory, an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.0.root()
    }

    /// Whether the file system has room for `bytes` more. Asked before a guest's memory is put
    /// there: a VMM that finds the disk full under its mapping dies of SIGBUS without a word.
    ///
    /// # Errors
    /// [`SnapshotError::NoSpace`] if it has not.
    pub fn ensure_room(&self, bytes: u64) -> Result<(), SnapshotError> {
        Ok(self.0.ensure_room("write a snapshot to", bytes)?)
    }

    /// A private directory to make a snapshot for pools in that will meet `requirements`; one of a
    /// VM that was used is [a checkpoint](Self::stage_checkpoint).
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

    /// Takes a pool's snapshot into use, if it is sound as far as its manifest and the sizes of its
    /// files tell, and fits `requirements`. The first time that one is used after a start of the
    /// host, all of it is read, as by [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`SnapshotError`]; one that is [`Corrupt`](SnapshotError::Corrupt) is deleted, unless it is
    /// in use.
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
                // Its own lock would keep it.
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

    /// One more than the highest generation that is there.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub fn next_generation(&self) -> Result<u64, SnapshotError> {
        let entries = self.entries(&self.names(KindName::Base)?)?;
        let manifests = entries.iter().filter_map(|entry| entry.state.as_ref().ok());
        let highest = manifests.map(|manifest| manifest.generation).max();
        Ok(highest.map_or(0, |highest| highest.saturating_add(1)))
    }

    /// Everything with the name of a snapshot, oldest first.
    ///
    /// # Errors
    /// [`SnapshotError`] if the directory can't be read; a snapshot that can't be used is an
    /// entry of its own.
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
                // Deleted since.
                Err(SnapshotError::Store(error)) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    /// Hashes the files of a snapshot and compares them with its manifest.
    ///
    /// # Errors
    /// [`SnapshotError::Corrupt`] names the first file that differs.
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

    /// Compares the files of a snapshot with its manifest; says how many bytes those are.
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
            let found = pass_over(&opened, record.bytes, ZeroPages::Keep)
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

    /// The processes that use a snapshot at this moment.
    ///
    /// # Errors
    /// [`SnapshotError`] if there is no such snapshot.
    pub fn owners(&self, id: SnapshotId) -> Result<Owners, SnapshotError> {
        let name = self.name_of(id);
        let owners = self.0.owners(name)?;
        owners.ok_or_else(|| self.missing(name))
    }

    /// Removes what killed processes left: half-made and half-deleted snapshots, and those that
    /// can't be used but checkpoints, of which those go whose time is past. What a living process uses stays, and whatever else is there.
    ///
    /// # Errors
    /// [`SnapshotError`] for the first thing that could not be removed.
    pub fn sweep(&self) -> Result<Swept, SnapshotError> {
        let is_there = |id| self.name_of(id).directory(self.root()).exists();
        verified::sweep(self.root(), is_there)
            .map_err(|error| SnapshotError::io("sweep", self.root(), error))?;
        self.0.sweep(|name, lock| self.may_be_swept(name, lock))
    }

    /// Why a sweep may remove a snapshot that nobody uses; `None`: it stays.
    fn may_be_swept(&self, name: DirName, lock: &DirLock) -> Result<Option<String>, SnapshotError> {
        let path = name.directory(self.root());
        let (manifest, cause, why) = match inspect::read(lock.directory(), &path, name)? {
            Ok(manifest) => (Ok(manifest), Cause::Swept, "its time is past".to_owned()),
            Err(defect) if defect.is_garbage() => {
                // It may say nevertheless what it is for.
                let manifest = inspect::manifest(lock.directory(), &path, name)?;
                (manifest, Cause::Unusable, defect.to_string())
            }
            Err(_) => return Ok(None),
        };
        let subject = Subject::found(&manifest, name.kind);
        Ok(may_be_deleted(subject, cause, Timestamp::now()).then_some(why))
    }

    /// The directories of snapshots of one kind, oldest first.
    pub(super) fn names(&self, kind: KindName) -> Result<Vec<DirName>, SnapshotError> {
        let mut names = self.0.names()?;
        names.retain(|name| name.kind == kind);
        Ok(names)
    }

    /// Where a snapshot is, of whatever kind.
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

    /// The shared lock of a sound snapshot, and its manifest.
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

    /// Whoever holds the lock may have let go of it meanwhile; then nobody is named.
    pub(super) fn in_use(&self, name: DirName) -> SnapshotError {
        let owners = self.0.owners(name).ok().flatten();
        SnapshotError::InUse {
            id: name.id,
            owners: owners.unwrap_or_default(),
            path: name.directory(self.root()),
        }
    }
}
