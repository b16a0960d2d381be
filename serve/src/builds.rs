//! Templates that clients have built: one after the other, by the steps of a recipe.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ironclaw_orchestrator::template::recipe::{ContextError, Recipe, StepFailure};
use ironclaw_orchestrator::template::{
    BuildSpec, Step, TemplateError, TemplateName, TemplateStore,
};
use ironclaw_orchestrator::vm::{Config, Progress, TemplateGuests, find_guest_agent};

use crate::causes::causes;
use crate::templates::Templates;

/// Builds that are known, of which the oldest ones that are over are forgotten.
const MAX_BUILDS: usize = 100;

/// Lines that are kept of a build's log, and the bytes of one.
const MAX_LINES: usize = 10_000;
const MAX_LINE: usize = 4096;

/// How far a build is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BuildState {
    /// It was asked for, and its files may come.
    Asked,
    /// Another one is being built.
    Waiting,
    Building,
    Ready,
    Failed(BuildFailure),
}

/// The reason why there is no template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BuildFailure {
    /// The step that failed, counted from 1; `None`: what it begins with.
    pub(crate) step: Option<usize>,
    pub(crate) message: String,
}

/// A line of a build's log.
#[derive(Debug, Clone)]
pub(crate) struct LogLine {
    pub(crate) at: SystemTime,
    pub(crate) text: String,
}

/// A build.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) id: String,
    /// The name without a tag.
    pub(crate) template: String,
    /// The names that lead to what is built.
    pub(crate) names: Vec<TemplateName>,
    state: Mutex<BuildState>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    lines: Vec<LogLine>,
    /// What came since the last end of a line.
    begun: String,
}

/// What a build does.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) recipe: Recipe,
    /// The text of each of its steps, and which of the client's steps that is of, counted from 1.
    pub(crate) numbers: Vec<(String, usize)>,
    /// What came of the client's files, to be removed afterwards.
    pub(crate) files: Vec<PathBuf>,
}

/// The builds of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Builds(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    templates: Templates,
    table: Mutex<VecDeque<Arc<Build>>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Build {
    pub(crate) fn state(&self) -> BuildState {
        self.lock_state().clone()
    }

    /// Returns up to `limit` lines of its log, from `offset` on.
    pub(crate) fn log(&self, offset: usize, limit: usize) -> Vec<LogLine> {
        let log = self.lock_log();
        log.lines.iter().skip(offset).take(limit).cloned().collect()
    }

    /// Begins, if it was only asked for so far.
    fn begin(&self) -> bool {
        let mut state = self.lock_state();
        let is_new = *state == BuildState::Asked;
        if is_new {
            *state = BuildState::Waiting;
        }
        is_new
    }

    fn set(&self, state: BuildState) {
        *self.lock_state() = state;
    }

    fn print(&self, bytes: &[u8]) {
        self.lock_log().print(&String::from_utf8_lossy(bytes));
    }

    fn tell(&self, text: &str) {
        let mut log = self.lock_log();
        log.end_line();
        log.print(text);
        log.end_line();
    }

    fn lock_state(&self) -> MutexGuard<'_, BuildState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Adds what a program prints, which may be anything: without what would drive a terminal.
    fn print(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\n' => self.end_line(),
                '\t' => self.begun.push(c),
                c if c.is_control() => {}
                c => self.begun.push(c),
            }
            if self.begun.len() >= MAX_LINE {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let text = std::mem::take(&mut self.begun);
        if !text.is_empty() && self.lines.len() < MAX_LINES {
            let at = SystemTime::now();
            self.lines.push(LogLine { at, text });
        }
    }
}

impl Builds {
    pub(crate) fn new(templates: Templates) -> Self {
        Self(Arc::new(Inner {
            templates,
            table: Mutex::default(),
            one_at_a_time: tokio::sync::Mutex::default(),
        }))
    }

    /// Makes a build that is begun later; `None` if too many are there that are not over.
    pub(crate) fn ask(
        &self,
        id: String,
        template: String,
        names: Vec<TemplateName>,
    ) -> Option<Arc<Build>> {
        let build = Arc::new(Build {
            id,
            template,
            names,
            state: Mutex::new(BuildState::Asked),
            log: Mutex::default(),
        });
        let mut table = self.lock();
        if table.len() >= MAX_BUILDS {
            let over = |build: &Arc<Build>| {
                let state = build.state();
                !matches!(state, BuildState::Waiting | BuildState::Building)
            };
            let oldest = table.iter().position(over)?;
            table.remove(oldest);
        }
        table.push_back(Arc::clone(&build));
        Some(build)
    }

    pub(crate) fn find(&self, template: &str, id: &str) -> Option<Arc<Build>> {
        let is_it = |build: &&Arc<Build>| build.id == id && build.template == template;
        self.lock().iter().find(is_it).cloned()
    }

