//! Errors in a log.

use std::error::Error;

/// As a field of an event, where `%error` would tell all but why.
pub(crate) fn with_causes<E: Error + 'static>(error: &E) -> &(dyn Error + 'static) {
    error
}
