//! Templates that clients have built: one after the other, by the steps of a recipe.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use ironclaw_orchestrator::template::recipe::{ContextError, Recipe, StepFailure};
use ironclaw_orchestrator::template::{
    BuildSpec, Step, TemplateError, TemplateHash, TemplateName, TemplateStore,
};
use ironclaw_orchestrator::vm::{
    Config, GuestError, ProgramFailed, Progress, TemplateGuests, find_guest_agent,
};
use tokio::sync::watch;

use crate::build_log::{BuildLog, LogLine};
use crate::causes::causes;
use crate::templates::Templates;
use crate::uploads::Uploads;

/// Builds that are known, of which the oldest ones that are over are forgotten.
const MAX_BUILDS: usize = 100;

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
    /// Whether somebody wanted it.
    pub(crate) is_cancelled: bool,
}

impl BuildFailure {
    fn new(message: impl Into<String>) -> Self {
        Self {
            step: None,
            message: message.into(),
            is_cancelled: false,
        }
    }

    fn cancelled() -> Self {
        Self {
            is_cancelled: true,
            ..Self::new("the build was cancelled")
        }
    }
}

impl BuildState {
    /// Returns whether it stays as it is.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Ready | Self::Failed(_))
    }
}

/// A build.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) id: String,
    /// The name without a tag.
    pub(crate) template: String,
    /// The names that lead to what is built.
    pub(crate) names: Vec<TemplateName>,
    pub(crate) asked: SystemTime,
    /// Where its name leads, once it is ready.
    pub(crate) made: OnceLock<TemplateHash>,
    state: Mutex<BuildState>,
    log: Mutex<BuildLog>,
    /// Whether it is to end; changes with the state and the log, too.
    news: watch::Sender<bool>,
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
    uploads: Uploads,
    table: Mutex<VecDeque<Arc<Build>>>,
    one_at_a_time: tokio::sync::Mutex<()>,
}

impl Build {
    pub(crate) fn state(&self) -> BuildState {
        self.lock_state().clone()
    }

    /// Returns up to `limit` lines of its log, from `offset` on.
    pub(crate) fn log(&self, offset: usize, limit: usize) -> Vec<LogLine> {
        self.lock_log().lines(offset, limit)
    }

    /// Returns what changes whenever there is something new to read.
    pub(crate) fn news(&self) -> watch::Receiver<bool> {
        self.news.subscribe()
    }

    /// Has it end; returns false if it is over. What is under way is ended, but for what is fetched or
    /// written at the moment.
    pub(crate) fn cancel(&self) -> bool {
        let mut state = self.lock_state();
        match *state {
            BuildState::Ready | BuildState::Failed(_) => return false,
            BuildState::Asked => *state = BuildState::Failed(BuildFailure::cancelled()),
            BuildState::Waiting | BuildState::Building => {}
        }
        drop(state);
        self.news.send_replace(true);
        true
    }

    /// Resolves when it is to end.
    async fn cancelled(&self) {
        let mut news = self.news();
        // Its sender lives as long as it does.
        let _ = news.wait_for(|is_cancelled| *is_cancelled).await;
    }

    fn is_cancelled(&self) -> bool {
        *self.news.borrow()
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
        self.news.send_modify(|_| {});
    }

    fn print(&self, bytes: &[u8]) {
        self.lock_log().print(&String::from_utf8_lossy(bytes));
        self.news.send_modify(|_| {});
    }

    fn tell(&self, text: &str) {
        self.lock_log().tell(text);
        self.news.send_modify(|_| {});
    }

