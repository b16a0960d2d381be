//! Which variant of an image a guest runs.

use serde::Deserialize;

use super::error::SourceError;

/// What guests run: Linux, on the processor of the host.
pub(super) const OS: &str = "linux";
/// The processor in the words of images, which are those of Go.
pub(super) const ARCHITECTURE: &str = "amd64";

/// What a variant is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
}

impl Platform {
    pub(super) fn is_ours(&self) -> bool {
        self.architecture == ARCHITECTURE && self.os == OS
    }

    pub(super) fn shown(&self) -> String {
        format!("{}/{}", self.os, self.architecture)
    }
}

/// The error of an image that has variants for these platforms only.
pub(super) fn none_of<'a>(found: impl IntoIterator<Item = &'a Platform>) -> SourceError {
    let found: Vec<_> = found.into_iter().map(Platform::shown).collect();
    SourceError::Platform {
        wanted: format!("{OS}/{ARCHITECTURE}"),
        found: if found.is_empty() {
            "nothing".to_owned()
        } else {
            ironclaw_host::untrusted::message(&found.join(", "))
        },
    }
}
