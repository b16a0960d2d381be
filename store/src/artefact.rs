//! The artefacts in a store.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ironclaw_host::mark::{self, Mark};

/// A kind of artefact; a value is the name of one of them, and its text the name of a directory.
pub trait Artefact: Copy + Ord + fmt::Debug + fmt::Display {
    /// The name of the store in messages.
    const STORE: StoreName;
    /// The name of the file in each directory that describes it.
    const MANIFEST: &'static str;
    /// The field of that file with the artefact's own name. Such a file serves as a mark, too:
    /// nobody else writes one, and releases before the mark existed did.
    const NAME_FIELD: &'static str;

    /// Parses the name of an artefact's directory; `None` for other names.
    fn parse(directory: &str) -> Option<Self>;

    /// Returns the value of [`NAME_FIELD`](Self::NAME_FIELD) in the manifest.
    fn in_manifest(&self) -> String;

    /// Removes records about it beside its directory, which is being deleted.
    ///
    /// # Errors
    /// The error that keeps them from being removed.
    fn forget(&self, root: &Path) -> io::Result<()> {
        let _ = root;
        Ok(())
    }

    /// Returns whether we made the open `directory` for it.
    ///
    /// # Errors
    /// As for `openat(2)` and `read(2)`: unknown.
    fn is_ours(&self, directory: &File) -> io::Result<bool> {
        let name = self.in_manifest();
        Ok(mark::read(directory)? == Mark::Ours
            || mark::is_named_in(directory, Self::MANIFEST, Self::NAME_FIELD, &name)?)
    }

    /// Returns its directory in the store at `root`.
    fn directory(&self, root: &Path) -> PathBuf {
        root.join(self.to_string())
    }
}

/// The name of a store in messages, and the setting with its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreName {
    /// The name, as in "the snapshot store".
    pub what: &'static str,
    /// The name of the setting with its path.
    pub setting: &'static str,
}
