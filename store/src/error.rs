//! Errors of a directory shared by processes.

use std::io;
use std::path::{Path, PathBuf};

use ironclaw_host::state_path::Exposed;
use ironclaw_host::{disk, host_limits};

use crate::artefact::StoreName;
use crate::owner::Owners;

/// The error of an operation on a store: the operation, the path, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call failed.
    #[error("cannot {operation} {}{}", path.display(), limit(source))]
    Io {
        /// The attempted operation, as a verb phrase.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file system, or the user's quota on it, is full.
    #[error(
        "no space left to {operation} {}: free some on its file system or set {} to a directory on \
         a larger one",
        path.display(),
        store.setting
    )]
    NoSpace {
        /// The store.
        store: StoreName,
        /// The attempted operation, as a verb phrase.
        operation: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The path of the store is not a directory.
    #[error(
        "the {} store {} is not a directory: remove it or set {} to a directory",
        store.what,
        path.display(),
        store.setting
    )]
    RootNotDirectory {
        /// The store.
        store: StoreName,
        /// Its path.
        path: PathBuf,
    },
    /// This user may not create, read or write the directory of the store.
    #[error(
        "cannot {operation} the {} store {}; give this user read, write and search permission or set {} \
         to a directory of its own",
        store.what,
        path.display(),
        store.setting
    )]
    RootUnusable {
        /// The store.
        store: StoreName,
        /// The attempted operation, as a verb phrase.
        operation: &'static str,
        /// Its path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Other users could replace what this one uses.
    #[error(
        "the {} store {} {}, or set {} to a directory of its own",
        store.what,
        path.display(),
        Exposed::at(path, component, *owner, *mode),
        store.setting
    )]
    RootExposed {
        /// The store.
        store: StoreName,
        /// Its path.
        path: PathBuf,
        /// The component that they can change: the store itself, a directory above it, or a link on
        /// the way.
        component: PathBuf,
        /// The user id of its owner.
        owner: u32,
        /// Its type and permissions (inode(7)).
        mode: u32,
    },
    /// The store is read-only; its content can be used.
    #[error(
        "nothing can be built in the {} store {}, which is another user's or on a read-only file \
         system: what it holds serves, and {} may name one to build in",
        store.what,
        path.display(),
        store.setting
    )]
    ReadOnly {
        /// The store.
        store: StoreName,
        /// Its path.
        path: PathBuf,
    },
    /// Another process has held the lock of the store for longer than its short operations take.
    #[error(
        "the {} store {} stayed locked by {owners} for {waited_secs} s: it hangs or is stopped; \
         continue or end it, then try again",
        store.what,
        path.display()
    )]
    Busy {
        /// The store.
        store: StoreName,
        /// Its path.
        path: PathBuf,
        /// The processes that hold the lock.
        owners: Owners,
        /// The time waited, in seconds.
        waited_secs: u64,
    },
}

/// Returns the limit of this process that led to an error, as the rest of a sentence.
fn limit(source: &io::Error) -> String {
    host_limits::advice(source).map_or_else(String::new, |advice| format!(": {advice}"))
}

impl StoreError {
    /// Creates the error of `operation` on `path`; a full disk has its own variant.
    pub fn io(
        store: StoreName,
        operation: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        let (path, source) = (path.as_ref().to_owned(), source.into());
        if disk::is_full(&source) {
            return Self::NoSpace {
                store,
                operation,
                path,
            };
        }
        Self::Io {
            operation,
            path,
            source,
        }
    }

    /// Returns whether the subject of the error does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
