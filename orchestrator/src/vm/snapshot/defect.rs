//! Defects of a snapshot on disk.

use std::fmt;

use super::files::FileRole;
use super::id::SnapshotId;
use super::kind::{KindName, MANIFEST};
use super::manifest::FORMAT;

/// A file in a snapshot's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The manifest.
    Manifest,
    /// A file listed in the manifest.
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

/// The reason why a directory with the name of a snapshot has no usable one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Defect {
    /// It has no mark of IronClaw.
    #[error("no snapshot that IronClaw made")]
    NotOurs,
    /// Only root may read it.
    #[error("this user may not read it")]
    NotReadable,
    /// A file is missing.
    #[error("{file} is missing")]
    Missing {
        /// The file.
        file: Part,
    },
    /// A file is a link, a pipe, a device or a directory.
    #[error("{file} is not a regular file")]
    NotRegular {
        /// The file.
        file: Part,
    },
    /// A file can't be opened.
    #[error("{file} can't be read: {reason}")]
    Unreadable {
        /// The file.
        file: Part,
        /// The system's error.
        reason: String,
    },
    /// The directory was removed or replaced while the snapshot was used.
    #[error("its directory was removed or replaced")]
    Removed,
    /// The manifest is too large.
    #[error("manifest.json has more than {limit} bytes")]
    ManifestTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The manifest is invalid.
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
    /// The manifest is of a snapshot of another kind, which has another directory.
    #[error("manifest.json is that of a {found}")]
    OtherKind {
        /// The kind in the manifest.
        found: KindName,
    },
    /// The manifest has a format of another release, for which it may be valid.
    #[error("manifest.json has format {found}, this release knows {known}", known = FORMAT)]
    OtherFormat {
        /// The format in the manifest.
        found: u32,
    },
    /// A file was truncated or extended.
    #[error("{file} has {found} bytes, its manifest says {expected}")]
    WrongSize {
        /// The file.
        file: Part,
        /// The size in the manifest, in bytes.
        expected: u64,
        /// The actual size, in bytes.
        found: u64,
    },
}

impl Defect {
    /// Returns whether the directory is unusable for good: a base is swept then, a checkpoint waits
    /// for its owner.
    #[must_use]
    pub fn is_garbage(&self) -> bool {
        !matches!(
            self,
            Self::OtherFormat { .. } | Self::OtherKind { .. } | Self::NotOurs | Self::NotReadable
        )
    }

    /// Returns whether a later release made it.
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
