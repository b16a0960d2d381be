//! The kind of a snapshot, and the directory of its kind.

use std::fmt;
use std::io;
use std::path::Path;

use ironclaw_store::{Artefact, StoreName, Timestamp};
use serde::{Deserialize, Serialize};

use super::id::SnapshotId;
use super::verified;

/// The kind of a snapshot, which determines who may use and delete it.
///
/// | | used by | deleted |
/// |---|---|---|
/// | [`Base`](Self::Base) | any pool that it fits | when it is replaced, old and unused, or damaged |
/// | [`Checkpoint`](Self::Checkpoint) | whoever names it | by its owner, or when its time is past |
///
/// Neither is deleted while in use. Whoever can write to the store may delete any snapshot by
/// naming it ([`SnapshotStore::delete`](super::SnapshotStore::delete)). A snapshot of a newer
/// release is deleted only that way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A snapshot of a booted template. It can be made again: pools find it, share it and replace
    /// it.
    Base,
    /// A snapshot of a VM that somebody used. It can't be made again: no pool takes it, and nothing
    /// deletes it because it is old, unused or damaged.
    Checkpoint(Checkpoint),
}

/// The owner of a checkpoint, its VM, and its expiry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The owner, who may have it deleted, as identified by the front end: 1 to 256 bytes of
    /// printable text.
    pub owner: String,
    /// The id of its VM, in the same format.
    pub of: String,
    /// The time after which it may be deleted; `None`: never.
    pub keep_until: Option<Timestamp>,
}

/// A [`Kind`] without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KindName {
    /// [`Kind::Base`]
    Base,
    /// [`Kind::Checkpoint`]
    Checkpoint,
}

impl Kind {
    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> KindName {
        match self {
            Self::Base => KindName::Base,
            Self::Checkpoint(_) => KindName::Checkpoint,
        }
    }
}

impl Checkpoint {
    /// Returns whether it has expired at `now`.
    #[must_use]
    pub fn is_past(&self, now: Timestamp) -> bool {
        self.keep_until.is_some_and(|until| until < now)
    }
}

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padded in tables.
        f.pad(match self {
            Self::Base => "base",
            Self::Checkpoint => "checkpoint",
        })
    }
}

/// The prefix of a checkpoint's directory. Searches for bases, even of releases without
/// checkpoints, do not see such a name, and so neither use nor delete it; and the kind is known
/// even without a readable manifest.
const CHECKPOINT_PREFIX: &str = "checkpoint-";

/// The name of the manifest in each directory.
pub(super) const MANIFEST: &str = "manifest.json";

/// The name of a snapshot's directory, which shows its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DirName {
    pub(super) kind: KindName,
    pub(super) id: SnapshotId,
}

impl DirName {
    /// Returns the directory of the snapshot with this manifest.
    pub(super) fn of(manifest_kind: &Kind, id: SnapshotId) -> Self {
        let kind = manifest_kind.name();
        Self { kind, id }
    }

    pub(super) fn base(id: SnapshotId) -> Self {
        let kind = KindName::Base;
        Self { kind, id }
    }

    pub(super) fn checkpoint(id: SnapshotId) -> Self {
        let kind = KindName::Checkpoint;
        Self { kind, id }
    }
}

impl Artefact for DirName {
    const STORE: StoreName = StoreName {
        what: "snapshot",
        setting: "`snapshot_path`",
    };
    const MANIFEST: &'static str = MANIFEST;
    const NAME_FIELD: &'static str = "id";

    fn parse(name: &str) -> Option<Self> {
        let id = |text: &str| text.parse().ok();
        match name.strip_prefix(CHECKPOINT_PREFIX) {
            Some(rest) => id(rest).map(Self::checkpoint),
            None => id(name).map(Self::base),
        }
    }

    fn in_manifest(&self) -> String {
        self.id.to_string()
    }

    fn forget(&self, root: &Path) -> io::Result<()> {
        verified::forget(root, self.id)
    }
}

impl fmt::Display for DirName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            KindName::Base => self.id.fmt(f),
            KindName::Checkpoint => write!(f, "{CHECKPOINT_PREFIX}{}", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_directory_says_the_kind() {
        let id = SnapshotId::generate();
        for name in [DirName::base(id), DirName::checkpoint(id)] {
            assert_eq!(DirName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(DirName::parse("checkpoint-photos"), None);
        assert_eq!(DirName::parse(&format!("x{id}")), None);
    }

    #[test]
    fn a_checkpoint_is_kept_until_the_end_of_its_time() {
        let at = |unix_seconds| Timestamp {
            unix_seconds,
            nanoseconds: 0,
        };
        let kept = |keep_until| Checkpoint {
            owner: "somebody".to_owned(),
            of: "vm".to_owned(),
            keep_until,
        };
        assert!(!kept(None).is_past(at(u64::MAX)));
        assert!(!kept(Some(at(5))).is_past(at(5)));
        assert!(kept(Some(at(5))).is_past(at(6)));
    }
}
