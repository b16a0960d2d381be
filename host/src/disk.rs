//! Recognizes full disks.

use std::io::{Error, ErrorKind};

/// Returns whether `error` means that there is no space left, or none for this user (quota).
pub fn is_full(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}
