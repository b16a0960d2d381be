//! Follows the steps of a recipe.
//!
//! ```text
//! base ──▶ tree, config ──▶ step ──▶ step ──▶ … ──▶ image ──▶ template
//!                            │ a program: the image so far, booted; what it changed is a layer, which
//!                            └ is merged into the tree, and kept by the step's key
//! ```
//!
//! A step's key is that of what it runs on, and of the step. Whatever fails, the store has neither a
//! template nor a layer of the failed step.

mod following;
mod hashing;
mod identity_files;
mod kitchen;

use std::fs::File;

use crate::debian::{BuildSpec, read_program};
use crate::error::TemplateError;
use crate::guests::Guests;
use crate::links::Reference;
use crate::name::TemplateName;
use crate::recipe::Recipe;
use crate::rooted::STEPS;
use crate::step::Step;
use crate::step_cache::StepCache;
use crate::store::TemplateStore;
use crate::template::Template;
use crate::warm::Warm;
use crate::write::write_boot;
use following::follow;
use kitchen::Kitchen;

impl TemplateStore {
    /// Builds a template by the steps of `recipe`, and gives it `name`, or else makes it the default. Kernel and agent are
    /// those of `spec`; `guests` runs the programs of steps.
    ///
    /// Blocks for as long as that takes. Another build may go on meanwhile.
    ///
    /// # Errors
    /// As for [`build_from`](Self::build_from), and [`TemplateError::Step`] with the step that failed.
    /// The store has what it had before then, and the layers of the steps before.
    pub fn build_recipe(
        &self,
        name: Option<&TemplateName>,
        spec: &BuildSpec,
        recipe: &Recipe,
        guests: &mut dyn Guests,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        let agent = read_program(&spec.agent)?;
        let boot = {
            let _lock = self.lock(|| progress(Step::Waiting))?;
            self.boot_files(spec, agent, progress)?
        };
        let staging = self.stage()?;
        write_boot(&boot.content(), staging.path())?;
        let layers = self.layers()?;
        let kitchen = Kitchen {
            store: self,
            boot: &boot,
            directory: staging.path(),
            layers: layers.clone(),
            steps: StepCache::open(&self.root().join(STEPS))?,
            max_root_bytes: spec.max_root_bytes,
            registry: &spec.registry,
        };
        let made = follow(&kitchen, recipe, guests, progress)?;
        let mut warm = (!made.warm.is_empty()).then(|| Warm::new(made.warm));
        if warm.is_some() {
            progress(Step::Warming);
            let template = kitchen.template(made.root.clone(), warm.clone())?;
            let memory = guests.warm(&template).map_err(TemplateError::Warm)?;
            if let Some(warm) = &mut warm {
                warm.memory = Some(memory);
            }
        }
        progress(Step::Publishing);
        let manifest = kitchen.manifest(made.root, warm)?;
        if manifest.root_disk.is_some() {
            let image = staging.path().join(Template::ROOT_DISK);
            let synced = File::open(&image).and_then(|file| file.sync_all());
            synced.map_err(TemplateError::io("sync", &image))?;
        }
        let _lock = self.lock(|| progress(Step::Waiting))?;
        let template = self.publish(staging, manifest.hash)?;
        let reference = name.cloned().map_or(Reference::Default, Reference::Name);
        self.point(&reference, template.hash())?;
        self.sweep_layers(&layers)?;
        Ok(template)
    }
}

#[cfg(test)]
mod tests;
