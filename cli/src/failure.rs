//! Reports failures in place of results.

use anyhow::Error;
use ironclaw_console::{causes, output, progress};
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
    /// The output of a command until the failure, if there was to be one.
    #[serde(flatten)]
    output: Option<Output>,
}

/// Prints the error, with `json` also on standard output for programs that read JSON there; returns
/// the exit code.
pub(crate) fn tell(error: &Error, json: bool) -> u8 {
    if json {
        print_all(
            causes(error.as_ref()),
            exit::name(error),
            exit::code(error),
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
    print_all(error.to_owned(), None, exit_code, None);
}

fn print_all(error: String, kind: Option<&'static str>, exit_code: u8, output: Option<Output>) {
    // If this fails, too, standard error and the exit code remain.
    let _ = output::json(&Failure {
        error,
        kind,
        exit_code,
        output,
    });
}
