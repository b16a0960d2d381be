//! What is printed in place of a report.

use anyhow::Error;
use ironclaw_console::{causes, output, progress};
use serde::Serialize;

use crate::exit;
use crate::printed::Output;

#[derive(Debug, Serialize)]
struct Failure {
    error: String,
    exit_code: u8,
    /// What a command had printed until then, if one was to run.
    #[serde(flatten)]
    output: Option<Output>,
}

/// Says why there is no report, on standard output as well for whoever reads JSON there; returns
/// the exit code.
pub(crate) fn tell(error: &Error, json: bool) -> u8 {
    if json {
        print(&causes(error.as_ref()), exit::code(error));
    }
    say(error)
}

/// The same in JSON, of a command that had printed this until then.
pub(crate) fn tell_beside(output: Output, error: &Error) -> u8 {
    print_all(causes(error.as_ref()), exit::code(error), Some(output));
    say(error)
}

fn say(error: &Error) -> u8 {
    if let Some(text) = exit::text(error) {
        progress::note(&format!("error: {text}"));
    }
    exit::code(error)
}

/// Says on standard output, in JSON, why there is no report.
pub(crate) fn print(error: &str, exit_code: u8) {
    print_all(error.to_owned(), exit_code, None);
}

fn print_all(error: String, exit_code: u8, output: Option<Output>) {
    // If that fails as well, standard error and the exit code are left.
    let _ = output::json(&Failure {
        error,
        exit_code,
        output,
    });
}
