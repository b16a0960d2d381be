//! Formats an error with its causes, for the users of a command.

use std::error::Error;

use ironclaw_orchestrator::vm::config::SETTINGS;
use ironclaw_settings::with_variables;

/// Returns a text of the library with the variables of the settings that it names.
pub fn for_users(text: &str) -> String {
    with_variables(text, SETTINGS)
}

/// Returns `error` and its causes in one line, as [`for_users`] has it, without a cause that the text before it contains
/// already.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    for_users(&text)
}
