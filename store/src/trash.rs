//! Deleting an artefact: out of sight first, and then file by file.

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

/// How the name of an artefact starts that is being deleted.
pub(crate) const TRASH_PREFIX: &str = ".trash-";

/// What became of an artefact that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone.
    Done,
    /// Somebody uses it.
    InUse,
    /// It may not go, said the caller.
    Denied,
    /// Nothing says that we made it.
    NotOurs,
    /// There is none.
    Missing,
}

impl<A: Artefact> Store<A> {
    /// Deletes an artefact that nobody uses and that `may_go`, which is asked with its locks held.
    ///
    /// # Errors
    /// [`StoreError`], or what `may_go` fails with.
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

/// Takes an artefact's name away from it, so that it is gone at once, however long removing its
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
