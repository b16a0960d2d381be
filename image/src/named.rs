//! Templates by their names.

use crate::choice::TemplateChoice;
use crate::error::TemplateError;
use crate::hash::TemplateHash;
use crate::links::{Links, Reference};
use crate::name::TemplateName;
use crate::store::TemplateStore;

impl TemplateStore {
    /// Returns the hash of the template with this name, which may not be there.
    ///
    /// # Errors
    /// If that can't be read.
    pub fn named_hash(&self, name: &TemplateName) -> Result<Option<TemplateHash>, TemplateError> {
        Links::of(self.root()).hash_of(&Reference::Name(name.clone()))
    }

    /// Returns the name of the default template, if it has one.
    ///
    /// # Errors
    /// If that can't be read.
    pub fn default_name(&self) -> Result<Option<TemplateName>, TemplateError> {
        Links::of(self.root()).name_of(&Reference::Default)
    }

    /// Lists the names and where they lead, sorted.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn names(&self) -> Result<Vec<(TemplateName, TemplateHash)>, TemplateError> {
        Links::of(self.root()).names()
    }

    /// Makes the template with this name the default, also once another is built under the name.
    ///
    /// # Errors
    /// [`TemplateError::NoSuchName`], or if the store can't be written.
    pub fn set_default(&self, name: &TemplateName) -> Result<(), TemplateError> {
        let _lock = self.lock(|| {})?;
        if self.named_hash(name)?.is_none() {
            return Err(self.no_such_name(name));
        }
        let scratch = self.stage()?;
        Links::of(self.root()).follow(scratch.path(), &Reference::Default, name)
    }

    /// Gives a template that is there a name, which it takes from another one.
    ///
    /// # Errors
    /// [`TemplateError::NotFound`], or if the store can't be written.
    pub fn set_name(&self, name: &TemplateName, hash: &TemplateHash) -> Result<(), TemplateError> {
        let _lock = self.lock(|| {})?;
        self.load(hash)?;
        self.point(&Reference::Name(name.clone()), hash)
    }

    /// Removes a name, and returns where it led. The template stays.
    ///
    /// # Errors
    /// [`TemplateError::NoSuchName`], or if the store can't be written.
    pub fn remove_name(&self, name: &TemplateName) -> Result<TemplateHash, TemplateError> {
        let _lock = self.lock(|| {})?;
        let hash = self.named_hash(name)?;
        let hash = hash.ok_or_else(|| self.no_such_name(name))?;
        let links = Links::of(self.root());
        if self.default_name()?.as_ref() == Some(name) {
            links.unlink(&Reference::Default)?;
        }
        links.unlink(&Reference::Name(name.clone()))?;
        Ok(hash)
    }

    /// Refuses a choice of a template that is not there and that nobody can build for it.
    ///
    /// # Errors
    /// [`TemplateError::NoSuchName`].
    pub fn ensure_buildable(&self, choice: &TemplateChoice) -> Result<(), TemplateError> {
        match choice {
            TemplateChoice::Named(name) if !name.is_minimal() => Err(self.no_such_name(name)),
            _ => Ok(()),
        }
    }

    /// Returns the error that no template has this name.
    #[must_use]
    pub fn no_such_name(&self, name: &TemplateName) -> TemplateError {
        let known = self.names().unwrap_or_default();
        let known: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
        TemplateError::NoSuchName {
            name: name.clone(),
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            },
        }
    }

    /// Lets a link lead to a template, at once or not at all. The caller holds the lock of builds.
    pub(crate) fn point(
        &self,
        reference: &Reference,
        hash: &TemplateHash,
    ) -> Result<(), TemplateError> {
        let scratch = self.stage()?;
        Links::of(self.root()).point(scratch.path(), reference, hash)
    }

    /// Makes the name `minimal` lead to a template, and the default to the name. The caller holds the
    /// lock of builds.
    #[cfg(feature = "debian")]
    pub(crate) fn point_minimal(&self, hash: &TemplateHash) -> Result<(), TemplateError> {
        let name = TemplateName::minimal();
        self.point(&Reference::Name(name.clone()), hash)?;
        let scratch = self.stage()?;
        Links::of(self.root()).follow(scratch.path(), &Reference::Default, &name)
    }
}
