//! What a snapshot is for, and where one of its kind is.

use std::fmt;
use std::io;
use std::path::Path;

use ironclaw_store::{Artefact, StoreName, Timestamp};
use serde::{Deserialize, Serialize};

use super::id::SnapshotId;
use super::verified;

/// What a snapshot is for, and with it who may use and delete it.
///
/// | | used by | deleted |
/// |---|---|---|
/// | [`Base`](Self::Base) | any pool that it fits | when it is replaced, old and unused, or damaged |
/// | [`Checkpoint`](Self::Checkpoint) | whoever names it | by its owner, or when its time is past |
///
/// Neither is deleted while it is in use. Whoever can write to the store and names a snapshot may
/// delete it, whatever its kind ([`SnapshotStore::delete`](super::SnapshotStore::delete)). One that
/// a newer release made is deleted by that alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Of a template that was booted. It can be made again: pools find it, share it and replace it.
    Base,
    /// Of a VM that somebody used. It can't be made again: no pool takes it, and nothing deletes it
    /// because it is old, unused or damaged.
    Checkpoint(Checkpoint),
}

/// Whose a checkpoint is, of which VM, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Who may have it deleted, as the front end that took it knows him: 1 to 256 bytes of
    /// printable text.
    pub owner: String,
    /// Id of the VM that it was taken of; the same.
    pub of: String,
    /// When it may go by itself; `None`: never.
    pub keep_until: Option<Timestamp>,
}

/// A [`Kind`] without what only one of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KindName {
    /// [`Kind::Base`]
    Base,
    /// [`Kind::Checkpoint`]
    Checkpoint,
}

impl Kind {
    /// Which one it is.
    #[must_use]
    pub fn name(&self) -> KindName {
        match self {
            Self::Base => KindName::Base,
            Self::Checkpoint(_) => KindName::Checkpoint,
        }
    }
}

impl Checkpoint {
    /// Whether it was to be kept for less long than until `now`.
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

/// How the name of a checkpoint's directory starts. What looks for snapshots of pools, be it a
/// release that knows no checkpoints, does not see such a name, and so neither takes nor deletes it;
/// nor is it lost with a manifest that can't be read.
const CHECKPOINT_PREFIX: &str = "checkpoint-";

/// Name of the file in each directory that describes the others.
pub(super) const MANIFEST: &str = "manifest.json";

/// A snapshot by the name of its directory, which says of what kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DirName {
    pub(super) kind: KindName,
    pub(super) id: SnapshotId,
}

impl DirName {
    /// Where the snapshot of this manifest is.
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
        setting: "IRONCLAW_SNAPSHOT_PATH",
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
