//! `ironclaw template build` with steps.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ironclaw_console::output::blocking;
use ironclaw_console::progress::{self, Reporter};
use ironclaw_console::streams::Stderr;
use ironclaw_orchestrator::template::recipe::{
    Action, Base, Context, Copy, Dockerfile, DockerfileSteps, Planned, Recipe, Step as RecipeStep,
};
use ironclaw_orchestrator::template::{BuildSpec, Step, Template, TemplateStore};
use ironclaw_orchestrator::vm::{Config, TemplateGuests, find_guest_agent};

use crate::misuse::Misuse;
use crate::steps::{DockerfileOptions, StepOption};
use crate::template_args::BuildTask;
use crate::which::{Begin, Which};

/// The shell of a step that is given as an option.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// The name of a Dockerfile in a directory.
const DOCKERFILE: &str = "Dockerfile";
/// Characters of a file's name that a pattern has another meaning for.
const SPECIAL: [char; 4] = ['*', '?', '[', '\\'];

/// Returns whether the options are a recipe, and not a source alone.
pub(super) fn is_one(task: &BuildTask) -> bool {
    let begins_with_template = matches!(task.from, Some(Begin::Which(_)));
    begins_with_template
        || !task.steps.0.is_empty()
        || task.dockerfile.file.is_some()
        || built_in(task).is_some()
}

/// Returns the recipe that IronClaw has for a template of that name, unless something else is asked for.
pub(super) fn built_in(task: &BuildTask) -> Option<Recipe> {
    let is_asked = task.from.is_some() || task.dockerfile.file.is_some();
    let name = task.name.as_ref().filter(|_| !is_asked)?;
    Recipe::built_in(name)
}

/// Follows the steps, and shows them and what their programs print on standard error.
pub(super) async fn build(config: &Config, task: BuildTask) -> Result<Template> {
    if let Some(name) = task.name.as_ref().filter(|name| name.is_minimal()) {
        return Err(Misuse::Taken(name.clone()).into());
    }
    let reporter = Reporter::new();
    let shown = reporter.clone();
    let print = move |bytes: &[u8]| {
        shown.clear();
        // As other output there: nobody may listen.
        let _ = Stderr.write_all(bytes);
    };
    let mut guests = TemplateGuests::new(config, reporter.progress(), Box::new(print))
        .timeout(task.dockerfile.step_timeout);
    // If a signal ends us, the VM ends, and so does the thread, which removes its files.
    let _end = guests.ended_on_drop();
    let (config, watcher) = (config.clone(), reporter.clone());
    let template = blocking(move || -> Result<_> {
        let store = TemplateStore::open(&config.template_path)?;
        let built_in = built_in(&task);
        let BuildTask {
            name,
            from,
            include,
            steps,
            dockerfile,
            registry,
        } = task;
        let mut recipe = match built_in {
            Some(recipe) => recipe,
            None => recipe_of(from, &dockerfile, &store)?,
        };
        recipe = recipe.with_packages(include)?;
        for step in steps.0 {
            recipe.steps.push(planned(step)?);
        }
        let source = match &recipe.base {
            Base::Source(source) => Some(source),
            _ => None,
        };
        let spec = BuildSpec {
            max_root_bytes: config.max_root_bytes(),
            ..BuildSpec::new(find_guest_agent(&config)?)
        };
        let spec = spec.with_registry(registry.access(&config, source));
        let tell = &mut |step: Step| match step {
            Step::Following { .. } => {
                watcher.clear();
                progress::note(&step.to_string());
            }
            step => watcher.step(&step),
        };
        Ok(store.build_recipe(name.as_ref(), &spec, &recipe, &mut guests, tell)?)
    })
    .await?;
    reporter.clear();
    Ok(template)
}

/// Returns what the steps follow that are given one by one.
fn recipe_of(
    from: Option<Begin>,
    dockerfile: &DockerfileOptions,
    store: &TemplateStore,
) -> Result<Recipe> {
    match &dockerfile.file {
        Some(file) => of_dockerfile(file, dockerfile, store),
        None => Ok(Recipe::new(match from {
            Some(begin) => begin.base(store)?,
            None => Base::Minimal,
        })),
    }
}

