//! Templates that are built when they are wanted.

use crate::choice::TemplateChoice;
use crate::debian::{BuildSpec, read_program};
use crate::error::TemplateError;
use crate::hash::TemplateHash;
use crate::links::{Links, Reference};
use crate::name::TemplateName;
#[cfg(feature = "oci")]
use crate::oci::SourceKey;
use crate::step::Step;
use crate::store::TemplateStore;
use crate::template::Template;

impl TemplateStore {
    /// Returns the template that is wanted if its agent is that of `spec`; otherwise builds it: one whose
    /// root is on a disk with that root, an image that is not here yet from its source, and a minimal one
    /// as [`build`](Self::build) does. Of many processes that come at once, one builds.
    ///
    /// # Errors
    /// As for [`build`](Self::build); [`TemplateError::NoSuchName`] for a name that nothing has; and if
    /// the source can't be used.
    pub fn build_if_missing(
        &self,
        spec: &BuildSpec,
        wanted: &TemplateChoice,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        // Read first: the most likely mistakes should not cost a download.
        let agent = read_program(&spec.agent)?;
        let reference = Self::reference(wanted)?;
        let _lock = self.lock(|| progress(Step::Waiting))?;
        let links = Links::of(self.root());
        let found = links.hash_of(&reference)?;
        if let Some(hash) = found
            && let Ok(template) = self.load(&hash)
            && (template.is_imported() || template.has_agent(&spec.agent)?)
        {
            return Ok(template);
        }
        // A default that has a name moves with it.
        let name = links.name_of(&reference)?;
        let reference = name.map_or(reference, Reference::Name);
        let kept = found.map_or(Ok(None), |hash| self.root_of(&hash));
        #[cfg(feature = "oci")]
        if let (TemplateChoice::Image(source), Reference::Image(key), Err(_) | Ok(None)) =
            (wanted, &reference, &kept)
        {
            let template = self.build_rooted(spec, agent, source, progress)?;
            // What was built may be newer than what was looked at.
            if SourceKey::of(source)? == *key {
                self.point(&reference, template.hash())?;
            }
            return Ok(template);
        }
        let kept = kept?;
        if let (None, Reference::Name(name)) = (&kept, &reference)
            && !name.is_minimal()
        {
            return Err(self.not_usable(name, found));
        }
        let is_minimal = kept.is_none();
        let template = self.build_with(spec, agent, kept, progress)?;
        if is_minimal && reference == Reference::Default {
            self.point_minimal(template.hash())?;
        } else {
            self.point(&reference, template.hash())?;
        }
        Ok(template)
    }

    /// Why a template of this name, which nobody here can build again, is not used.
    fn not_usable(&self, name: &TemplateName, found: Option<TemplateHash>) -> TemplateError {
        let error = found.and_then(|hash| self.load(&hash).err());
        error.unwrap_or_else(|| self.no_such_name(name))
    }
}
