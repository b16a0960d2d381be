//! A recipe: what it begins with, and its steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::absolute::absolute;
use super::context::Context;
use super::{Action, Base, Dockerfile, DockerfileError, Step};
use crate::oci::IncludeError;
use crate::root_origin::ImageConfig;

/// Steps that make a template of something else.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recipe {
    /// What they begin with.
    pub base: Base,
    /// The Dockerfile whose steps come first.
    pub dockerfile: Option<DockerfileSteps>,
    /// Steps given one by one.
    pub steps: Vec<Planned>,
}

/// The steps of a Dockerfile, which depend on the variables of what it begins with.
#[derive(Debug)]
pub struct DockerfileSteps {
    /// Its name, for messages.
    pub name: String,
    /// What is in it.
    pub text: String,
    /// The values of its `ARG`s.
    pub args: BTreeMap<String, String>,
    /// The directory whose files it may copy.
    pub context: Arc<Context>,
}

/// A step, and where its files come from.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The step.
    pub step: Step,
    /// The directory whose files it copies.
    pub context: Option<Arc<Context>>,
}

impl Recipe {
    /// Begins with `base`, and has no steps yet.
    #[must_use]
    pub fn new(base: Base) -> Self {
        Self {
            base,
            dockerfile: None,
            steps: Vec::new(),
        }
    }

    /// Has what it begins with install further packages.
    ///
    /// # Errors
    /// [`IncludeError`]: it begins with what installs none, or one has no name of a package.
    pub fn with_packages(self, packages: Vec<String>) -> Result<Self, IncludeError> {
        let base = self.base.with_packages(packages)?;
        Ok(Self { base, ..self })
    }

    /// Returns whether it has steps that need more than a manifest.
    #[cfg(feature = "debian")]
    pub(crate) fn changes_root(&self) -> bool {
        let changes = |planned: &Planned| !matches!(planned.step.action, Action::Warm(_));
        self.dockerfile.is_some() || self.steps.iter().any(changes)
    }

    /// Returns all steps, on top of an image with this config.
    #[cfg(feature = "debian")]
    pub(crate) fn planned(&self, config: &ImageConfig) -> Result<Vec<Planned>, DockerfileError> {
        let mut planned = Vec::new();
        if let Some(file) = &self.dockerfile {
            let env = config.env.iter().filter_map(|it| it.split_once('='));
            let env: Vec<_> = env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            let workdir = match &*config.working_dir {
                "" => "/",
                path => path,
            };
            let dockerfile = Dockerfile::parse(&file.text, &file.args)?;
            let steps = dockerfile.steps(&env, workdir)?.into_iter();
            planned.extend(steps.map(|step| Planned {
                step,
                context: Some(Arc::clone(&file.context)),
            }));
        }
        let set = planned.iter().rev().find_map(|it| match &it.step.action {
            Action::Workdir(path) => Some(path.clone()),
            _ => None,
        });
        let mut workdir = set.unwrap_or_else(|| config.working_dir.clone());
        for mut given in self.steps.iter().cloned() {
            match &mut given.step.action {
                Action::Workdir(path) => {
                    workdir = absolute(&workdir, path);
                    path.clone_from(&workdir);
                }
                Action::Copy(copy) => {
                    let is_directory = copy.to.ends_with('/') || copy.to == ".";
                    copy.to = absolute(&workdir, &copy.to);
                    if is_directory && !copy.to.ends_with('/') {
                        copy.to.push('/');
                    }
                }
                _ => {}
            }
            planned.push(given);
        }
        Ok(planned)
    }
}