fn of_dockerfile(
    file: &Path,
    options: &DockerfileOptions,
    store: &TemplateStore,
) -> Result<Recipe> {
    let file = if file.is_dir() {
        file.join(DOCKERFILE)
    } else {
        file.to_owned()
    };
    let name = file.display().to_string();
    let text = fs::read_to_string(&file).with_context(|| format!("can't read {name}"))?;
    let args: BTreeMap<_, _> = options.build_args.iter().cloned().collect();
    let from = {
        let dockerfile = Dockerfile::parse(&text, &args);
        dockerfile.with_context(|| name.clone())?.from().to_owned()
    };
    let find = |text: &str| text.parse::<Which>().ok()?.hash(store).ok();
    let base = Base::of_dockerfile(&from, find).with_context(|| format!("{name}, FROM"))?;
    let parent = file.parent().filter(|path| *path != Path::new(""));
    let root = options.context.as_deref().or(parent);
    let context = Context::open(root.unwrap_or(Path::new(".")))?;
    let mut recipe = Recipe::new(base);
    recipe.dockerfile = Some(DockerfileSteps {
        name,
        text,
        args,
        context: Arc::new(context),
    });
    Ok(recipe)
}

/// Makes a step of an option.
fn planned(option: StepOption) -> Result<Planned> {
    let mut context = None;
    let in_shell = |script: &str| {
        let shell = SHELL.map(str::to_owned);
        shell.into_iter().chain([script.to_owned()]).collect()
    };
    let (text, action) = match option {
        StepOption::Run(script) => (
            format!("--run {script}"),
            Action::Run {
                argv: in_shell(&script),
                env: Vec::new(),
            },
        ),
        StepOption::Warm(script) => (format!("--warm {script}"), Action::Warm(in_shell(&script))),
        StepOption::Copy(from, to) => {
            let text = format!("--copy {}:{to}", from.display());
            let (root, source) = of_host(&from)?;
            context = Some(Arc::new(Context::open(&root)?));
            (text, Action::Copy(Copy::new(source, to)))
        }
        StepOption::Env(name, value) => (
            format!("--env {name}={value}"),
            Action::Env(vec![(name, value)]),
        ),
        StepOption::User(user) => (format!("--user {user}"), Action::User(user)),
        StepOption::Workdir(path) => (format!("--workdir {path}"), Action::Workdir(path)),
    };
    Ok(Planned {
        step: RecipeStep::new(text, action),
        context,
    })
}

/// Returns the directory that a file is copied out of, and its name there: of a directory, all that is
/// in it.
fn of_host(path: &Path) -> Result<(PathBuf, String)> {
    let about = || format!("can't copy {}", path.display());
    if fs::metadata(path).with_context(about)?.is_dir() {
        return Ok((path.to_owned(), ".".to_owned()));
    }
    let path = fs::canonicalize(path).with_context(about)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::NotFound)).with_context(about);
    };
    let name = name
        .to_str()
        .context("its name is no UTF-8")
        .with_context(about)?;
    let mut source = String::with_capacity(name.len());
    for c in name.chars() {
        if SPECIAL.contains(&c) {
            source.push('\\');
        }
        source.push(c);
    }
    Ok((parent.to_owned(), source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        task: BuildTask,
    }

    fn steps(words: &[&str]) -> Vec<StepOption> {
        let words = ["build", "x"].iter().chain(words);
        Line::try_parse_from(words).unwrap().task.steps.0
    }

    #[test]
    fn steps_are_followed_in_the_order_in_which_they_are_given() {
        let words =
            "--run a --env A=b --run c --user me --copy /x:y:/z --warm d --workdir /w --run e";
        let words: Vec<_> = words.split(' ').collect();
        let run = |script: &str| StepOption::Run(script.to_owned());
        assert_eq!(
            steps(&words),
            [
                run("a"),
                StepOption::Env("A".to_owned(), "b".to_owned()),
                run("c"),
                StepOption::User("me".to_owned()),
                StepOption::Copy("/x:y".into(), "/z".to_owned()),
                StepOption::Warm("d".to_owned()),
                StepOption::Workdir("/w".to_owned()),
                run("e"),
            ]
        );
    }

    #[test]
    fn a_file_is_copied_whatever_its_name_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a*[b]");
        fs::write(&path, "").unwrap();
        fs::write(directory.path().join("aXb"), "").unwrap();
        let (root, source) = of_host(&path).unwrap();
        let context = Context::open(&root).unwrap();
        let copy = Copy::new(source, "/to".to_owned());
        assert_eq!(context.select(&copy, false).unwrap().len(), 1);
        assert_eq!(of_host(directory.path()).unwrap().1, ".");
        assert!(of_host(Path::new("/nonexistent")).is_err());
    }
}
