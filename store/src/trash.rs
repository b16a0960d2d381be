//! Deletes an artefact: renames it first, then removes its files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ironclaw_host::mark;

use crate::LockKind;
use crate::artefact::Artefact;
use crate::dir_lock::DirLock;
use crate::error::StoreError;
use crate::root_lock::RootLock;
use crate::store::Store;

/// The prefix of artefacts that are being deleted.
pub(crate) const TRASH_PREFIX: &str = ".trash-";

/// The result of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is deleted.
    Done,
    /// Somebody uses it.
    InUse,
    /// The caller denied it.
    Denied,
    /// It has no mark of ours.
    NotOurs,
    /// It does not exist.
    Missing,
}

impl<A: Artefact> Store<A> {
    /// Deletes an artefact that nobody uses, if `may_go` allows it, which is called with its locks
    /// held.
    ///
    /// # Errors
    /// [`StoreError`], or the error of `may_go`.
    pub fn delete<E: From<StoreError>>(
        &self,
        name: A,
        may_go: impl FnOnce(&DirLock) -> Result<bool, E>,
    ) -> Result<Deletion, E> {
        let path = name.directory(self.root());
        let root = self.lock()?;
        let lock = match DirLock::try_lock(&path, LockKind::Exclusive) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(Deletion::InUse),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Deletion::Missing),
            Err(error) => return Err(self.io("lock", path, error).into()),
        };
        let is_ours = name.is_ours(lock.directory());
        if !is_ours.map_err(|error| self.io("inspect", &path, error))? {
            return Ok(Deletion::NotOurs);
        }
        if !may_go(&lock)? {
            return Ok(Deletion::Denied);
        }
        let trash = put_aside(self, &root, name)?;
        drop((root, lock));
        remove(self, &trash)?;
        Ok(Deletion::Done)
    }
}

impl<A: Artefact> Store<A> {
    /// Takes the name of an artefact of ours away, for another one. It is removed by the next sweep that
    /// finds nobody using it.
    ///
    /// # Errors
    /// [`StoreError`]; a missing artefact is no error.
    pub fn put_aside(&self, name: A) -> Result<(), StoreError> {
        let _root = self.lock()?;
        let path = name.directory(self.root());
        let trash = |number: u32| {
            let name = format!("{TRASH_PREFIX}{}.{number}", name.in_manifest());
            self.root().join(name)
        };
        // Earlier ones may be in use still.
        let free = (1..).map(trash).find(|trash| !trash.exists());
        match free.map_or(Ok(()), |trash| fs::rename(&path, trash)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.io("put aside", &path, error));
            }
            _ => {}
        }
        name.forget(self.root())
            .map_err(|error| self.io("forget", &path, error))
    }
}

/// Moves an artefact to the trash, so that it is gone at once, however long the removal of its
/// files takes. The caller holds the lock of its directory, too.
pub(crate) fn put_aside<A: Artefact>(
    store: &Store<A>,
    _root: &RootLock,
    name: A,
) -> Result<PathBuf, StoreError> {
    let path = name.directory(store.root());
    let trash = store
        .root()
        .join(format!("{TRASH_PREFIX}{}", name.in_manifest()));
    fs::rename(&path, &trash).map_err(|error| store.io("delete", &path, error))?;
    name.forget(store.root())
        .map_err(|error| store.io("forget", &path, error))?;
    Ok(trash)
}

pub(crate) fn remove<A: Artefact>(store: &Store<A>, path: &Path) -> Result<(), StoreError> {
    mark::remove(path).map_err(|error| store.io("remove", path, error))
}
