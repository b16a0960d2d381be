//! Removes unused directories that we made; leaves foreign entries alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ironclaw_host::mark::{self, Mark};

use crate::LockKind;
use crate::artefact::Artefact;
use crate::dir_lock::DirLock;
use crate::error::StoreError;
use crate::file;
use crate::staging::STAGING_PREFIX;
use crate::store::Store;
use crate::trash::{TRASH_PREFIX, put_aside, remove};

/// The result of a sweep.
#[derive(Debug, Clone, Default)]
pub struct Swept {
    /// The removed directories.
    pub removed: Vec<PathBuf>,
    /// The bytes freed on disk.
    pub bytes: u64,
}

impl<A: Artefact> Store<A> {
    /// Removes the leftovers of killed processes: unfinished and half-deleted artefacts; and unused
    /// ones for which `may_go` returns a reason. Keeps what a living process uses, and all foreign
    /// entries.
    ///
    /// # Errors
    /// [`StoreError`] of the first failed removal, or the error of `may_go`.
    pub fn sweep<E: From<StoreError>>(
        &self,
        may_go: impl Fn(A, &DirLock) -> Result<Option<String>, E>,
    ) -> Result<Swept, E> {
        run(self, may_go)
    }
}

fn run<A: Artefact, E: From<StoreError>>(
    store: &Store<A>,
    may_go: impl Fn(A, &DirLock) -> Result<Option<String>, E>,
) -> Result<Swept, E> {
    let mut swept = Swept::default();
    leftovers(store, &mut swept)?;
    for name in store.names()? {
        let path = name.directory(store.root());
        let root = store.lock()?;
        let Some(lock) = try_lock(store, &path)? else {
            continue;
        };
        if let Some(why) = may_go(name, &lock)? {
            tracing::warn!(path = %path.display(), "what can't be used goes: {why}");
            let trash = put_aside(store, &root, name)?;
            drop((root, lock));
            swept.take(store, &trash)?;
        }
    }
    Ok(swept)
}

/// Removes what a dead process was making or deleting.
fn leftovers<A: Artefact>(store: &Store<A>, swept: &mut Swept) -> Result<(), StoreError> {
    let failed = |error| store.io("list", store.root(), error);
    for entry in fs::read_dir(store.root()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let trash = name.strip_prefix(TRASH_PREFIX);
        if trash.is_none() && !name.starts_with(STAGING_PREFIX) {
            continue;
        }
        let path = entry.path();
        let _root = store.lock()?;
        // Locked: its maker lives.
        let Some(lock) = try_lock(store, &path)? else {
            continue;
        };
        let failed = |error| store.io("inspect", &path, error);
        match mark::read(lock.directory()).map_err(failed)? {
            Mark::Ours => swept.take(store, &path)?,
            Mark::Bare => {
                mark::remove_bare(&path).map_err(|error| store.io("remove", &path, error))?;
                swept.removed.push(path);
            }
            // Half deleted by a release before the mark: the manifest shows whose it is.
            Mark::Foreign => {
                let (manifest, field) = (A::MANIFEST, A::NAME_FIELD);
                let is_named = |name| mark::is_named_in(lock.directory(), manifest, field, name);
                if trash.map_or(Ok(false), is_named).map_err(failed)? {
                    swept.take(store, &path)?;
                }
            }
        }
    }
    Ok(())
}

fn try_lock<A: Artefact>(store: &Store<A>, path: &Path) -> Result<Option<DirLock>, StoreError> {
    match DirLock::try_lock(path, LockKind::Exclusive) {
        // Gone meanwhile, or no directory.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        result => result.map_err(|error| store.io("lock", path, error)),
    }
}

impl Swept {
    fn take<A: Artefact>(&mut self, store: &Store<A>, path: &Path) -> Result<(), StoreError> {
        // Best effort: it may be gone already, and then it freed nothing.
        let bytes = file::disk_bytes(path).unwrap_or(0);
        remove(store, path)?;
        self.removed.push(path.to_owned());
        self.bytes += bytes;
        Ok(())
    }
}
