//! What a store keeps.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ironclaw_host::mark::{self, Mark};

/// A kind of artefact, by the name of one of them. Its text is the name of its directory.
pub trait Artefact: Copy + Ord + fmt::Debug + fmt::Display {
    /// What messages call the store.
    const STORE: StoreName;
    /// Name of the file in each directory that describes it.
    const MANIFEST: &'static str;
    /// The field of that file with the artefact's own name. Nobody else writes such a file, and
    /// releases before the mark did: it is one, too.
    const NAME_FIELD: &'static str;

    /// The artefact that a directory of this name holds; `None`: none.
    fn parse(directory: &str) -> Option<Self>;

    /// What the manifest has in [`NAME_FIELD`](Self::NAME_FIELD).
    fn in_manifest(&self) -> String;

    /// Removes what is kept about it beside its directory, which is deleted just now.
    ///
    /// # Errors
    /// Whatever keeps it from being removed.
    fn forget(&self, root: &Path) -> io::Result<()> {
        let _ = root;
        Ok(())
    }

    /// Whether we made the open `directory` for it.
    ///
    /// # Errors
    /// As for `openat(2)` and `read(2)`: it can't be told.
    fn is_ours(&self, directory: &File) -> io::Result<bool> {
        let name = self.in_manifest();
        Ok(mark::read(directory)? == Mark::Ours
            || mark::is_named_in(directory, Self::MANIFEST, Self::NAME_FIELD, &name)?)
    }

    /// Its directory in the store at `root`.
    fn directory(&self, root: &Path) -> PathBuf {
        root.join(self.to_string())
    }
}

/// What messages call a store, and by what another directory is chosen for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreName {
    /// As in "the snapshot store".
    pub what: &'static str,
    /// Name of the setting with its path.
    pub setting: &'static str,
}
