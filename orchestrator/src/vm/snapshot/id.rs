//! Names of snapshots.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::{Uuid, Version};

use ironclaw_store::Timestamp;

/// The name of a snapshot and of its directory: a UUID of version 7, hence sorted by creation time.
///
/// Each id has a single text form (lower case, with hyphens), so that no two names lead to one
/// directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(Uuid);

/// The error of a text that is no name of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a snapshot id is a lower-case UUID of version 7, \
     like 0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f; `ironclaw snapshot list` shows them"
)]
pub struct ParseSnapshotIdError;

impl SnapshotId {
    /// Creates an id later than all that this process created before.
    pub(super) fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Returns the age, like [`Timestamp::age_or_overdue`].
    pub(super) fn age(self) -> Duration {
        let (unix_seconds, nanoseconds) = self.0.get_timestamp().map_or((0, 0), |it| it.to_unix());
        let made = Timestamp {
            unix_seconds,
            nanoseconds,
        };
        made.age_or_overdue()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for SnapshotId {
    type Err = ParseSnapshotIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uuid = Uuid::try_parse(text).map_err(|_| ParseSnapshotIdError)?;
        let canonical = uuid.to_string() == text;
        if canonical && uuid.get_version() == Some(Version::SortRand) {
            Ok(Self(uuid))
        } else {
            Err(ParseSnapshotIdError)
        }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = ParseSnapshotIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_ids_are_in_order_of_creation() {
        let (first, second) = (SnapshotId::generate(), SnapshotId::generate());
        assert_eq!(first.to_string().parse(), Ok(first));
        assert!(first < second);
        assert!(first.to_string() < second.to_string());
    }

    #[test]
    fn other_spellings_and_versions_are_refused() {
        let id = SnapshotId::generate().to_string();
        let random = Uuid::new_v4().to_string();
        let braced = format!("{{{id}}}");
        let bare = id.replace('-', "");
        let upper = "0192F0C1-7A2B-7C3D-8E4F-5A6B7C8D9E0F";
        for text in ["", ".", "..", "../x", upper, &braced, &bare, &random] {
            assert_eq!(
                text.parse::<SnapshotId>(),
                Err(ParseSnapshotIdError),
                "{text:?}"
            );
        }
    }
}
