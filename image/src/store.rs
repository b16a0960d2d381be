//! The directory that holds the templates.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ironclaw_host::flock;
use ironclaw_host::mark;
use ironclaw_store::{Artefact as _, LockKind, Staging, Store};
use uuid::Uuid;

use crate::choice::TemplateChoice;
use crate::error::TemplateError;
use crate::file;
use crate::hash::TemplateHash;
use crate::links::{Links, Reference};
#[cfg(feature = "oci")]
use crate::oci::SourceKey;
use crate::template::Template;

/// Templates on disk. Any number of processes may use one directory at a time.
#[derive(Debug, Clone)]
pub struct TemplateStore(pub(crate) Store<TemplateHash>);

/// An entry of [`TemplateStore::list`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Listed {
    /// The name.
    pub hash: TemplateHash,
    /// The template, or why it can't be used.
    pub template: Result<Template, TemplateError>,
    /// Whether it was deleted, and goes once nothing uses it any more.
    pub is_deleted: bool,
}

pub(crate) const LOCK: &str = ".lock";

impl TemplateStore {
    /// Opens the store in `root`, which is created with mode 0700 if it does not exist.
    ///
    /// # Errors
    /// If the directory can't be created or read, or other users than root could change what is in
    /// it, or put another directory in its place.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, TemplateError> {
        Ok(Self(Store::open(root)?))
    }

    /// Returns whether nothing can be built here: the directory is root's, or the file system is
    /// read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.0.is_read_only()
    }

    /// Returns the store's directory, as an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.0.root()
    }

    /// Loads the default template; `None` if there is none yet.
    ///
    /// # Errors
    /// As [`load`](Self::load); see [`TemplateError::needs_rebuild`].
    pub fn default_template(&self) -> Result<Option<Template>, TemplateError> {
        self.default_hash()?
            .map(|hash| self.load(&hash))
            .transpose()
    }

    /// Returns the hash of the default template, which may not be there.
    ///
    /// # Errors
    /// If that can't be read.
    pub fn default_hash(&self) -> Result<Option<TemplateHash>, TemplateError> {
        Links::of(self.root()).hash_of(&Reference::Default)
    }

    /// Loads the template that was chosen; `None` if there is none yet, or none of what an image holds now.
    ///
    /// # Errors
    /// As [`load`](Self::load), and if the image's source can't be looked at.
    pub fn chosen(&self, choice: &TemplateChoice) -> Result<Option<Template>, TemplateError> {
        self.chosen_hash(choice)?
            .map(|hash| self.load(&hash))
            .transpose()
    }

    /// Returns the hash of the template that was chosen, which may not be there.
    ///
    /// # Errors
    /// If the store can't be read, or the image's source can't be looked at.
    pub fn chosen_hash(
        &self,
        choice: &TemplateChoice,
    ) -> Result<Option<TemplateHash>, TemplateError> {
        Links::of(self.root()).hash_of(&Self::reference(choice)?)
    }

    pub(crate) fn reference(choice: &TemplateChoice) -> Result<Reference, TemplateError> {
        Ok(match choice {
            TemplateChoice::Default => Reference::Default,
            TemplateChoice::Named(name) => Reference::Name(name.clone()),
            #[cfg(feature = "oci")]
            TemplateChoice::Image(source) => Reference::Image(SourceKey::of(source)?),
        })
    }

    /// Loads a template. Its manifest and the sizes of its files are checked, not their content.
    ///
    /// # Errors
    /// If there is none of that name, or it is damaged, or made for another release.
    pub fn load(&self, hash: &TemplateHash) -> Result<Template, TemplateError> {
        let directory = hash.directory(self.root());
        if !file::exists(&directory)? {
            return Err(self.not_found(hash));
        }
        Template::load(&directory, hash)
    }

    /// Lists all templates, sorted by name.
    ///
    /// # Errors
    /// If the directory can't be read; a template that can't be used is an entry of its own.
    pub fn list(&self) -> Result<Vec<Listed>, TemplateError> {
        let listed = self.0.names()?.into_iter().map(|hash| Listed {
            template: match self.load(&hash) {
                Err(_) if !self.is_ours(&hash) => Err(self.not_ours(&hash)),
                loaded => loaded,
            },
            is_deleted: self.is_deleted(&hash),
            hash,
        });
        Ok(listed.collect())
    }

    /// Waits until no other process builds or deletes in this store, and removes what dead ones
    /// left half-built. The lock ends with the returned value, or with the process.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> Result<flock::Locked, TemplateError> {
        let path = self.root().join(LOCK);
        let file = file::open_lock(&path)?;
        let lock = lock_file(file, waiting).map_err(TemplateError::io("lock", &path))?;
        self.0.sweep(|_, _| Ok::<_, TemplateError>(None))?;
        self.sweep_deleted()?;
        Ok(lock)
    }

    /// Creates a private directory to make a template in, or something else on the way to one.
    pub(crate) fn stage(&self) -> Result<Staging<TemplateHash>, TemplateError> {
        let root = self.0.lock()?;
        Ok(self.0.stage(&root, &Uuid::now_v7().simple().to_string())?)
    }

    /// Returns whether we made the directory of the template `hash`, sound or not. One that can't
    /// be looked at is not ours.
    pub(crate) fn is_ours(&self, hash: &TemplateHash) -> bool {
        let directory = mark::open(&hash.directory(self.root()));
        directory.is_ok_and(|directory| hash.is_ours(&directory).unwrap_or(false))
    }

    pub(crate) fn not_ours(&self, hash: &TemplateHash) -> TemplateError {
        TemplateError::NotOurs {
            path: hash.directory(self.root()),
        }
    }

    pub(crate) fn not_found(&self, hash: &TemplateHash) -> TemplateError {
        TemplateError::NotFound {
            hash: *hash,
            root: self.root().to_owned(),
        }
    }

    /// Gives the complete template in `staging` its name. If the store has it already, that one stays.
    /// The caller holds the lock of builds.
    pub(crate) fn publish(
        &self,
        staging: Staging<TemplateHash>,
        hash: TemplateHash,
    ) -> Result<Template, TemplateError> {
        let intact = match self.load(&hash).and_then(|template| template.verify()) {
            Ok(()) => true,
            Err(TemplateError::NotFound { .. }) => false,
            Err(_) if !self.is_ours(&hash) => return Err(self.not_ours(&hash)),
            Err(error) => {
                tracing::warn!(%error, "a damaged template is replaced");
                self.put_aside(&hash, &staging)?;
                false
            }
        };
        if !intact {
            drop(staging.publish(hash)?);
        }
        self.restore_deleted(&hash)?;
        self.load(&hash)
    }
}

/// Locks `file` for as long as the returned value lives. `waiting` is called if another process has
/// it: a build takes as long as its downloads.
fn lock_file(file: File, waiting: impl FnOnce()) -> io::Result<flock::Locked> {
    if !flock::try_lock(&file, LockKind::Exclusive)? {
        waiting();
        // A signal may come meanwhile.
        while let Err(error) = file.lock() {
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
    Ok(flock::Locked::new(file))
}

#[cfg(test)]
#[cfg(feature = "debian")]
mod tests;
