//! A directory of artefacts of one kind.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_host::disk;
use ironclaw_host::mark;
use ironclaw_host::state_path::{self, PathError};

use crate::LockKind;
use crate::artefact::Artefact;
use crate::dir_lock::DirLock;
use crate::error::StoreError;
use crate::file;
use crate::owner::Owners;
use crate::root_lock::{self, RootLock, RootLockError};

/// Artefacts in one directory; cheap to clone. Any number of processes may use it at a time.
#[derive(Debug)]
pub struct Store<A> {
    root: Arc<PathBuf>,
    is_read_only: bool,
    artefact: PhantomData<fn() -> A>,
}

/// The result of an attempt to use an artefact.
#[derive(Debug)]
pub enum Pin {
    /// Nobody can delete it while this lives.
    Held(DirLock),
    /// It is being made or deleted.
    Busy,
    /// It does not exist.
    Missing,
}

impl<A> Clone for Store<A> {
    fn clone(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
            is_read_only: self.is_read_only,
            artefact: PhantomData,
        }
    }
}

impl<A: Artefact> Store<A> {
    /// Opens the store in `path`, which is created with mode 0700 if missing.
    ///
    /// # Errors
    /// [`StoreError`]: it can't be created or used, or users other than root could change its
    /// content or replace it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let (path, store) = (path.into(), A::STORE);
        let unusable = |operation| {
            let path = path.clone();
            move |source: io::Error| match source.kind() {
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                    StoreError::RootNotDirectory { store, path }
                }
                _ if disk::is_full(&source) => StoreError::NoSpace {
                    store,
                    operation,
                    path,
                },
                _ => StoreError::RootUnusable {
                    store,
                    operation,
                    path,
                    source,
                },
            }
        };
        // Absolute: VMMs get paths below it, and run in other directories.
        let found = state_path::make(&path).map_err(|error| match error {
            PathError::Io(error) => unusable("use")(error),
            PathError::Exposed(exposed) => StoreError::RootExposed {
                store,
                path: exposed.directory(&path),
                component: exposed.component,
                owner: exposed.owner,
                mode: exposed.mode,
            },
        })?;
        let is_read_only = !found.is_writable().map_err(unusable("inspect"))?;
        let root = found.path;
        fs::read_dir(&root).map_err(unusable("read"))?;
        Ok(Self {
            root: Arc::new(root),
            is_read_only,
            artefact: PhantomData,
        })
    }

    /// Returns whether its content can be used but nothing can be made: it is root's, or its file
    /// system is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Returns the error of making something in a store that [is read-only](Self::is_read_only).
    #[must_use]
    pub fn read_only(&self) -> StoreError {
        StoreError::ReadOnly {
            store: A::STORE,
            path: self.root().to_owned(),
        }
    }

    /// Returns the store's directory, an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Checks that the file system has room for `bytes` more.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] if it has not.
    pub fn ensure_room(&self, operation: &'static str, bytes: u64) -> Result<(), StoreError> {
        let stat = rustix::fs::statvfs(self.root())
            .map_err(|error| self.io("inspect", self.root(), error))?;
        if stat.f_bavail.saturating_mul(stat.f_frsize) < bytes {
            return Err(self.no_space(operation));
        }
        Ok(())
    }

    /// Returns the error of a full disk, for whoever was told of it by another program.
    #[must_use]
    pub fn no_space(&self, operation: &'static str) -> StoreError {
        StoreError::NoSpace {
            store: A::STORE,
            operation,
            path: self.root().to_owned(),
        }
    }

    /// Creates the store's directory again if it was removed.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn make_anew(&self) -> Result<(), StoreError> {
        match self.root.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!("{} was removed: it is made anew", self.root.display());
                Self::open(&*self.root).map(drop)
            }
            // The next step reports any other problem.
            _ => Ok(()),
        }
    }

    /// Waits for the lock of the store's directory, with a timeout; for a short check or change.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if another process keeps it.
    pub fn lock(&self) -> Result<RootLock, StoreError> {
        let path = self.root();
        let failed = |error| self.io("lock", path, error);
        let directory = mark::open(path).map_err(failed)?;
        RootLock::take(directory, path).map_err(|error| match error {
            RootLockError::Io(error) => failed(error),
            RootLockError::Busy(owners) => StoreError::Busy {
                store: A::STORE,
                path: path.to_owned(),
                owners,
                waited_secs: root_lock::ROOT_LOCK_TIMEOUT.as_secs(),
            },
        })
    }

    /// Lists everything with the name of an artefact, in their order.
    ///
    /// # Errors
    /// [`StoreError`] if the directory can't be read.
    pub fn names(&self) -> Result<Vec<A>, StoreError> {
        let failed = |error| self.io("list", self.root(), error);
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root()).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.to_str().and_then(A::parse));
        }
        names.sort();
        Ok(names)
    }

    /// Keeps an artefact from being deleted.
    ///
    /// # Errors
    /// [`StoreError`]; a missing artefact is no error.
    pub fn pin(&self, name: A) -> Result<Pin, StoreError> {
        let path = name.directory(self.root());
        let _root = self.lock()?;
        match DirLock::try_lock(&path, LockKind::Shared) {
            Ok(Some(lock)) => Ok(Pin::Held(lock)),
            Ok(None) => Ok(Pin::Busy),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Pin::Missing),
            Err(error) => Err(self.io("lock", path, error)),
        }
    }

    /// Finds the processes that use an artefact at this moment; `None` if it does not exist. Don't
    /// call it with the root locked: it may take long.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn owners(&self, name: A) -> Result<Option<Owners>, StoreError> {
        let path = name.directory(self.root());
        match mark::open(&path) {
            Ok(directory) => Ok(Some(Owners::find(&directory))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("open", path, error)),
        }
    }

    /// Creates the error of `operation` on `path`.
    pub fn io(
        &self,
        operation: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> StoreError {
        StoreError::io(A::STORE, operation, path, source)
    }

    /// Returns the bytes that an artefact's files occupy on disk, without holes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn disk_bytes(&self, name: A) -> Result<u64, StoreError> {
        let path = name.directory(self.root());
        file::disk_bytes(&path).map_err(|error| self.io("measure", path, error))
    }
}
