//! The id of a VM.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::{Uuid, Version};

/// The id of a VM, unique on all hosts and at all times. Names are for people, and several VMs may
/// have the same.
///
/// It is a UUID of version 7, hence sorted by creation time, and has a single text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId(Uuid);

/// The error of a text that is no id of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id of a VM is a lower-case UUID of version 7, like 0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f"
)]
pub struct ParseVmIdError;

impl VmId {
    pub(super) fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for VmId {
    type Err = ParseVmIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = Uuid::parse_str(text).map_err(|_| ParseVmIdError)?;
        let is_canonical = id.to_string() == text;
        match id.get_version() {
            Some(Version::SortRand) if is_canonical => Ok(Self(id)),
            _ => Err(ParseVmIdError),
        }
    }
}

impl TryFrom<String> for VmId {
    type Error = ParseVmIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VmId> for String {
    fn from(id: VmId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_by_its_text_and_by_no_other() {
        let (one, other) = (VmId::generate(), VmId::generate());
        assert!(one < other, "they are in order of creation");
        assert_eq!(one.to_string().parse(), Ok(one));
        for text in [
            String::new(),
            one.to_string().to_uppercase(),
            one.0.simple().to_string(),
            Uuid::new_v4().to_string(),
        ] {
            assert_eq!(text.parse::<VmId>(), Err(ParseVmIdError), "{text}");
        }
    }
}
