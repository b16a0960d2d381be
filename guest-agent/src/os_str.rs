//! Text of the protocol as the operating system takes it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use ironclaw_protocol::os_bytes::OsBytes;

/// Returns the same bytes.
pub(crate) fn os(bytes: &OsBytes) -> &OsStr {
    OsStr::from_bytes(bytes.as_bytes())
}
