//! What is printed in place of a report.

use anyhow::Error;
use serde::Serialize;

use crate::{exit, output, progress};

#[derive(Debug, Serialize)]
struct Failure {
    error: String,
    exit_code: u8,
}

/// Says why there is no report, on standard output as well for whoever reads JSON there; returns
/// the exit code.
pub(crate) fn tell(error: &Error, json: bool) -> u8 {
    let exit_code = exit::code(error);
    if json {
        print(&exit::causes(error.as_ref()), exit_code);
    }
    if let Some(text) = exit::text(error) {
        progress::note(&format!("error: {text}"));
    }
    exit_code
}

/// Says on standard output, in JSON, why there is no report.
pub(crate) fn print(error: &str, exit_code: u8) {
    let error = error.to_owned();
    // If that fails as well, standard error and the exit code are left.
    let _ = output::json(&Failure { error, exit_code });
}
