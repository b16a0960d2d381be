//! Reports failures in place of results.

use anyhow::Error;
use ironclaw_console::{causes, output, progress};
use ironclaw_orchestrator::template::TemplateError;
use ironclaw_orchestrator::template::recipe::StepFailure;
use ironclaw_orchestrator::vm::ProgramFailed;
use serde::Serialize;

use crate::exit;
use crate::printed::Output;

#[derive(Debug, Serialize)]
struct Failure {
    error: String,
    /// The kind of a library error.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    exit_code: u8,
    /// The step of a template's recipe that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<Step>,
    /// The output of a command until the failure, if there was to be one.
    #[serde(flatten)]
    output: Option<Output>,
}

/// A step that failed.
#[derive(Debug, Serialize)]
struct Step {
    text: String,
    /// The Dockerfile that it is in, and its line there.
    file: Option<String>,
    line: Option<usize>,
    /// How its program ended; nothing, if that is not the reason.
    status: Option<String>,
    /// The end of what its program printed.
    output: Option<String>,
}

impl Step {
    fn of(error: &Error) -> Option<Self> {
        let Some(TemplateError::Step { file, step }) = error.downcast_ref() else {
            return None;
        };
        let program = match &step.reason {
            StepFailure::Guest(reason) => reason.downcast_ref::<ProgramFailed>(),
            _ => None,
        };
        Some(Self {
            text: step.text.clone(),
            file: file.clone(),
            line: step.line,
            status: program.map(|program| program.status.to_string()),
            output: program.map(|program| program.printed.clone()),
        })
    }
}

/// Prints the error, with `json` also on standard output for programs that read JSON there; returns
/// the exit code.
pub(crate) fn tell(error: &Error, json: bool) -> u8 {
    if json {
        print_all(
            causes(error.as_ref()),
            exit::name(error),
            exit::code(error),
            Step::of(error),
            None,
        );
    }
    say(error)
}

/// Prints the error and the output of a command until then, as JSON; returns the exit code.
pub(crate) fn tell_beside(output: Output, error: &Error) -> u8 {
    print_all(
        causes(error.as_ref()),
        exit::name(error),
        exit::code(error),
        None,
        Some(output),
    );
    say(error)
}

fn say(error: &Error) -> u8 {
    if let Some(text) = exit::text(error) {
        progress::note(&format!("error: {text}"));
    }
    exit::code(error)
}

/// Prints an error on standard output, as JSON.
pub(crate) fn print(error: &str, exit_code: u8) {
    print_all(error.to_owned(), None, exit_code, None, None);
}

fn print_all(
    error: String,
    kind: Option<&'static str>,
    exit_code: u8,
    step: Option<Step>,
    output: Option<Output>,
) {
    // If this fails, too, standard error and the exit code remain.
    let _ = output::json(&Failure {
        error,
        kind,
        exit_code,
        step,
        output,
    });
}
