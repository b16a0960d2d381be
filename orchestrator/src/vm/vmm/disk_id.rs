//! The name of a disk.

use std::fmt;
use std::str::FromStr;

/// Limit of the length of a disk's name, in bytes.
const MAX_DISK_ID: usize = 32;

/// The name of a disk in its VM: 1 to 32 lower-case letters, digits or `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(String);

/// The error of a text that is no name of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a disk is 1 to {MAX_DISK_ID} lower-case letters, digits or `_`")]
pub struct ParseDiskIdError;

impl DiskId {
    /// Returns the name of the image of a guest's root.
    #[must_use]
    pub fn root() -> Self {
        Self("root".to_owned())
    }

    /// Returns the name of the disk that takes what a guest writes over its root.
    #[must_use]
    pub fn scratch() -> Self {
        Self("scratch".to_owned())
    }

    /// Returns its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DiskId {
    type Err = ParseDiskIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_name = (1..=MAX_DISK_ID).contains(&text.len()) && text.bytes().all(is_plain);
        is_name
            .then(|| Self(text.to_owned()))
            .ok_or(ParseDiskIdError)
    }
}
