//! Errors in log events.

use std::error::Error;

/// Wraps an error for a field of an event that shows its causes, too; `%error` would leave them
/// out.
pub(crate) fn with_causes<E: Error + 'static>(error: &E) -> &(dyn Error + 'static) {
    error
}
