//! Checks that several kinds of message have in common.

use crate::limits::{MAX_PATH, MAX_USER};
use crate::os_bytes::OsBytes;

/// The error of a message beyond the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutOfBounds(pub(crate) &'static str);

pub(crate) fn check(within: bool, what: &'static str) -> Result<(), OutOfBounds> {
    if within {
        Ok(())
    } else {
        Err(OutOfBounds(what))
    }
}

pub(crate) fn check_mode(mode: u32) -> Result<(), OutOfBounds> {
    check(mode <= 0o7777, "a mode is more than permission bits")
}

pub(crate) fn check_path(path: &OsBytes) -> Result<(), OutOfBounds> {
    let path = path.as_bytes();
    check(
        path.starts_with(b"/"),
        "a path in the guest must be absolute",
    )?;
    check(path.len() <= MAX_PATH, "a path is longer than 4096 bytes")?;
    check(!path.contains(&0), "a path holds a NUL byte")
}

pub(crate) fn check_user(user: &OsBytes) -> Result<(), OutOfBounds> {
    let user = user.as_bytes();
    check(!user.is_empty(), "the name of a user is empty")?;
    check(
        user.len() <= MAX_USER,
        "the name of a user is longer than 256 bytes",
    )?;
    check(!user.contains(&0), "the name of a user holds a NUL byte")
}
