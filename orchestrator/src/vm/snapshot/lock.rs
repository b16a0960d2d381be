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
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::error::SnapshotError;
use super::id::SnapshotId;
use super::owner::Owners;
use crate::vm::flock::{Locked, try_lock};
use crate::vm::root_lock::{self, RootLock, RootLockError};

pub(super) use crate::vm::flock::Kind;

/// An open directory with a lock on it, released on drop.
#[derive(Debug)]
pub(super) struct DirLock(Locked);

/// Waits for the lock of the store's directory, but not for ever.
pub(super) fn root(path: &Path) -> Result<RootLock, SnapshotError> {
    let failed = |error| SnapshotError::io("lock", path, error);
    RootLock::take(open(path).map_err(failed)?, path).map_err(|error| match error {
        RootLockError::Io(error) => failed(error),
        RootLockError::Busy(owners) => SnapshotError::Busy {
            path: path.to_owned(),
            owners,
            waited_secs: root_lock::PATIENCE.as_secs(),
        },
    })
}

impl DirLock {
    /// Locks the directory at `path` if nobody else holds a conflicting lock; links are not
    /// followed. `None`: somebody does, or the directory was replaced meanwhile.
    pub(super) fn try_lock(path: &Path, kind: Kind) -> io::Result<Option<Self>> {
        let directory = open(path)?;
        if !try_lock(&directory, kind)? {
            return Ok(None);
        }
        let lock = Self(Locked::new(directory));
        // The root lock keeps us from renaming it between the open and the lock, but not an
        // administrator.
        Ok(lock.is_at(path)?.then_some(lock))
    }

    /// A shared lock of an open directory, whatever its name is by now, if nobody else holds a
    /// conflicting one.
    pub(super) fn try_share(directory: &File) -> io::Result<Option<Self>> {
        if !try_lock(directory, Kind::Shared)? {
            return Ok(None);
        }
        Ok(Some(Self(Locked::new(directory.try_clone()?))))
    }

    /// Lets others share the lock. The caller holds the root lock.
    pub(super) fn share(&self) -> io::Result<()> {
        let shared = try_lock(self.directory(), Kind::Shared)?;
        shared.then_some(()).ok_or(io::ErrorKind::WouldBlock.into())
    }

    /// The directory itself, whatever its path is by now.
    pub(super) fn directory(&self) -> &File {
        self.0.file()
    }

    /// Whether it is the directory at `path`.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let (held, there) = (
            self.directory().metadata()?,
            std::fs::symlink_metadata(path)?,
        );
        Ok(held.dev() == there.dev() && held.ino() == there.ino())
    }
}

/// Opens a directory, and follows no link.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory: OwnedFd = openat(CWD, path, flags, Mode::empty())?;
    Ok(File::from(directory))
}

/// Not to be called with the root locked: finding out who it is may take long, and others would wait
/// for it. Whoever holds the lock may have let go of it meanwhile; then nobody is named.
pub(super) fn in_use(id: SnapshotId, path: PathBuf) -> SnapshotError {
    let owners = open(&path).map(|directory| Owners::of(&directory));
    SnapshotError::InUse {
        id,
        owners: owners.unwrap_or_default(),
        path,
    }
}