    /// Begins a build in the background; `false` if it was begun before.
    pub(crate) fn begin(&self, build: Arc<Build>, planned: Planned) -> bool {
        if !build.begin() {
            return false;
        }
        let builds = self.clone();
        tokio::spawn(async move {
            let _alone = builds.0.one_at_a_time.lock().await;
            build.set(BuildState::Building);
            let state = builds.run(&build, planned).await;
            build.set(state);
        });
        true
    }

    async fn run(&self, build: &Arc<Build>, planned: Planned) -> BuildState {
        let templates = &self.0.templates;
        let (config, printed) = (templates.config().clone(), Arc::clone(build));
        let quiet: Progress = Arc::new(|_| {});
        let output = Box::new(move |bytes: &[u8]| printed.print(bytes));
        let guests = TemplateGuests::new(&config, quiet, output);
        // If the daemon ends, the VM ends, and so does the thread, which removes its files.
        let _end = guests.ended_on_drop();
        let told = Arc::clone(build);
        let built = tokio::task::spawn_blocking(move || follow(&config, &told, planned, guests));
        match built.await {
            Ok(Ok(())) => {
                tracing::info!(template = %build.template, build = build.id, "a template is built");
                BuildState::Ready
            }
            Ok(Err(failure)) => {
                build.tell(&failure.message);
                BuildState::Failed(failure)
            }
            // The runtime shuts down.
            Err(_) => BuildState::Failed(BuildFailure {
                step: None,
                message: "the daemon ended".to_owned(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Build>>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follow(
    config: &Config,
    build: &Build,
    planned: Planned,
    mut guests: TemplateGuests,
) -> Result<(), BuildFailure> {
    let Planned {
        recipe,
        numbers,
        files,
    } = planned;
    let mut build_it = || -> Result<(), BuildFailure> {
        let hidden = |error: &dyn std::error::Error| {
            tracing::error!(%error, template = %build.template, "a template can't be built");
            BuildFailure {
                step: None,
                message: "the template can't be built; the daemon's log has the reason".to_owned(),
            }
        };
        let agent = find_guest_agent(config).map_err(|error| hidden(&error))?;
        let mut spec = BuildSpec::new(agent).with_registry(config.registry_access());
        spec.max_root_bytes = config.max_root_bytes();
        let store = TemplateStore::open(&config.template_path).map_err(|error| hidden(&error))?;
        let mut last = String::new();
        let tell = &mut |step: Step| match step {
            // It has the number of the client's step, of which there may be several here.
            Step::Following { text, .. } if text == last => {}
            Step::Following {
                text, is_cached, ..
            } => {
                build.tell(&match is_cached {
                    true => format!("{text} (cached)"),
                    false => text.clone(),
                });
                last = text;
            }
            step => build.tell(&step.to_string()),
        };
        let (first, others) = match build.names.split_first() {
            Some((first, others)) => (Some(first), others),
            None => (None, [].as_slice()),
        };
        match store.build_recipe(first, &spec, &recipe, &mut guests, tell) {
            Ok(built) => {
                let named = |name| store.set_name(name, built.hash());
                others
                    .iter()
                    .try_for_each(named)
                    .map_err(|error| hidden(&error))
            }
            Err(error) => match told(&error, &numbers) {
                Some(failure) => Err(failure),
                None => Err(hidden(&error)),
            },
        }
    };
    let built = build_it();
    for path in files {
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(%error, path = %path.display(), "a client's files stay on the disk");
        }
    }
    built
}

/// Returns what a client is told of a failure: nothing of the host's files.
fn told(error: &TemplateError, numbers: &[(String, usize)]) -> Option<BuildFailure> {
    match error {
        TemplateError::Step { step, .. } => {
            let number = numbers.iter().find(|(text, _)| *text == step.text);
            let reason = match &step.reason {
                StepFailure::Context(ContextError::NotFound { source_path, .. }) => {
                    format!("there is no {source_path} among the files that were uploaded")
                }
                StepFailure::Context(_) => "its files can't be copied".to_owned(),
                other => causes(other),
            };
            Some(BuildFailure {
                step: number.map(|(_, number)| *number),
                message: format!("{}: {reason}", step.text),
            })
        }
        TemplateError::Source(_) | TemplateError::Base { .. } => Some(BuildFailure {
            step: None,
            message: causes(error),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_whole_lines_without_what_drives_a_terminal() {
        let mut log = Log::default();
        log.print("on");
        log.print("e\u{1b}[31m\r\ntwo\n\n");
        log.print(&"x".repeat(2 * MAX_LINE + 1));
        log.end_line();
        let lines: Vec<_> = log.lines.iter().map(|line| line.text.len()).collect();
        assert_eq!(log.lines[0].text, "one[31m");
        assert_eq!(lines, [7, 3, MAX_LINE, MAX_LINE, 1]);
        for _ in 0..2 * MAX_LINES {
            log.print("x\n");
        }
        assert_eq!(log.lines.len(), MAX_LINES);
    }
}
