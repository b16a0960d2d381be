//! Directories in which something is made before it gets its name.
//!
//! The process that uses one holds an exclusive lock on it, which ends with the process; so a
//! directory that is marked as ours, and whose lock can be had, is garbage.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use super::{TemplateError, debian, file};
use crate::mark::{self, Mark};

const PREFIX: &str = ".staging-";

/// Times a new directory may be swept by another process before it was locked.
const ATTEMPTS: usize = 100;

/// A private directory that is removed, with all it holds, when this is dropped.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    // Ends last: the directory is removed while it is locked.
    _lock: File,
}

impl Staging {
    pub(super) fn create(root: &Path) -> Result<Self, TemplateError> {
        for _ in 0..ATTEMPTS {
            let directory = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(root)
                .map_err(TemplateError::io("create a directory in", root))?;
            // Between its creation and its locking the directory looks like garbage.
            match lock_new(directory.path()) {
                Ok(Some(lock)) => {
                    mark::put(&lock).map_err(TemplateError::io("write to", directory.path()))?;
                    return Ok(Self {
                        path: directory.keep(),
                        _lock: lock,
                    });
                }
                Ok(None) => {}
                Err(error) => return Err(TemplateError::io("lock", directory.path())(error)),
            }
        }
        Err(TemplateError::io("keep a directory in", root)(
            ErrorKind::ResourceBusy.into(),
        ))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = mark::remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the next build must remove it");
        }
    }
}

fn lock_new(path: &Path) -> io::Result<Option<File>> {
    let locked = || -> io::Result<_> {
        let lock = File::open(path)?;
        retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))?;
        let (ours, named) = (lock.metadata()?, path.metadata()?);
        let same = (ours.dev(), ours.ino()) == (named.dev(), named.ino());
        Ok(same.then_some(lock))
    };
    match locked() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result,
    }
}

/// Removes the staging directories that no living process uses.
pub(super) fn sweep(root: &Path) -> Result<(), TemplateError> {
    for entry in debian::entries(root)? {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        match remove_unless_locked(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(TemplateError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove_unless_locked(path: &Path) -> io::Result<()> {
    let lock = match mark::open(path) {
        // Somebody's file.
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(()),
        opened => opened?,
    };
    match retry_on_intr(|| flock(&lock, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => match mark::read(&lock)? {
            Mark::Ours => mark::remove(path),
            Mark::Bare => mark::remove_bare(path),
            Mark::Foreign => Ok(()),
        },
        Err(Errno::WOULDBLOCK) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Holds the lock of `path` until it is dropped. `waiting` is called if another process has it.
pub(super) fn lock_file(path: &Path, waiting: impl FnOnce()) -> Result<File, TemplateError> {
    let lock = file::open_lock(path)?;
    let take = |operation| retry_on_intr(|| flock(&lock, operation));
    let taken = match take(FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            waiting();
            take(FlockOperation::LockExclusive)
        }
        result => result,
    };
    taken.map_err(|error| TemplateError::io("lock", path)(error.into()))?;
    Ok(lock)
}

#[cfg(test)]
mod tests;