    fn lock_state(&self) -> MutexGuard<'_, BuildState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_log(&self) -> MutexGuard<'_, BuildLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Builds {
    pub(crate) fn new(templates: Templates, uploads: Uploads) -> Self {
        Self(Arc::new(Inner {
            templates,
            uploads,
            table: Mutex::default(),
            one_at_a_time: tokio::sync::Mutex::default(),
        }))
    }

    /// Returns what clients have sent for builds.
    pub(crate) fn uploads(&self) -> &Uploads {
        &self.0.uploads
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
            asked: SystemTime::now(),
            made: OnceLock::new(),
            state: Mutex::new(BuildState::Asked),
            log: Mutex::default(),
            news: watch::Sender::new(false),
        });
        let mut table = self.lock();
        if table.len() >= MAX_BUILDS {
            let over = |build: &Arc<Build>| {
                let state = build.state();
                state.is_over() || state == BuildState::Asked
            };
            let oldest = table.iter().position(over)?;
            table.remove(oldest);
        }
        table.push_back(Arc::clone(&build));
        Some(build)
    }

    /// Makes a build, and begins it; `None` if too many are there that are not over.
    pub(crate) fn begin_new(
        &self,
        id: String,
        name: TemplateName,
        planned: Planned,
    ) -> Option<Arc<Build>> {
        let template = name.parts().0.to_owned();
        let Some(build) = self.ask(id, template, vec![name]) else {
            remove_unused(planned);
            return None;
        };
        self.begin(Arc::clone(&build), planned);
        Some(build)
    }

    pub(crate) fn find(&self, template: &str, id: &str) -> Option<Arc<Build>> {
        let is_it = |build: &&Arc<Build>| build.id == id && build.template == template;
        self.lock().iter().find(is_it).cloned()
    }

    /// Finds a build by its id alone.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Build>> {
        self.lock().iter().find(|build| build.id == id).cloned()
    }

    /// Lists those that are known, the newest first.
    pub(crate) fn list(&self) -> Vec<Arc<Build>> {
        self.lock().iter().rev().cloned().collect()
    }

    /// Begins a build in the background; `false` if it was begun before.
    pub(crate) fn begin(&self, build: Arc<Build>, planned: Planned) -> bool {
        if !build.begin() {
            return false;
        }
        let builds = self.clone();
        tokio::spawn(async move {
            let turn = tokio::select! {
                biased;
                () = build.cancelled() => None,
                turn = builds.0.one_at_a_time.lock() => Some(turn),
            };
            let state = match turn {
                Some(_turn) => {
                    build.set(BuildState::Building);
                    builds.run(&build, planned).await
                }
                None => {
                    remove_unused(planned);
                    let failure = BuildFailure::cancelled();
                    build.tell(&failure.message);
                    BuildState::Failed(failure)
                }
            };
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
        let end = guests.ended_on_drop();
        let told = Arc::clone(build);
        let mut building =
            tokio::task::spawn_blocking(move || follow(&config, &told, planned, guests));
        let built = tokio::select! {
            biased;
            built = &mut building => built,
            () = build.cancelled() => {
                drop(end);
                building.await
            }
        };
        match built {
            Ok(Ok(hash)) => {
                tracing::info!(template = %build.template, build = build.id, "a template is built");
                let _ = build.made.set(hash);
                BuildState::Ready
            }
            Ok(Err(failure)) => {
                build.tell(&failure.message);
                BuildState::Failed(failure)
            }
            // The runtime shuts down.
            Err(_) => BuildState::Failed(BuildFailure::new("the daemon ended")),
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
) -> Result<TemplateHash, BuildFailure> {
    let Planned {
        recipe,
        numbers,
        files,
    } = planned;
    let mut build_it = || -> Result<TemplateHash, BuildFailure> {
        let hidden = |error: &dyn std::error::Error| {
            let error = causes(error);
            tracing::error!(error, template = %build.template, "a template can't be built");
            BuildFailure::new("the template can't be built; the daemon's log has the reason")
        };
        let agent = find_guest_agent(config).map_err(|error| hidden(&error))?;
        // Clients reach the daemon's machine by what it serves, and not by what it asks.
        let registry = config.registry_access().without_this_machine();
        let mut spec = BuildSpec::new(agent).with_registry(registry);
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
                let named = others.iter().try_for_each(named);
                named.map_err(|error| hidden(&error))?;
                Ok(*built.hash())
            }
            Err(_) if build.is_cancelled() => Err(BuildFailure::cancelled()),
            Err(error) => match told(&error, &numbers) {
                Some(failure) => Err(failure),
                None => Err(hidden(&error)),
            },
        }
    };
    let built = build_it();
    remove(files);
    built
}

/// Removes the files of a build that is not begun, in the background.
fn remove_unused(planned: Planned) {
    drop(tokio::task::spawn_blocking(move || remove(planned.files)));
}

/// Removes what came of a client's files.
fn remove(files: Vec<PathBuf>) {
    for path in files {
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(%error, path = %path.display(), "a client's files stay on the disk");
        }
    }
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
                StepFailure::Guest(failure) => of_guest(&**failure)?,
                other => causes(other),
            };
            Some(BuildFailure {
                step: number.map(|(_, number)| *number),
                ..BuildFailure::new(format!("{step}: {reason}"))
            })
        }
        TemplateError::Warm(failure) => {
            let reason = of_guest(&**failure)?;
            Some(BuildFailure::new(format!("{error}: {reason}")))
        }
        TemplateError::Source(_)
        | TemplateError::Base { .. }
        | TemplateError::Dockerfile { .. } => Some(BuildFailure::new(causes(error))),
        _ => None,
    }
}

/// Returns what the guest itself did; `None` for why there was none, which is the host's affair.
fn of_guest(failure: &(dyn std::error::Error + 'static)) -> Option<String> {
    let is_told = failure.is::<ProgramFailed>() || failure.is::<GuestError>();
    is_told.then(|| causes(failure))
}
