//! Formats an error with its causes.

use std::error::Error;

/// Returns `error` and its causes in one line, without a cause that the text before it contains
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
    text
}
