//! What a client wants a template to be made of, as a recipe.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use ironclaw_orchestrator::template::oci::RootSource;
use ironclaw_orchestrator::template::recipe::{Action, Base, Context, Copy, Planned, Recipe, Step};
use serde::Deserialize;
use serde_json::Value;

use super::failure::Failure;
use super::network::asks_for_something;
use super::shapes::untagged;
use crate::builds;
use crate::templates::{TemplateError, Templates};
use crate::uploads::{Files, Uploads};

/// Steps of one build, at most.
const MAX_STEPS: usize = 1000;

/// The image that E2B's SDKs begin with where nothing else is asked for: the template `base` here.
const BASE_IMAGE: &str = "e2bdev/base";
const BASE: &str = "base";

/// Runs a step's command as E2B does, by a shell that reads the user's profile, and by bash where it is.
const SHELL: [&str; 3] = [
    "/bin/sh",
    "-c",
    "if [ -x /bin/bash ]; then exec /bin/bash -l -c \"$0\"; fi; exec /bin/sh -l -c \"$0\"",
];

/// The variable by which a step is another one each time.
const BUILD: &str = "IRONCLAW_BUILD";

/// The user of an image that names none.
const ROOT: &str = "root";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BuildRequest {
    from_image: Option<String>,
    from_template: Option<String>,
    from_image_registry: Option<Value>,
    force: bool,
    steps: Vec<Instruction>,
    start_cmd: Option<String>,
    ready_cmd: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Instruction {
    #[serde(rename = "type")]
    kind: String,
    args: Vec<String>,
    force: Option<bool>,
    files_hash: Option<String>,
}

fn refused(field: &str, reason: &str) -> Failure {
    Failure::bad_request(format!("the field {field:?} can't be served: {reason}"))
}

impl BuildRequest {
    /// Refuses by name what can't be had.
    fn check(&self) -> Result<(), Failure> {
        let registry = self.from_image_registry.as_ref();
        if registry.is_some_and(asks_for_something) {
            let reason =
                "registries are logged in to by `docker login` or `podman login` on the host";
            return Err(refused("fromImageRegistry", reason));
        }
        let starts = [("startCmd", &self.start_cmd), ("readyCmd", &self.ready_cmd)];
        for (name, value) in starts {
            if value.as_ref().is_some_and(|command| !command.is_empty()) {
                let reason = "nothing but the agent runs in a template; start it in the sandbox";
                return Err(refused(name, reason));
            }
        }
        if self.steps.len() > MAX_STEPS {
            return Err(Failure::bad_request(format!(
                "a template has {MAX_STEPS} steps at most"
            )));
        }
        Ok(())
    }

    /// Returns what it begins with. Never a file of the host.
    fn base(&self, templates: &Templates) -> Result<Base, Failure> {
        let of_template = |name: &str| match templates.base(untagged(name)) {
            Ok(base) => Ok(base),
            Err(error @ TemplateError::Unknown(_)) => Err(Failure::bad_request(error.to_string())),
            Err(error) => Err(Failure::internal(&error, "the template can't be looked up")),
        };
        match (&self.from_image, &self.from_template) {
            (Some(image), None) => {
                let (name, tag) = image.split_once(':').unwrap_or((image, "latest"));
                if name == BASE_IMAGE && tag == "latest" {
                    return of_template(BASE);
                }
                let source = RootSource::parse(format!("docker://{image}").as_ref());
                let bad = |_| Failure::bad_request(format!("{image:?} is no name of an image"));
                source.map(Base::Source).map_err(bad)
            }
            (None, Some(name)) => of_template(name),
            _ => Err(Failure::bad_request(
                "a template begins with either \"fromImage\" or \"fromTemplate\"",
            )),
        }
    }

    /// Makes a recipe of it. `id` is that of the build. Reads and writes files: not for the async
    /// runtime's threads.
    pub(super) fn plan(
        self,
        id: &str,
        templates: &Templates,
        uploads: &Uploads,
    ) -> Result<builds::Planned, Failure> {
        self.check()?;
        let mut planning = Planning {
            planned: builds::Planned {
                recipe: Recipe::new(self.base(templates)?),
                numbers: Vec::new(),
                files: Vec::new(),
            },
            id,
            uploads,
            contexts: HashMap::new(),
            user: None,
            of: self.steps.len(),
        };
        let mut forced = self.force;
        for (index, step) in self.steps.into_iter().enumerate() {
            forced |= step.force.unwrap_or(false);
            if let Err(failure) = planning.add(index + 1, step, forced) {
                // Nobody is going to use them.
                for path in &planning.planned.files {
                    let _ = std::fs::remove_dir_all(path);
                }
                return Err(failure);
            }
        }
        Ok(planning.planned)
    }
}

struct Planning<'a> {
    planned: builds::Planned,
    id: &'a str,
    uploads: &'a Uploads,
    contexts: HashMap<String, (Arc<Context>, PathBuf)>,
    /// The user that a step has set.
    user: Option<String>,
    of: usize,
}

