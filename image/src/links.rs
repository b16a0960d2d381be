//! What leads to templates: the default, names, and what images held when they were built.
//!
//! Each is a symbolic link, which one rename replaces: whoever follows it finds the former template or the
//! new one. A template that nothing leads to any more stays until it is deleted.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use ironclaw_store::file as durable;

use crate::error::TemplateError;
use crate::hash::TemplateHash;
use crate::name::TemplateName;
#[cfg(feature = "oci")]
use crate::oci::SourceKey;

/// The link to the default template, or to a name.
pub(crate) const DEFAULT: &str = "default";
/// The directory of names.
pub(crate) const NAMES: &str = ".names";
/// The directory of what images held.
#[cfg(feature = "oci")]
const IMAGES: &str = ".images";

/// Something that leads to a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    Default,
    Name(TemplateName),
    #[cfg(feature = "oci")]
    Image(SourceKey),
}

/// Where a link leads.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Template(TemplateHash),
    Name(TemplateName),
}

impl Reference {
    /// The link's path below the store's directory.
    fn path(&self) -> PathBuf {
        match self {
            Self::Default => PathBuf::from(DEFAULT),
            Self::Name(name) => Path::new(NAMES).join(name.as_str()),
            #[cfg(feature = "oci")]
            Self::Image(key) => Path::new(IMAGES).join(key.to_string()),
        }
    }
}

impl Target {
    fn parse(text: &Path) -> Result<Self, TemplateError> {
        // Links in a directory below lead back.
        let text = text.strip_prefix("..").unwrap_or(text);
        if let Ok(name) = text.strip_prefix(NAMES)
            && let Ok(name) = name.to_string_lossy().parse()
        {
            return Ok(Self::Name(name));
        }
        Ok(Self::Template(text.to_string_lossy().parse()?))
    }
}

/// The links of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Links<'a> {
    /// The store's directory.
    root: &'a Path,
}

impl<'a> Links<'a> {
    pub(crate) fn of(root: &'a Path) -> Self {
        Self { root }
    }

    fn target(self, reference: &Reference) -> Result<Option<Target>, TemplateError> {
        let link = self.root.join(reference.path());
        match fs::read_link(&link) {
            Ok(target) => Target::parse(&target).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TemplateError::io("read link", &link)(error)),
        }
    }

    /// Returns the name that `reference` leads to, if it does so by one.
    pub(crate) fn name_of(
        self,
        reference: &Reference,
    ) -> Result<Option<TemplateName>, TemplateError> {
        Ok(match self.target(reference)? {
            Some(Target::Name(name)) => Some(name),
            _ => None,
        })
    }

    /// Returns the template that `reference` leads to, which may not be there.
    pub(crate) fn hash_of(
        self,
        reference: &Reference,
    ) -> Result<Option<TemplateHash>, TemplateError> {
        let target = match self.target(reference)? {
            Some(Target::Name(name)) => self.target(&Reference::Name(name))?,
            target => target,
        };
        Ok(match target {
            Some(Target::Template(hash)) => Some(hash),
            // A name of a name is none of ours.
            _ => None,
        })
    }

    /// Lists the names and where they lead, sorted.
    pub(crate) fn names(self) -> Result<Vec<(TemplateName, TemplateHash)>, TemplateError> {
        let mut names = Vec::new();
        // Whatever else is there is none of ours.
        for name in self.entries::<TemplateName>(NAMES)? {
            if let Ok(Some(hash)) = self.hash_of(&Reference::Name(name.clone())) {
                names.push((name, hash));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Returns what is named in a directory of links.
    fn entries<T: std::str::FromStr>(self, directory: &str) -> Result<Vec<T>, TemplateError> {
        let directory = self.root.join(directory);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TemplateError::io("list", &directory)(error)),
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| name.to_string_lossy().parse().ok())
            .collect())
    }

    /// Lets a link lead to a template, at once or not at all, by way of a directory for the new one.
    pub(crate) fn point(
        self,
        scratch: &Path,
        reference: &Reference,
        hash: &TemplateHash,
    ) -> Result<(), TemplateError> {
        self.link(scratch, reference, &Target::Template(*hash))
    }

    /// Lets a link lead to a name.
    pub(crate) fn follow(
        self,
        scratch: &Path,
        reference: &Reference,
        name: &TemplateName,
    ) -> Result<(), TemplateError> {
        self.link(scratch, reference, &Target::Name(name.clone()))
    }

    fn link(
        self,
        scratch: &Path,
        reference: &Reference,
        target: &Target,
    ) -> Result<(), TemplateError> {
        if self.target(reference)?.as_ref() == Some(target) {
            return Ok(());
        }
        let target = match target {
            Target::Template(hash) => PathBuf::from(hash.to_string()),
            Target::Name(name) => Path::new(NAMES).join(name.as_str()),
        };
        let link = self.root.join(reference.path());
        let directory = link.parent().unwrap_or(self.root);
        let target = if directory == self.root {
            target
        } else {
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(directory);
            made.map_err(TemplateError::io("create the directory", directory))?;
            Path::new("..").join(target)
        };
        let new = scratch.join("link");
        symlink(&target, &new).map_err(TemplateError::io("create link", &new))?;
        fs::rename(&new, &link).map_err(TemplateError::io("replace", &link))?;
        durable::sync_directory(directory).map_err(TemplateError::io("sync", directory))
    }

    pub(crate) fn unlink(self, reference: &Reference) -> Result<(), TemplateError> {
        let link = self.root.join(reference.path());
        match fs::remove_file(&link) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(TemplateError::io("remove", &link)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes whatever leads to a template.
    pub(crate) fn unlink_all(self, hash: &TemplateHash) -> Result<(), TemplateError> {
        let names = self.names()?.into_iter();
        let mut all: Vec<_> = names.map(|(name, _)| Reference::Name(name)).collect();
        #[cfg(feature = "oci")]
        all.extend(self.entries(IMAGES)?.into_iter().map(Reference::Image));
        // First, since it may lead there by a name.
        all.insert(0, Reference::Default);
        for reference in all {
            // One that can't be read leads nowhere.
            if self.hash_of(&reference).ok().flatten().as_ref() == Some(hash) {
                self.unlink(&reference)?;
            }
        }
        Ok(())
    }
}
