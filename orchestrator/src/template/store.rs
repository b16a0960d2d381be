//! The directory that holds the templates.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::staging::{self, Staging};
use super::{Step, Template, TemplateError, TemplateHash, debian, file};
use crate::mark::{self, Mark};
use crate::state_path::{self, PathError};

/// Templates on disk. Any number of processes may use one directory at a time.
#[derive(Debug, Clone)]
pub struct TemplateStore {
    root: PathBuf,
    is_read_only: bool,
}

/// An entry of [`TemplateStore::list`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Listed {
    /// The name.
    pub hash: TemplateHash,
    /// The template, or why it can't be used.
    pub template: Result<Template, TemplateError>,
}

const DEFAULT: &str = "default";
const LOCK: &str = ".lock";
const CACHE: &str = ".cache";

impl TemplateStore {
    /// Opens the store in `root`, which is created with mode 0700 if it does not exist.
    ///
    /// # Errors
    /// If the directory can't be created or read, or other users than root could change what is in
    /// it, or put another directory in its place.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, TemplateError> {
        let root = root.into();
        // VMMs get paths below it, and they run in other directories: this one is absolute.
        let found = match state_path::make(&root) {
            Ok(found) => found,
            Err(PathError::Io(source)) => return Err(TemplateError::RootUnusable { root, source }),
            Err(PathError::Exposed(exposed)) => {
                return Err(TemplateError::RootExposed {
                    path: exposed.directory(&root),
                    component: exposed.component,
                    owner: exposed.owner,
                    mode: exposed.mode,
                });
            }
        };
        let is_writable = found.is_writable();
        let is_writable = is_writable.map_err(TemplateError::io("inspect", &found.path))?;
        Ok(Self {
            root: found.path,
            is_read_only: !is_writable,
        })
    }

    /// Whether what is here can be used and nothing can be built: it is root's, or the file system
    /// is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// The store's directory, as an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The template that was built last; `None` if there was none yet.
    ///
    /// # Errors
    /// As [`load`](Self::load); see [`TemplateError::needs_rebuild`].
    pub fn default_template(&self) -> Result<Option<Template>, TemplateError> {
        self.default_hash()?
            .map(|hash| self.load(&hash))
            .transpose()
    }

    /// Loads a template. Its manifest and the sizes of its files are checked, not their content.
    ///
    /// # Errors
    /// If there is none of that name, or it is damaged, or made for another release.
    pub fn load(&self, hash: &TemplateHash) -> Result<Template, TemplateError> {
        let directory = self.directory(hash);
        if !file::exists(&directory)? {
            return Err(TemplateError::NotFound {
                hash: hash.clone(),
                root: self.root.clone(),
            });
        }
        Template::load(&directory, hash)
    }

    /// All templates, sorted by name.
    ///
    /// # Errors
    /// If the directory can't be read; a template that can't be used is an entry of its own.
    pub fn list(&self) -> Result<Vec<Listed>, TemplateError> {
        let mut hashes = Vec::new();
        for entry in debian::entries(&self.root)? {
            if let Ok(hash) = entry.file_name().to_string_lossy().parse::<TemplateHash>() {
                hashes.push(hash);
            }
        }
        hashes.sort();
        let listed = hashes.into_iter().map(|hash| Listed {
            template: match self.load(&hash) {
                Err(_) if !self.is_ours(&hash) => Err(self.not_ours(&hash)),
                loaded => loaded,
            },
            hash,
        });
        Ok(listed.collect())
    }

    /// Deletes a template. Snapshots made from it stay usable: they hold all they need.
    ///
    /// # Errors
    /// [`TemplateError::NotFound`], [`TemplateError::NotOurs`], or if files can't be removed.
    pub fn delete(&self, hash: &TemplateHash) -> Result<(), TemplateError> {
        let _lock = self.lock(|| {})?;
        let directory = self.directory(hash);
        if !file::exists(&directory)? {
            return Err(TemplateError::NotFound {
                hash: hash.clone(),
                root: self.root.clone(),
            });
        }
        if !self.is_ours(hash) {
            return Err(self.not_ours(hash));
        }
        if self.default_hash()?.as_ref() == Some(hash) {
            let link = self.root.join(DEFAULT);
            fs::remove_file(&link).map_err(TemplateError::io("remove", &link))?;
        }
        // Out of sight at once, and swept by the next build if this process dies half-way.
        let staging = Staging::create(&self.root)?;
        let doomed = staging.path().join("deleted");
        fs::rename(&directory, &doomed).map_err(TemplateError::io("move away", &directory))?;
        file::sync_directory(&self.root)?;
        fs::remove_dir_all(&doomed).map_err(TemplateError::io("remove", &doomed))
    }

    /// Waits until no other process builds or deletes in this store, and removes what dead ones
    /// left half-built. The lock ends with the returned file, or with the process.
    pub(super) fn lock(&self, waiting: impl FnOnce()) -> Result<File, TemplateError> {
        let lock = staging::lock_file(&self.root.join(LOCK), waiting)?;
        staging::sweep(&self.root)?;
        Ok(lock)
    }

    /// The directory of downloaded packages, marked if nothing else is in it.
    pub(super) fn cache(&self) -> Result<PathBuf, TemplateError> {
        let cache = self.root.join(CACHE);
        if !file::exists(&cache)? {
            file::create_directory(&cache)?;
        }
        let marked = || {
            let directory = mark::open(&cache)?;
            match mark::read(&directory)? {
                Mark::Bare => mark::put_anew(&directory),
                Mark::Ours | Mark::Foreign => Ok(()),
            }
        };
        marked().map_err(TemplateError::io("write to", &cache))?;
        Ok(cache)
    }

    /// Whether we made the directory of the template `hash`, sound or not. One that can't be looked
    /// at is not.
    fn is_ours(&self, hash: &TemplateHash) -> bool {
        let is_ours = || -> std::io::Result<bool> {
            let directory = mark::open(&self.directory(hash))?;
            Ok(mark::read(&directory)? == Mark::Ours
                || mark::is_named_in(&directory, Template::MANIFEST, "hash", hash.as_str())?)
        };
        is_ours().unwrap_or(false)
    }

    fn not_ours(&self, hash: &TemplateHash) -> TemplateError {
        TemplateError::NotOurs {
            path: self.directory(hash),
        }
    }

    /// Gives the complete template in `built` its name and makes it the default. If the store
    /// has it already, that one stays.
    pub(super) fn publish(
        &self,
        built: &Path,
        hash: &TemplateHash,
        staging: &Staging,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        progress(Step::Publishing);
        let directory = self.directory(hash);
        let intact = match self.load(hash).and_then(|template| template.verify()) {
            Ok(()) => true,
            Err(TemplateError::NotFound { .. }) => false,
            Err(_) if !self.is_ours(hash) => return Err(self.not_ours(hash)),
            Err(error) => {
                tracing::warn!(%error, "a damaged template is replaced");
                let damaged = staging.path().join("damaged");
                fs::rename(&directory, &damaged)
                    .map_err(TemplateError::io("move away", &directory))?;
                false
            }
        };
        if !intact {
            file::sync_directory(built)?;
            fs::rename(built, &directory).map_err(TemplateError::io("create", &directory))?;
            file::sync_directory(&self.root)?;
        }
        if self.default_hash()?.as_ref() != Some(hash) {
            let (new, link) = (staging.path().join(DEFAULT), self.root.join(DEFAULT));
            symlink(hash.as_str(), &new).map_err(TemplateError::io("create link", &new))?;
            fs::rename(&new, &link).map_err(TemplateError::io("replace", &link))?;
            file::sync_directory(&self.root)?;
        }
        self.load(hash)
    }

    fn directory(&self, hash: &TemplateHash) -> PathBuf {
        self.root.join(hash.as_str())
    }

    fn default_hash(&self) -> Result<Option<TemplateHash>, TemplateError> {
        let link = self.root.join(DEFAULT);
        match fs::read_link(&link) {
            Ok(target) => target.to_string_lossy().parse().map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TemplateError::io("read link", &link)(error)),
        }
    }
}

#[cfg(test)]
mod tests;
