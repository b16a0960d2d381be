//! Errors of layers.

use std::io;

use thiserror::Error;

use crate::tree::{ResolveError, TreeError};

/// The reason why a layer could not be applied: which one, and where in it.
#[derive(Debug, Error)]
#[error("layer {layer}{}: {refusal}", .entry.as_ref().map(|entry| format!(", entry {entry:?}")).unwrap_or_default())]
pub struct LayerError {
    /// The layer: its digest, or the file that it is.
    pub layer: String,
    /// The path of the entry, if it is known.
    pub entry: Option<String>,
    /// What is wrong.
    #[source]
    pub refusal: Refusal,
}

/// What is wrong with a layer or an entry.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The archive is damaged.
    #[error("the archive is damaged at byte {at}: {what}")]
    Damaged {
        /// The position of the entry's header.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A path with `..`.
    #[error("a path with `..` could lead out of the image")]
    ParentDirectory,
    /// A name that no file can have.
    #[error("it has a name that no file can have: longer than 255 bytes, or with a NUL")]
    BadName,
    /// A whiteout that names nothing.
    #[error("a whiteout has to name a file")]
    BadWhiteout,
    /// Something below, or in the place of, what is no directory.
    #[error("{0}")]
    Place(#[from] ResolveError),
    /// An entry for the root that is no directory.
    #[error("the root has to be a directory")]
    Root,
    /// A hard link to something that is not there.
    #[error("it is a hard link to {target:?}: {reason}")]
    HardLink {
        /// What it should lead to.
        target: String,
        /// Why it can't.
        reason: String,
    },
    /// A symbolic link without a target, or with one that is too long.
    #[error("the target of a symbolic link has 1 to 4095 bytes, and no NUL")]
    SymlinkTarget,
    /// A device that Linux has no number for.
    #[error("there is no device with this number")]
    Device,
    /// A kind of entry that no file system has.
    #[error("it is of a kind that no file system has ({kind:?})")]
    Kind {
        /// The character of the kind.
        kind: char,
    },
    /// An extended attribute that no file can have.
    #[error(
        "an extended attribute has a name of more than 255 bytes, or a value of more than 64 KiB"
    )]
    Xattr,
    /// A map of holes that contradicts itself.
    #[error("the map of its holes makes no sense")]
    Sparse,
    /// It takes more than it may.
    #[error("the image has more than {limit} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The tree can't take it.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The layer can't be read.
    #[error("it can't be read: {0}")]
    Read(#[from] io::Error),
}
