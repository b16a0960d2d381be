//! Locks on directories, which end with the process that holds them.
//!
//! Two kinds, always taken in this order:
//!
//! 1. the **root** lock, exclusive, around each short operation that takes or looks at the locks
//!    of snapshots. So nobody meets a lock that is held only for a look, and changing a lock from
//!    exclusive to shared (which the kernel does in two steps) has no gap;
//! 2. the lock of **one snapshot's directory**: exclusive while it is built or deleted, shared
//!    while it is in use.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use ironclaw_host::flock::{Kind, Locked, try_lock};
use ironclaw_host::mark;

/// An open directory with a lock on it, released on drop.
#[derive(Debug)]
pub struct DirLock(Locked);

impl DirLock {
    /// Locks the directory at `path`, without following links. Returns `None` if somebody else
    /// holds a conflicting lock, or the directory was replaced meanwhile.
    ///
    /// # Errors
    /// As for `open(2)`, `stat(2)` and `flock(2)`.
    pub fn try_lock(path: &Path, kind: Kind) -> io::Result<Option<Self>> {
        let directory = mark::open(path)?;
        if !try_lock(&directory, kind)? {
            return Ok(None);
        }
        let lock = Self(Locked::new(directory));
        // The root lock keeps our own processes from renaming it between the open and the lock, but
        // not an administrator.
        Ok(lock.is_at(path)?.then_some(lock))
    }

    /// Takes a shared lock on an open directory, whatever its name is by now; `None` if somebody
    /// else holds a conflicting lock.
    ///
    /// # Errors
    /// As for `open(2)`, `stat(2)` and `flock(2)`.
    pub fn try_share(directory: &File) -> io::Result<Option<Self>> {
        if !try_lock(directory, Kind::Shared)? {
            return Ok(None);
        }
        Ok(Some(Self(Locked::new(directory.try_clone()?))))
    }

    /// Converts the lock to a shared one. The caller holds the root lock.
    ///
    /// # Errors
    /// As for `open(2)`, `stat(2)` and `flock(2)`.
    pub fn share(&self) -> io::Result<()> {
        let shared = try_lock(self.directory(), Kind::Shared)?;
        shared.then_some(()).ok_or(io::ErrorKind::WouldBlock.into())
    }

    /// Returns the open directory, whatever its path is by now.
    #[must_use]
    pub fn directory(&self) -> &File {
        self.0.file()
    }

    /// Returns whether it is the directory at `path`.
    ///
    /// # Errors
    /// As for `open(2)`, `stat(2)` and `flock(2)`.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        let (held, there) = (
            self.directory().metadata()?,
            std::fs::symlink_metadata(path)?,
        );
        Ok(held.dev() == there.dev() && held.ino() == there.ino())
    }
}