impl Planning<'_> {
    fn add(&mut self, number: usize, step: Instruction, forced: bool) -> Result<(), Failure> {
        let Instruction { kind, args, .. } = &step;
        let text = format!("step {number} of {}: {kind} {}", self.of, args.join(" "));
        let text = text.replace(char::is_control, " ");
        let bad = || Failure::bad_request(format!("{text:?} has not the arguments expected"));
        let arg = |index: usize| args.get(index).filter(|arg| !arg.is_empty());
        match kind.as_str() {
            "RUN" => {
                let command = arg(0).ok_or_else(bad)?;
                let argv = SHELL.iter().map(|&part| part.to_owned());
                let argv = argv.chain([command.clone()]).collect();
                let env = match forced {
                    true => vec![(BUILD.to_owned(), self.id.to_owned())],
                    false => Vec::new(),
                };
                let run = Action::Run { argv, env };
                match arg(1).filter(|user| self.user.as_ref() != Some(user)) {
                    Some(user) => {
                        let before = self.user.clone().unwrap_or_else(|| ROOT.to_owned());
                        self.push(number, &text, Action::User(user.clone()), None);
                        self.push(number, &text, run, None);
                        self.push(number, &text, Action::User(before), None);
                    }
                    None => self.push(number, &text, run, None),
                }
            }
            "COPY" => {
                let (from, to) = (arg(0).ok_or_else(bad)?, arg(1).ok_or_else(bad)?);
                let (context, root) = self.context(&step)?;
                let is_several = from.contains(['*', '?', '[']) || root.join(from).is_dir();
                let to = match is_several && !to.ends_with('/') {
                    true => format!("{to}/"),
                    false => to.clone(),
                };
                let mut copy = Copy::new(from.clone(), to);
                copy.owner = arg(2).cloned().or_else(|| self.user.clone());
                copy.mode = match arg(3) {
                    Some(mode) => Some(u32::from_str_radix(mode, 8).map_err(|_| bad())?),
                    None => None,
                };
                self.push(number, &text, Action::Copy(copy), Some(context));
            }
            "ENV" => {
                if args.is_empty() || args.len() % 2 != 0 {
                    return Err(bad());
                }
                let pairs = args.chunks_exact(2);
                let pairs = pairs.map(|pair| (pair[0].clone(), pair[1].clone()));
                self.push(number, &text, Action::Env(pairs.collect()), None);
            }
            "WORKDIR" => {
                let path = arg(0).ok_or_else(bad)?.clone();
                self.push(number, &text, Action::Workdir(path), None);
            }
            "USER" => {
                let user = arg(0).ok_or_else(bad)?.clone();
                self.user = Some(user.clone());
                self.push(number, &text, Action::User(user), None);
            }
            other => {
                return Err(Failure::bad_request(format!(
                    "a step {other:?} can't be served: there are COPY, ENV, RUN, USER and WORKDIR"
                )));
            }
        }
        Ok(())
    }

    fn push(&mut self, number: usize, text: &str, action: Action, context: Option<Arc<Context>>) {
        let step = Step::new(text.to_owned(), action);
        self.planned.recipe.steps.push(Planned { step, context });
        self.planned.numbers.push((text.to_owned(), number));
    }

    /// Unpacks the files of a copy.
    fn context(&mut self, step: &Instruction) -> Result<(Arc<Context>, PathBuf), Failure> {
        let hash = step.files_hash.as_deref().unwrap_or_default();
        if let Some(found) = self.contexts.get(hash) {
            return Ok(found.clone());
        }
        let files = Files::parse(hash).filter(|files| self.uploads.has(files));
        let missing = || Failure::bad_request(format!("the files {hash:?} were not uploaded"));
        let root = self.uploads.unpack(&files.ok_or_else(missing)?);
        let root = root.map_err(|error| {
            tracing::warn!(%error, "a client's files can't be unpacked");
            Failure::bad_request(format!(
                "the files {hash:?} are no archive that can be used"
            ))
        })?;
        self.planned.files.push(root.clone());
        let context = Context::open(&root).map_err(|error| {
            tracing::warn!(%error, "a client's files can't be used");
            Failure::bad_request("the files have a .dockerignore that can't be read")
        })?;
        let found = (Arc::new(context), root);
        self.contexts.insert(hash.to_owned(), found.clone());
        Ok(found)
    }
}
