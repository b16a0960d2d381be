//! Shows progress on standard error: a spinner on a terminal, lines elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ironclaw_orchestrator::template::Step;
use ironclaw_orchestrator::template::oci::RootStep;
use ironclaw_orchestrator::vm::{Progress, Stage};

use crate::error_chain::for_users;
use crate::streams::Stderr;

const SPINNER_INTERVAL: Duration = Duration::from_millis(100);

/// Shows stages until it is dropped or [`clear`](Self::clear) is called.
#[derive(Debug, Clone)]
pub struct Reporter(Arc<Spinner>);

#[derive(Debug)]
struct Spinner {
    on_terminal: bool,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
enum Shown {
    /// No stage yet: a quick run shows nothing.
    Nothing,
    Turning(ProgressBar),
    /// The terminal belongs to somebody else.
    Ended,
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Reporter {
    /// Creates one that shows nothing yet.
    pub fn new() -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Self(Arc::new(Spinner {
            on_terminal,
            shown: Mutex::new(Shown::Nothing),
        }))
    }

    /// Returns a callback for the library.
    pub fn progress(&self) -> Progress {
        let reporter = self.clone();
        Arc::new(move |stage: &Stage| reporter.stage(&stage.to_string(), is_long(stage)))
    }

    /// Shows a step of a template's build.
    pub fn step(&self, step: &Step) {
        self.stage(&step.to_string(), is_long_step(step));
    }

    /// Shows the next stage; without a spinner, only if it is `long`.
    pub fn stage(&self, text: &str, long: bool) {
        let text = &*for_users(text);
        let mut shown = self.0.shown();
        match &*shown {
            Shown::Ended => {}
            Shown::Turning(bar) => bar.set_message(text.to_owned()),
            Shown::Nothing if self.0.on_terminal => {
                let bar = spinner();
                bar.set_message(text.to_owned());
                *shown = Shown::Turning(bar);
            }
            Shown::Nothing if long => note(text),
            Shown::Nothing => {}
        }
    }

    /// Removes the spinner until the next stage.
    pub fn clear(&self) {
        let mut shown = self.0.shown();
        if let Shown::Turning(bar) = &*shown {
            bar.finish_and_clear();
            *shown = Shown::Nothing;
        }
    }

    /// Removes the spinner for good: all further output belongs to others.
    pub fn finish(&self) {
        let before = std::mem::replace(&mut *self.0.shown(), Shown::Ended);
        if let Shown::Turning(bar) = before {
            bar.finish_and_clear();
        }
    }
}

/// Prints a line on standard error. Ignores errors: without a reader the work goes on.
pub fn note(text: &str) {
    // In one write, so that the output of others does not come in between.
    let _ = Stderr.write_all(format!("ironclaw: {text}\n").as_bytes());
}

impl Spinner {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Shown::Turning(bar) = &*self.shown() {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    // The template is a constant; an invalid one would leave indicatif's default.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(SPINNER_INTERVAL);
    bar
}

fn is_long(stage: &Stage) -> bool {
    match stage {
        Stage::Template(step) => is_long_step(step),
        Stage::BootingTemplate | Stage::StillBooting { .. } | Stage::WaitingForSnapshot(_) => true,
        _ => false,
    }
}

fn is_long_step(step: &Step) -> bool {
    let pulls = matches!(
        step,
        Step::Root(RootStep::Pulling { bytes: 0, .. } | RootStep::Installing { .. })
    );
    pulls || matches!(step, Step::Waiting | Step::Downloading { .. })
}
