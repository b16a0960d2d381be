//! What a template is built of, as a recipe.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use ironclaw_orchestrator::template::TemplateName;
use ironclaw_orchestrator::template::oci::RootSource;
use ironclaw_orchestrator::template::recipe::{
    Action, Base, Context, Copy, Dockerfile, DockerfileSteps, Planned, Recipe, Step as RecipeStep,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::problem::{Kind, Problem};
use crate::builds;
use crate::causes::causes;
use crate::new_sandbox::check_env;
use crate::templates::{TemplateError, Templates};
use crate::uploads::{Files, Uploads};

/// Steps of one build, at most.
const MAX_STEPS: usize = 1000;

/// The shell of a step.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The name of a client's Dockerfile in messages.
const DOCKERFILE: &str = "Dockerfile";

/// A request for a template.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BuildRequest {
    /// The name that leads to it, also if it led elsewhere before.
    #[schema(example = "app")]
    pub(super) name: String,
    /// What it begins with: the name of a template, `minimal`, `scratch`, or an image in a registry,
    /// `docker://[REGISTRY/]NAME[:TAG][@DIGEST]`. `minimal` by default. No file of the host.
    #[schema(example = "docker://debian:12")]
    from: Option<String>,
    /// The text of a Dockerfile, in place of `from`: its steps come first.
    dockerfile: Option<String>,
    /// Values of its `ARG`s.
    #[serde(default)]
    build_args: BTreeMap<String, String>,
    /// The id of an upload whose files are copied: that is used up.
    context: Option<String>,
    /// Steps, 1,000 at most.
    #[serde(default)]
    steps: Vec<BuildStep>,
}

/// A step.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum BuildStep {
    /// A command for `/bin/sh`, in a VM of the image so far: what it changes is kept.
    Run(String),
    /// Copies files of the context.
    Copy(BuildCopy),
    /// Variables of later steps, and of commands in VMs of the template.
    Env(BTreeMap<String, String>),
    /// The user of later steps and of commands: `USER[:GROUP]`, names or numbers.
    User(String),
    /// The directory of later steps and of commands.
    Workdir(String),
    /// A command before the snapshot, and again in each clone that is kept warm.
    Warm(String),
}

/// Files to be copied.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BuildCopy {
    /// A path or a pattern in the context.
    from: String,
    /// Where they go; a directory, if it ends in `/`.
    to: String,
    /// Their owner, `USER[:GROUP]`; root by default.
    owner: Option<String>,
    /// Their permission bits, in octal; by default those that they have.
    mode: Option<String>,
}

impl BuildStep {
    /// Returns it as it is shown.
    fn text(&self) -> String {
        let text = match self {
            Self::Run(script) => format!("run {script}"),
            Self::Copy(copy) => format!("copy {} {}", copy.from, copy.to),
            Self::Env(env) => {
                let pairs = env.iter().map(|(name, value)| format!(" {name}={value}"));
                format!("env{}", pairs.collect::<String>())
            }
            Self::User(user) => format!("user {user}"),
            Self::Workdir(path) => format!("workdir {path}"),
            Self::Warm(script) => format!("warm {script}"),
        };
        text.replace(char::is_control, " ")
    }

    /// Returns why it is none, in words.
    fn check(&self) -> Result<(), Problem> {
        let has_nul = |text: &String| text.contains('\0');
        let texts = match self {
            Self::Run(text) | Self::User(text) | Self::Workdir(text) | Self::Warm(text) => {
                vec![text]
            }
            Self::Copy(copy) => vec![&copy.from, &copy.to],
            Self::Env(env) => return Ok(check_env(env)?),
        };
        if texts.iter().any(|text| text.is_empty() || has_nul(text)) {
            return Err(Problem::invalid("it is empty, or holds a NUL"));
        }
        Ok(())
    }

    fn action(self) -> Result<Action, Problem> {
        let in_shell = |script: String| {
            let shell = SHELL.map(str::to_owned);
            shell.into_iter().chain([script]).collect()
        };
        self.check()?;
        Ok(match self {
            Self::Run(script) => Action::Run {
                argv: in_shell(script),
                env: Vec::new(),
            },
            Self::Copy(BuildCopy {
                from,
                to,
                owner,
                mode,
            }) => {
                let bad = |_| Problem::invalid("mode has permission bits in octal, such as 755");
                let mode = mode.map(|mode| u32::from_str_radix(&mode, 8).map_err(bad));
                let mut copy = Copy::new(from, to);
                copy.owner = owner;
                copy.mode = mode.transpose()?;
                Action::Copy(copy)
            }
            Self::Env(env) => Action::Env(env.into_iter().collect()),
            Self::User(user) => Action::User(user),
            Self::Workdir(path) => Action::Workdir(path),
            Self::Warm(script) => Action::Warm(in_shell(script)),
        })
    }
}

