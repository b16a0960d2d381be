//! Templates with a root from elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use ironclaw_host::untrusted;

use crate::debian::{BuildSpec, read_program};
use crate::error::TemplateError;
use crate::kept_root::Root;
use crate::links::Reference;
use crate::name::TemplateName;
use crate::oci::{LayerStore, RootBuilder, RootSource, SourceKey};
use crate::root_origin::RootOrigin;
use crate::step::Step;
use crate::step_cache::StepCache;
use crate::store::TemplateStore;
use crate::template::Template;

/// Directory of the layers in the store.
const LAYERS: &str = ".layers";
/// Directory of the results of steps in the store.
pub(crate) const STEPS: &str = ".steps";
/// How long the result of a step is kept that no template is made of.
const KEEP_STEPS: Duration = Duration::from_secs(24 * 3600);
/// The image of a root, in the directory where it is made.
const IMAGE: &str = "root-disk";

impl TemplateStore {
    /// Builds a template with a root from `source`, and makes it the default; see
    /// [`build_as`](Self::build_as).
    ///
    /// # Errors
    /// As for [`build_as`](Self::build_as).
    pub fn build_from(
        &self,
        spec: &BuildSpec,
        source: &RootSource,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        self.build_as(None, spec, source, progress)
    }

    /// Builds a template with a root from `source`, and gives it `name`, which it takes from the one that
    /// was built under it before, or else makes it the default. Kernel and agent are those of `spec`.
    /// Layers that no template is made of any more are removed.
    ///
    /// Blocks as [`build`](Self::build) does, and for as long as the root takes.
    ///
    /// # Errors
    /// As for [`build`](Self::build), and if the source can't be used.
    pub fn build_as(
        &self,
        name: Option<&TemplateName>,
        spec: &BuildSpec,
        source: &RootSource,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        let agent = read_program(&spec.agent)?;
        let _lock = self.lock(|| progress(Step::Waiting))?;
        let template = self.build_rooted(spec, agent, source, progress)?;
        let reference = name.cloned().map_or(Reference::Default, Reference::Name);
        self.point(&reference, template.hash())?;
        if let RootSource::Registry(_) = source {
            // The newest that was pulled by that name.
            self.point(&Reference::Image(SourceKey::of(source)?), template.hash())?;
        }
        Ok(template)
    }

    /// Builds while the caller holds the lock, who lets something lead to the template.
    pub(crate) fn build_rooted(
        &self,
        spec: &BuildSpec,
        agent: Vec<u8>,
        source: &RootSource,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        let layers = self.layers()?;
        let staging = self.stage()?;
        let image = staging.path().join(IMAGE);
        let builder = RootBuilder::new(layers.clone(), spec.max_root_bytes)
            .with_access(spec.registry.clone());
        let built = builder.build(source, &image, &mut |step| progress(Step::Root(step)))?;
        let origin = RootOrigin {
            // It is shown on terminals.
            source: untrusted::line(&source.to_string()),
            digest: built.digest,
            layers: built.layers,
            steps: Vec::new(),
            config: built.config,
        };
        let root = Root {
            image: Some(image),
            origin: Some(origin),
            warm: None,
        };
        let template = self.build_with(spec, agent, Some(root), progress)?;
        self.sweep_layers(&layers)?;
        Ok(template)
    }

    /// Removes the layers that no template is made of.
    ///
    /// # Errors
    /// If the store can't be read, or files can't be removed.
    pub fn remove_unused_layers(&self) -> Result<(), TemplateError> {
        if self.root().join(LAYERS).exists() {
            let _lock = self.lock(|| {})?;
            self.sweep_steps(&self.layers()?, Duration::ZERO)?;
        }
        Ok(())
    }

    pub(crate) fn layers(&self) -> Result<LayerStore, TemplateError> {
        Ok(LayerStore::open(&self.root().join(LAYERS))?)
    }

    /// Removes the layers that no template is made of; those of steps stay for a while, for a build
    /// that goes on from them.
    pub(crate) fn sweep_layers(&self, layers: &LayerStore) -> Result<(), TemplateError> {
        self.sweep_steps(layers, KEEP_STEPS)
    }

    fn sweep_steps(&self, layers: &LayerStore, unused_for: Duration) -> Result<(), TemplateError> {
        // Those of a template that can't be loaded are unpacked again when it is built again.
        let templates = self.list()?.into_iter().filter_map(|it| it.template.ok());
        let origins = templates.filter_map(|it| it.manifest().root_origin.clone());
        let mut keep: BTreeSet<_> = origins.flat_map(|origin| origin.layers).collect();
        let steps = self.root().join(STEPS);
        if steps.exists() {
            let kept = StepCache::open(&steps)?.sweep(&keep, unused_for)?;
            keep.extend(kept);
        }
        Ok(layers.remove_all_but(&keep)?)
    }
}
