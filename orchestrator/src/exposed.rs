//! Directories that other users could change.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// How a directory is open to others: not owned by this user, or writable by more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exposed {
    pub(crate) owner: u32,
    pub(crate) mode: u32,
}

impl Exposed {
    /// Whether the directory at `path` is, and how.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        let metadata = fs::metadata(path)?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        let ours = owner == rustix::process::geteuid().as_raw();
        Ok((!ours || mode & 0o022 != 0).then_some(Self { owner, mode }))
    }
}

/// What is wrong with the directory, and what to do: the rest of a sentence that begins with it.
impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, mode } = self;
        write!(
            f,
            "can be changed by other users (owner {owner}, mode {mode:04o}): change its owner to \
             this user and its mode to 0700"
        )
    }
}
