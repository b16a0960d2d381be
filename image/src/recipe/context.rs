//! The context: the directory whose files `COPY` may name.
//!
//! Nothing outside of it is read: sources are looked up beneath it, and no symbolic link is followed.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use thiserror::Error;
use walkdir::WalkDir;

use super::ignore::{Ignore, cleaned, glob};
use super::{Copy, CopySource};

/// The file with the patterns of what steps do not see.
const IGNORE_FILE: &str = ".dockerignore";
/// Size limit of that file, in bytes.
const MAX_IGNORE_FILE: u64 = 256 * 1024;
/// Limit of the files of one copy.
const MAX_FILES: usize = 1_000_000;

/// The reason why files can't be copied out of a context.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The operating system refused something.
    #[error("can't read {path}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A pattern in `.dockerignore` or of a copy is malformed.
    #[error("{what}: {reason}")]
    Pattern {
        /// The file or the pattern.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A source matches nothing, or nothing that `.dockerignore` lets through.
    #[error("there is no {source_path} in {root}{hint}", root = .root.display())]
    NotFound {
        /// The source.
        source_path: String,
        /// The context's directory.
        root: PathBuf,
        /// What to look at, if something was found that may not be copied.
        hint: &'static str,
    },
    /// A file that no image has: a socket, a pipe or a device.
    #[error("{path} is neither a file nor a directory nor a symbolic link", path = .0.display())]
    Special(PathBuf),
    /// One copy has too many files.
    #[error("a copy has at most {MAX_FILES} files")]
    TooMany,
    /// Something in the image is in the way.
    #[error("can't put a file at {to}: {reason}", to = .to.display())]
    Place {
        /// The file's place.
        to: PathBuf,
        /// What is in the way.
        reason: String,
    },
    /// Several files, and a place for one.
    #[error("{pattern} matches {count} files: the destination has to end in /")]
    Several {
        /// The source.
        pattern: String,
        /// What it matches.
        count: usize,
    },
}

/// A directory whose files can be copied into images.
#[derive(Debug)]
pub struct Context {
    root: PathBuf,
    directory: OwnedFd,
    ignore: Ignore,
}

/// A file to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selected {
    /// Its place in the image, an absolute path.
    pub to: PathBuf,
    /// What it is.
    pub kind: SelectedKind,
    /// Its permissions, without the type.
    pub mode: u32,
    /// The time of its last change, in seconds since 1970-01-01 00:00:00 UTC.
    pub modified: i64,
}

/// What a file to be copied is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelectedKind {
    /// A directory; its files follow on their own.
    Directory,
    /// A file of the context.
    File {
        /// Its path relative to the context.
        path: PathBuf,
    },
    /// A file given in the recipe.
    Inline(String),
    /// A symbolic link.
    Symlink(PathBuf),
}

