//! Removes templates: at once, or as soon as nothing uses them any more.
//!
//! ```text
//! used by a process     a shared lock on the directory (`TemplatePin`), which ends with it
//! needed by a snapshot  a reference (`references.rs`), which goes with the snapshot
//! deleted meanwhile     a file in the directory; removed by the next sweep that finds neither
//! ```

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ironclaw_host::flock;
use ironclaw_store::{Artefact as _, Deletion, DirLock, LockKind, Pin, Staging, StoreError};

use crate::error::TemplateError;
use crate::file;
use crate::hash::TemplateHash;
use crate::links::Links;
use crate::references;
use crate::store::{LOCK, TemplateStore};
use crate::template::Template;

/// The file in a template's directory that says that it was deleted while it was used.
const DELETED: &str = "deleted";

/// What became of a template that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Its files are gone.
    Done,
    /// It has no name any more, and goes as soon as no process and no snapshot needs it.
    WhenUnused,
}

/// Keeps a template's files where they are, until this is dropped or its process ends.
#[derive(Debug)]
pub struct TemplatePin(
    #[expect(dead_code, reason = "its end is what counts")]
    // One that is being built is its builder's, who keeps it.
    Option<DirLock>,
);

impl Template {
    /// Keeps its files where they are. One that was deleted meanwhile can be used until it is removed.
    ///
    /// # Errors
    /// [`TemplateError::NotFound`] if it is gone, or is being removed.
    pub fn pin(&self) -> Result<TemplatePin, TemplateError> {
        if !self.is_published() {
            return Ok(TemplatePin(None));
        }
        let store = TemplateStore::open(self.root())?;
        match store.0.pin(*self.hash())? {
            Pin::Held(lock) => Ok(TemplatePin(Some(lock))),
            Pin::Busy | Pin::Missing => Err(store.not_found(self.hash())),
        }
    }

    /// Records that the artefact that is made in `staging`, and will be at `published`, needs this
    /// template: it is kept until that is gone. Call it while it is [pinned](Self::pin).
    ///
    /// Nothing is recorded in a store that only another user can change; nothing keeps them from
    /// deleting a template.
    ///
    /// # Errors
    /// If files can't be created.
    pub fn keep_for(&self, staging: &Path, published: &Path) -> Result<(), StoreError> {
        match references::add(self.directory(), staging, published) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Ok(())
            }
            added => added.map_err(|error| {
                StoreError::io(TemplateHash::STORE, "write to", self.directory(), error)
            }),
        }
    }
}

impl TemplateStore {
    /// Deletes a template. One that a living process uses, or that a snapshot needs to be restored, loses
    /// its name at once, and is removed when neither is there any more; until then it can be loaded by its
    /// hash.
    ///
    /// # Errors
    /// [`TemplateError::NotFound`], [`TemplateError::NotOurs`], or if files can't be removed.
    pub fn delete(&self, hash: &TemplateHash) -> Result<Removal, TemplateError> {
        let _lock = self.lock(|| {})?;
        if !file::exists(&hash.directory(self.root()))? {
            return Err(self.not_found(hash));
        }
        if !self.is_ours(hash) {
            return Err(self.not_ours(hash));
        }
        Links::of(self.root()).unlink_all(hash)?;
        self.remove_or_mark(hash)
    }

    /// Returns whether a template was deleted while it was used.
    pub(crate) fn is_deleted(&self, hash: &TemplateHash) -> bool {
        let marked = file::exists(&hash.directory(self.root()).join(DELETED));
        marked.unwrap_or(false)
    }

    /// Removes a template that has no name any more, or marks it for that if it is used. The caller holds
    /// the lock of builds.
    pub(crate) fn remove_or_mark(&self, hash: &TemplateHash) -> Result<Removal, TemplateError> {
        match self.remove_unused(hash)? {
            Deletion::Done => Ok(Removal::Done),
            Deletion::InUse | Deletion::Denied => {
                let path = hash.directory(self.root()).join(DELETED);
                let mut options = File::options();
                let marked = options.write(true).create_new(true).mode(0o600).open(&path);
                match marked {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                        Err(TemplateError::io("create", &path)(error))
                    }
                    _ => Ok(Removal::WhenUnused),
                }
            }
            Deletion::Missing => Err(self.not_found(hash)),
            Deletion::NotOurs => Err(self.not_ours(hash)),
        }
    }

    fn remove_unused(&self, hash: &TemplateHash) -> Result<Deletion, TemplateError> {
        let directory = hash.directory(self.root());
        self.0.delete(*hash, |_| {
            let needed = references::exist(&directory);
            Ok(!needed.map_err(TemplateError::io("look at", &directory))?)
        })
    }

    /// Has a template that was deleted, and is still used, stay. The caller holds the lock of builds.
    pub(crate) fn restore_deleted(&self, hash: &TemplateHash) -> Result<(), TemplateError> {
        let path = hash.directory(self.root()).join(DELETED);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(TemplateError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes way for the sound template in `staging`: what uses the damaged one has its files open, and
    /// needs the other from now on. The caller holds the lock of builds.
    pub(crate) fn put_aside(
        &self,
        hash: &TemplateHash,
        staging: &Staging<TemplateHash>,
    ) -> Result<(), TemplateError> {
        let directory = hash.directory(self.root());
        references::carry_over(&directory, staging.path())
            .map_err(TemplateError::io("copy the references of", &directory))?;
        Ok(self.0.put_aside(*hash)?)
    }

    /// Removes templates that were deleted while they were used, and are not any more. The caller holds
    /// the lock of builds.
    pub(crate) fn sweep_deleted(&self) -> Result<(), TemplateError> {
        for hash in self.0.names()? {
            if self.is_deleted(&hash) {
                self.remove_unused(&hash)?;
            }
        }
        Ok(())
    }

    /// Removes templates that were deleted while they were used, and are not any more; unless a build
    /// or a deletion is under way, which does so, too. Costs next to nothing if there are none.
    ///
    /// # Errors
    /// If the store can't be read, or files can't be removed.
    pub fn remove_deleted(&self) -> Result<(), TemplateError> {
        if self.is_read_only() || !self.0.names()?.iter().any(|hash| self.is_deleted(hash)) {
            return Ok(());
        }
        let path = self.root().join(LOCK);
        let lock = file::open_lock(&path)?;
        let try_lock =
            |lock: &File| -> io::Result<bool> { flock::try_lock(lock, LockKind::Exclusive) };
        if !try_lock(&lock).map_err(TemplateError::io("lock", &path))? {
            return Ok(());
        }
        let _lock = flock::Locked::new(lock);
        self.sweep_deleted()
    }
}
