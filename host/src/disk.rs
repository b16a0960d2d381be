//! Disks that are full.

use std::io::{Error, ErrorKind};

/// Whether that is why something failed: no space, or none for this user.
pub fn is_full(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}
