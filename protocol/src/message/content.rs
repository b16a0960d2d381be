//! Requests that carry the content of a file.

use serde::{Deserialize, Serialize};

use crate::bounds::{OutOfBounds, check_mode, check_path, check_user};
use crate::os_bytes::OsBytes;

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutFile {
    /// The absolute path in the guest.
    pub path: OsBytes,
    /// The permission bits; a file that is overwritten keeps its own.
    pub mode: u32,
    /// What to do with an existing file.
    pub existing: Existing,
    /// The user whose permissions count and whose file it is, as for [`Exec::user`](super::Exec::user).
    pub user: Option<OsBytes>,
    /// Whether to make the directories that are missing.
    pub parents: bool,
}

/// What to do with an existing file of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Existing {
    /// Replace it by the new file when that is complete.
    #[default]
    Replaced,
    /// Overwrite its content: it keeps its owner, mode and other names.
    Overwritten,
    /// Write into it from this offset on, and keep the rest of it.
    WrittenAt(u64),
    /// Write behind its end.
    Appended,
}

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetFile {
    /// The absolute path in the guest.
    pub path: OsBytes,
    /// The offset to begin at.
    pub from: u64,
    /// The number of bytes to read at most, if not up to its end.
    pub length: Option<u64>,
    /// The user whose permissions count, as for [`Exec::user`](super::Exec::user).
    pub user: Option<OsBytes>,
}

impl PutFile {
    pub(super) fn validate(&self) -> Result<(), OutOfBounds> {
        check_mode(self.mode)?;
        self.user.as_ref().map_or(Ok(()), check_user)?;
        check_path(&self.path)
    }
}

impl GetFile {
    pub(super) fn validate(&self) -> Result<(), OutOfBounds> {
        self.user.as_ref().map_or(Ok(()), check_user)?;
        check_path(&self.path)
    }
}