impl Context {
    /// Opens the directory `root` and reads its `.dockerignore`, if there is one.
    ///
    /// # Errors
    /// [`ContextError::Io`] or [`ContextError::Pattern`].
    pub fn open(root: &Path) -> Result<Self, ContextError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, root, flags, Mode::empty()).map_err(|errno| {
            let source = errno.into();
            let path = root.to_owned();
            ContextError::Io { path, source }
        })?;
        let mut context = Self {
            root: root.to_owned(),
            directory,
            ignore: Ignore::default(),
        };
        let path = root.join(IGNORE_FILE);
        match context.file(Path::new(IGNORE_FILE)) {
            Ok(file) => {
                let mut text = String::new();
                file.take(MAX_IGNORE_FILE)
                    .read_to_string(&mut text)
                    .map_err(|source| ContextError::Io {
                        path: path.clone(),
                        source,
                    })?;
                let ignore = Ignore::parse(&text).map_err(|reason| ContextError::Pattern {
                    what: path.display().to_string(),
                    reason,
                });
                context.ignore = ignore?;
            }
            Err(ContextError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(context)
    }

    /// Returns the context's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a file of the context; `path` is relative to it.
    ///
    /// # Errors
    /// [`ContextError::Io`]; also for a path through a symbolic link, or out of the context.
    pub fn file(&self, path: &Path) -> Result<File, ContextError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(self.directory.as_fd(), path, flags, Mode::empty(), beneath)
            .map(File::from)
            .map_err(|errno| ContextError::Io {
                path: self.root.join(path),
                source: errno.into(),
            })
    }

    /// Returns what `copy` copies, with directories before what is in them. `is_directory` tells
    /// whether its destination is a directory of the image already.
    ///
    /// # Errors
    /// [`ContextError`] with the first source that can't be copied.
    pub fn select(&self, copy: &Copy, is_directory: bool) -> Result<Vec<Selected>, ContextError> {
        let into_directory = is_directory || copy.to.ends_with('/');
        let to = Path::new(&copy.to);
        let mut selected = Vec::new();
        for source in &copy.sources {
            match source {
                CopySource::Inline { name, content } => selected.push(Selected {
                    to: place(to, into_directory, Path::new(name)),
                    kind: SelectedKind::Inline(content.clone()),
                    mode: 0o644,
                    modified: 0,
                }),
                CopySource::Context(pattern) => {
                    let paths = self.matches(pattern)?;
                    if paths.len() > 1 && !into_directory {
                        return Err(ContextError::Several {
                            pattern: pattern.clone(),
                            count: paths.len(),
                        });
                    }
                    for path in paths {
                        self.add(&path, to, into_directory, &mut selected)?;
                    }
                }
            }
            if selected.len() > MAX_FILES {
                return Err(ContextError::TooMany);
            }
        }
        if let Some(mode) = copy.mode {
            for file in &mut selected {
                if file.kind != SelectedKind::Directory {
                    file.mode = mode;
                }
            }
        }
        Ok(selected)
    }

    /// Returns the paths that a source names.
    fn matches(&self, pattern: &str) -> Result<Vec<PathBuf>, ContextError> {
        let clean = cleaned(pattern);
        if !clean.contains(['*', '?', '[', '\\']) {
            let path = PathBuf::from(&clean);
            let found = self.lookup(&path)?;
            let shown = found && (!self.ignore.excludes(&path) || self.ignore.readmits_any());
            return if shown {
                Ok(vec![path])
            } else {
                Err(self.missing(pattern, found))
            };
        }
        let matcher = glob(&clean).map_err(|reason| ContextError::Pattern {
            what: pattern.to_owned(),
            reason,
        })?;
        let depth = Path::new(&clean).components().count();
        let mut hidden = false;
        let mut paths = Vec::new();
        // `**` in a source is two `*` for Docker: a pattern matches at one depth.
        for entry in self.walk(Path::new("")).min_depth(depth).max_depth(depth) {
            let path = self.relative(entry)?;
            if matcher.is_match(&path) {
                if self.ignore.excludes(&path) && !self.ignore.readmits_any() {
                    hidden = true;
                } else {
                    paths.push(path);
                }
            }
        }
        if paths.is_empty() {
            return Err(self.missing(pattern, hidden));
        }
        Ok(paths)
    }

    fn missing(&self, pattern: &str, is_hidden: bool) -> ContextError {
        ContextError::NotFound {
            source_path: pattern.to_owned(),
            root: self.root.clone(),
            hint: if is_hidden {
                ": .dockerignore excludes it"
            } else {
                ""
            },
        }
    }

    /// Returns whether there is such a path, beneath the context and not through a link.
    fn lookup(&self, path: &Path) -> Result<bool, ContextError> {
        let Some(parent) = path.parent() else {
            return Ok(true);
        };
        if parent != Path::new("") {
            match self.file(parent) {
                Ok(_) => {}
                Err(ContextError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        match fs::symlink_metadata(self.root.join(path)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(ContextError::Io {
                path: self.root.join(path),
                source,
            }),
        }
    }

    fn walk(&self, path: &Path) -> WalkDir {
        WalkDir::new(self.root.join(path))
            .follow_root_links(false)
            .sort_by_file_name()
    }

    fn relative(
        &self,
        entry: Result<walkdir::DirEntry, walkdir::Error>,
    ) -> Result<PathBuf, ContextError> {
        let entry = entry.map_err(|error| ContextError::Io {
            path: error.path().unwrap_or(&self.root).to_owned(),
            source: error.into(),
        })?;
        let path = entry.path().strip_prefix(&self.root);
        Ok(path.unwrap_or(entry.path()).to_owned())
    }

    /// Adds what is at `path`: a directory's content goes into the destination.
    fn add(
        &self,
        path: &Path,
        to: &Path,
        into_directory: bool,
        selected: &mut Vec<Selected>,
    ) -> Result<(), ContextError> {
        for entry in self.walk(path) {
            let found = self.relative(entry)?;
            let inside = found.strip_prefix(path).unwrap_or(&found);
            let host = self.root.join(&found);
            let io = |source| ContextError::Io {
                path: host.clone(),
                source,
            };
            let metadata = fs::symlink_metadata(&host).map_err(io)?;
            let is_root = inside == Path::new("");
            let file_type = metadata.file_type();
            if found != Path::new("") && !file_type.is_dir() && self.ignore.excludes(&found) {
                continue;
            }
            let kind = if file_type.is_dir() {
                if self.ignore.excludes(&found) && !self.ignore.readmits_any() {
                    continue;
                }
                SelectedKind::Directory
            } else if file_type.is_symlink() {
                SelectedKind::Symlink(fs::read_link(&host).map_err(io)?)
            } else if file_type.is_file() {
                SelectedKind::File {
                    path: found.clone(),
                }
            } else {
                return Err(ContextError::Special(host));
            };
            let place = match (&kind, is_root) {
                // Without the slash at its end.
                (SelectedKind::Directory, true) => to.components().collect(),
                (_, true) => {
                    let name = found.file_name().map(Path::new);
                    place(to, into_directory, name.unwrap_or(&found))
                }
                (_, false) => to.join(inside),
            };
            selected.push(Selected {
                to: place,
                kind,
                mode: metadata.mode() & 0o7777,
                modified: metadata.mtime(),
            });
            if selected.len() > MAX_FILES {
                return Err(ContextError::TooMany);
            }
        }
        Ok(())
    }
}

fn place(to: &Path, into_directory: bool, name: &Path) -> PathBuf {
    if into_directory {
        to.join(name)
    } else {
        to.to_owned()
    }
}

#[cfg(test)]
mod tests;
