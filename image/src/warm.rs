//! Programs that make a guest warm.

use serde::{Deserialize, Serialize};

/// Programs that run before a snapshot of a template is taken, and again in each clone that is kept
/// warm: what they read and load is in a clone's memory before anybody uses it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Warm {
    /// The programs and their arguments, in their order. They run as the image's user, in its
    /// directory and environment.
    pub commands: Vec<Vec<String>>,
    /// The memory that a guest had less of after them when the template was built, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

impl Warm {
    /// Programs whose effect nobody has measured yet.
    #[must_use]
    pub fn new(commands: Vec<Vec<String>>) -> Self {
        Self {
            commands,
            memory: None,
        }
    }

    /// The digest of what makes a template another one: not what was measured.
    pub(crate) fn digest(&self) -> ironclaw_store::Sha256Digest {
        // Lists of texts are always JSON.
        ironclaw_store::Sha256Digest::of(serde_json::to_vec(&self.commands).unwrap_or_default())
    }
}