impl BuildRequest {
    /// Returns the name that the template gets.
    pub(super) fn name(&self) -> Result<TemplateName, Problem> {
        let name = self.name.parse::<TemplateName>();
        let name = name.map_err(|error| Problem::invalid(error.to_string()))?;
        if name.is_minimal() {
            return Err(Problem::invalid(
                "the template \"minimal\" is what others begin with: give this one another name",
            ));
        }
        let begins = self.from.is_some() || self.dockerfile.is_some();
        if !begins && Recipe::built_in(&name).is_some() {
            return Err(Problem::invalid(format!(
                "say by \"from\" what {:?} begins with: the recipe that IronClaw has for it installs Debian's \
                 packages on the host, by `ironclaw template build {name}` there",
                self.name
            )));
        }
        Ok(name)
    }

    /// Returns what the steps begin with. Never a file of the host, and nothing that runs programs there.
    fn base(&self, templates: &Templates) -> Result<Base, Problem> {
        let from = match (&self.from, &self.dockerfile) {
            (Some(_), Some(_)) => {
                return Err(Problem::invalid(
                    "a template begins with \"from\", or with the FROM of \"dockerfile\", not both",
                ));
            }
            (None, None) if !self.build_args.is_empty() => {
                return Err(Problem::invalid(
                    "\"build_args\" are those of a \"dockerfile\"",
                ));
            }
            (None, None) => return Ok(Base::Minimal),
            (Some(from), None) => from.clone(),
            (None, Some(text)) => {
                let dockerfile = Dockerfile::parse(text, &self.build_args);
                let dockerfile = dockerfile.map_err(|error| in_dockerfile(&error))?;
                dockerfile.from().to_owned()
            }
        };
        match templates.base(&from) {
            Ok(base) => return Ok(base),
            Err(TemplateError::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let none = |_: &str| None;
        let base = match &self.dockerfile {
            Some(_) => Base::of_dockerfile(&from, none),
            None => Base::parse(OsStr::new(&from), none),
        };
        match base {
            Ok(Base::Source(RootSource::Registry(image))) => {
                Ok(Base::Source(RootSource::Registry(image)))
            }
            Ok(Base::Source(_)) => Err(Problem::new(
                Kind::Forbidden,
                format!(
                    "{from:?} is for the daemon's own machine, by `ironclaw template build` there; here a template \
                     begins with another one, with minimal, scratch, or an image in a registry (docker://NAME)"
                ),
            )),
            Ok(base) => Ok(base),
            Err(error) => Err(Problem::invalid(error.to_string())),
        }
    }

    /// Makes a recipe of it. Reads and writes files: not for the async runtime's threads.
    pub(super) fn plan(
        self,
        templates: &Templates,
        uploads: &Uploads,
    ) -> Result<builds::Planned, Problem> {
        if self.steps.len() > MAX_STEPS {
            return Err(Problem::invalid(format!(
                "a template has {MAX_STEPS} steps at most"
            )));
        }
        let mut recipe = Recipe::new(self.base(templates)?);
        let mut numbers = Vec::new();
        let of = self.steps.len();
        for (index, step) in self.steps.into_iter().enumerate() {
            let number = index + 1;
            let text = format!("step {number} of {of}: {}", step.text());
            let action = step.action().map_err(|problem| {
                Problem::new(problem.kind, format!("{text}: {}", problem.detail))
            })?;
            numbers.push((text.clone(), number));
            recipe.steps.push(Planned {
                step: RecipeStep::new(text, action),
                context: None,
            });
        }
        // Last of all, so that nothing of it stays if the rest is refused.
        let copies = |planned: &Planned| matches!(planned.step.action, Action::Copy(_));
        let needs_files = self.dockerfile.is_some() || recipe.steps.iter().any(copies);
        let root = match &self.context {
            Some(id) => Some(unpacked(uploads, id)?),
            None if needs_files => {
                let empty = uploads.empty();
                Some(empty.map_err(|error| Problem::internal(&error))?)
            }
            None => None,
        };
        if let Some(root) = &root {
            let context = Context::open(root).map_err(|error| {
                tracing::warn!(%error, "a client's files can't be used");
                // Nobody is going to use them.
                let _ = std::fs::remove_dir_all(root);
                Problem::invalid("the context has a .dockerignore that can't be read")
            });
            let context = Arc::new(context?);
            for planned in recipe.steps.iter_mut().filter(|planned| copies(planned)) {
                planned.context = Some(Arc::clone(&context));
            }
            recipe.dockerfile = self.dockerfile.map(|text| DockerfileSteps {
                name: DOCKERFILE.to_owned(),
                text,
                args: self.build_args,
                context,
            });
        }
        Ok(builds::Planned {
            recipe,
            numbers,
            files: root.into_iter().collect(),
        })
    }
}

fn in_dockerfile(error: &dyn std::error::Error) -> Problem {
    Problem::invalid(format!("{DOCKERFILE}, {}", causes(error)))
}

/// Unpacks an upload.
fn unpacked(uploads: &Uploads, id: &str) -> Result<PathBuf, Problem> {
    let files = Files::parse(id).filter(|files| uploads.has(files));
    let none = || Problem::not_found(format!("there is no upload {id:?}: send it again"));
    uploads.unpack(&files.ok_or_else(none)?).map_err(|error| {
        tracing::warn!(%error, "a client's files can't be unpacked");
        Problem::invalid(format!(
            "the upload {id:?} is no archive that can be used: regular files, directories and symbolic links, \
             within the archive"
        ))
    })
}
