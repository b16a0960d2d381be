//! An artefact that is being made.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ironclaw_host::mark;

use crate::LockKind;
use crate::artefact::Artefact;
use crate::dir_lock::DirLock;
use crate::error::StoreError;
use crate::file;
use crate::root_lock::RootLock;
use crate::store::Store;

/// The prefix of staging directories.
pub const STAGING_PREFIX: &str = ".staging-";

/// A private directory to make an artefact in; removed on drop.
#[derive(Debug)]
pub struct Staging<A: Artefact> {
    store: Store<A>,
    path: PathBuf,
    /// `None` once published: the artefact has the lock then.
    lock: Option<DirLock>,
}

impl<A: Artefact> Store<A> {
    /// Creates a private directory to make an artefact in, with `label` in its name. The root is
    /// locked, so nobody sees it before it is locked itself.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] if the store is read-only.
    pub fn stage(&self, root: &RootLock, label: &str) -> Result<Staging<A>, StoreError> {
        if self.is_read_only() {
            return Err(self.read_only());
        }
        Staging::create(self.clone(), root, label)
    }
}

impl<A: Artefact> Staging<A> {
    /// The root is locked, so nobody sees the directory before it is locked itself.
    fn create(store: Store<A>, _root: &RootLock, label: &str) -> Result<Self, StoreError> {
        let path = store.root().join(format!("{STAGING_PREFIX}{label}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| store.io("create the directory", &path, error))?;
        let lock = match DirLock::try_lock(&path, LockKind::Exclusive) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                let busy = io::Error::from(io::ErrorKind::ResourceBusy);
                return Err(store.io("lock", &path, busy));
            }
            Err(error) => return Err(store.io("lock", &path, error)),
        };
        let marked = mark::create(lock.directory());
        let staging = Self {
            store,
            path,
            lock: Some(lock),
        };
        match marked {
            Ok(()) => Ok(staging),
            Err(error) => Err(staging.store.io("write to", &staging.path, error)),
        }
    }

    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory's lock.
    ///
    /// # Errors
    /// [`StoreError`] once it is published.
    pub fn lock(&self) -> Result<&DirLock, StoreError> {
        self.lock.as_ref().ok_or_else(|| self.gone())
    }

    /// Publishes the directory under its name, durably and atomically. The files in it are on the
    /// disk already. The holder of the lock uses it then, as by [`Store::pin`].
    ///
    /// # Errors
    /// [`StoreError`]; it is removed then.
    pub fn publish(mut self, name: A) -> Result<DirLock, StoreError> {
        let synced = file::sync_directory(&self.path);
        synced.map_err(|error| self.store.io("sync", &self.path, error))?;
        let directory = name.directory(self.store.root());
        let _root = self.store.lock()?;
        fs::rename(&self.path, &directory)
            .map_err(|error| self.store.io("publish", &directory, error))?;
        self.path.clone_from(&directory);
        let root = self.store.root();
        file::sync_directory(root).map_err(|error| self.store.io("sync", root, error))?;
        // From here on it is an artefact like any other, used by this process.
        let Some(lock) = self.lock.take() else {
            return Err(self.gone());
        };
        lock.share()
            .map_err(|error| self.store.io("share the lock of", &directory, error))?;
        Ok(lock)
    }

    fn gone(&self) -> StoreError {
        let gone = io::Error::from(io::ErrorKind::NotFound);
        self.store.io("keep the lock of", &self.path, gone)
    }
}

impl<A: Artefact> Drop for Staging<A> {
    fn drop(&mut self) {
        if self.lock.is_none() {
            return;
        }
        if let Err(error) = mark::remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a later sweep must remove it");
        }
    }
}
