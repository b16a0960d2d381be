//! What the program is doing, on standard error: a spinner on a terminal, lines elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ironclaw_orchestrator::template::Step;
use ironclaw_orchestrator::vm::{Progress, Stage};

const TICK: Duration = Duration::from_millis(100);

/// Shows stages until it is dropped or told that they are over.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(Arc<Spinner>);

#[derive(Debug)]
struct Spinner {
    on_terminal: bool,
    /// Made at the first stage, so that a quick run shows nothing.
    bar: Mutex<Option<ProgressBar>>,
}

impl Reporter {
    pub(crate) fn new() -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Self(Arc::new(Spinner {
            on_terminal,
            bar: Mutex::new(None),
        }))
    }

    /// For the library.
    pub(crate) fn progress(&self) -> Progress {
        let reporter = self.clone();
        Arc::new(move |stage: &Stage| reporter.stage(&stage.to_string(), is_long(stage)))
    }

    /// Shows a step of a template's build.
    pub(crate) fn step(&self, step: &Step) {
        self.stage(&step.to_string(), is_long_step(step));
    }

    /// Shows what happens next; `long` stages are worth a line where no spinner turns.
    pub(crate) fn stage(&self, text: &str, long: bool) {
        if self.0.on_terminal {
            let mut bar = self.0.bar.lock().unwrap_or_else(PoisonError::into_inner);
            bar.get_or_insert_with(spinner).set_message(text.to_owned());
        } else if long {
            note(text);
        }
    }

    /// Takes the spinner off the terminal.
    pub(crate) fn over(&self) {
        self.0.clear();
    }
}

/// A line on standard error. That nobody reads it is no reason to stop.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "ironclaw: {text}");
}

impl Spinner {
    fn clear(&self) {
        let bar = self
            .bar
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.clear();
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    // The template is fixed; were it wrong, indicatif's own would do.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

fn is_long(stage: &Stage) -> bool {
    match stage {
        Stage::Template(step) => is_long_step(step),
        Stage::BootingTemplate | Stage::WaitingForSnapshot(_) => true,
        _ => false,
    }
}

fn is_long_step(step: &Step) -> bool {
    matches!(step, Step::Waiting | Step::Downloading { .. })
}
