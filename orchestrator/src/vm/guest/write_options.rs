//! How a file of a guest is written.

use ironclaw_protocol::message::Existing;

/// How a file is written.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct WriteOptions {
    pub(super) mode: u32,
    pub(super) existing: Existing,
    pub(super) parents: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl WriteOptions {
    /// A new file with mode 0644, which replaces what has its name when it is complete.
    pub fn new() -> Self {
        Self {
            mode: 0o644,
            existing: Existing::Replaced,
            parents: false,
        }
    }

    /// Gives a file that is made these permission bits.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Makes the directories that are missing.
    pub fn parents(mut self) -> Self {
        self.parents = true;
        self
    }

    /// Overwrites a file in place: it keeps its owner, mode and other names.
    pub fn overwrite(mut self) -> Self {
        self.existing = Existing::Overwritten;
        self
    }

    /// Writes into a file from `offset` on, and keeps the rest of it.
    pub fn at(mut self, offset: u64) -> Self {
        self.existing = Existing::WrittenAt(offset);
        self
    }

    /// Writes behind the end of a file.
    pub fn append(mut self) -> Self {
        self.existing = Existing::Appended;
        self
    }
}
