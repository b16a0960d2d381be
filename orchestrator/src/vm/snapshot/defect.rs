//! What may be wrong with a snapshot on disk.

use std::fmt;

use super::files::FileRole;
use super::id::SnapshotId;
use super::kind::{KindName, MANIFEST};
use super::manifest::FORMAT;

/// A file in a snapshot's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The one that describes the others.
    Manifest,
    /// One of the others.
    File(FileRole),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => f.write_str(MANIFEST),
            Self::File(role) => role.fmt(f),
        }
    }
}

/// Why a directory with the name of a snapshot holds no usable one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// Nothing in it says that IronClaw made it.
    #[error("no snapshot that IronClaw made")]
    NotOurs,
    /// It is root's alone.
    #[error("this user may not read it")]
    NotReadable,
    /// A file is not there.
    #[error("{file} is missing")]
    Missing {
        /// Which one.
        file: Part,
    },
    /// A file is a link, a pipe, a device or a directory.
    #[error("{file} is not a regular file")]
    NotRegular {
        /// Which one.
        file: Part,
    },
    /// A file can't be opened.
    #[error("{file} can't be read: {reason}")]
    Unreadable {
        /// Which one.
        file: Part,
        /// What the operating system says.
        reason: String,
    },
    /// The directory was removed, or is another one, while the snapshot was used.
    #[error("its directory was removed or replaced")]
    Removed,
    /// The manifest is larger than manifests are.
    #[error("manifest.json has more than {limit} bytes")]
    ManifestTooLarge {
        /// Most bytes that are read.
        limit: u64,
    },
    /// The manifest is no manifest.
    #[error("manifest.json is not valid: {reason}")]
    ManifestInvalid {
        /// What is wrong, and where.
        reason: String,
    },
    /// The manifest belongs to another directory.
    #[error("manifest.json is that of snapshot {found}")]
    OtherId {
        /// The id in the manifest.
        found: SnapshotId,
    },
    /// The manifest is that of a snapshot of another kind, which has another place.
    #[error("manifest.json is that of a {found}")]
    OtherKind {
        /// The kind in the manifest.
        found: KindName,
    },
    /// The manifest has a format of another release. It may be sound for that one.
    #[error("manifest.json has format {found}, this release knows {known}", known = FORMAT)]
    OtherFormat {
        /// The format in the manifest.
        found: u32,
    },
    /// A file was cut or extended.
    #[error("{file} has {found} bytes, its manifest says {expected}")]
    WrongSize {
        /// Which one.
        file: Part,
        /// Size in the manifest, in bytes.
        expected: u64,
        /// Size found, in bytes.
        found: u64,
    },
}

impl Defect {
    /// Whether nobody can use the directory any more: if it was to become a pool's, a sweep removes
    /// it, and a checkpoint waits for its owner.
    #[must_use]
    pub fn is_garbage(&self) -> bool {
        !matches!(
            self,
            Self::OtherFormat { .. } | Self::OtherKind { .. } | Self::NotOurs | Self::NotReadable
        )
    }

    /// Whether a later release made it.
    #[must_use]
    pub fn is_of_newer_release(&self) -> bool {
        matches!(self, Self::OtherFormat { found } if *found > FORMAT)
    }

    pub(super) fn remedy(&self, kind: KindName) -> &'static str {
        match self {
            Self::NotOurs => "it is left alone: remove it by hand if it is to go",
            Self::NotReadable => "let it read the directory and the files in it",
            Self::OtherFormat { .. } => "use the release that made it, or delete it",
            Self::OtherKind { .. } => "it is left alone: move it back to where it was made",
            _ if kind == KindName::Checkpoint => {
                "it is kept: put the file back, or delete it by its id"
            }
            _ => "it is removed by the next sweep",
        }
    }
}
