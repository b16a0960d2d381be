//! The name of a template.

use std::fmt;
use std::str::FromStr;

use ironclaw_store::{Artefact, Sha256Digest, StoreName};
use serde::{Deserialize, Serialize};

/// The file in a template's directory that describes it.
pub(crate) const MANIFEST: &str = "template.json";

/// Name of a template, and of its directory: SHA-256 over the digests of its kernel, initramfs and root
/// disk, what makes it warm, and its boot arguments, written as 64 lower-case hexadecimal digits. Equal inputs have equal hashes,
/// whenever and wherever they were built.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TemplateHash(Sha256Digest);

/// The text is not the name of a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a template hash (64 lower-case hexadecimal digits)")]
pub struct ParseTemplateHashError {
    /// What was given.
    pub text: String,
}

impl TemplateHash {
    /// The hash of the template that is made of these.
    pub(crate) fn new(
        kernel: &Sha256Digest,
        initramfs: Option<&Sha256Digest>,
        (root_disk, config): (Option<&Sha256Digest>, Option<&Sha256Digest>),
        warm: Option<&Sha256Digest>,
        boot_args: &str,
    ) -> Self {
        // The digests have a fixed length, so the concatenation can't be read in two ways; a
        // hyphen is no digit of one.
        let initramfs = initramfs.map_or_else(|| "-".to_owned(), Sha256Digest::to_string);
        // No boot arguments have a line feed.
        let root_disk = root_disk.map_or_else(String::new, |image| format!("{image}\n"));
        let config = config.map_or_else(String::new, |config| format!("config {config}\n"));
        let warm = warm.map_or_else(String::new, |warm| format!("warm {warm}\n"));
        Self(Sha256Digest::of(format!(
            "{kernel}{initramfs}{root_disk}{config}{warm}{boot_args}"
        )))
    }
}

impl Artefact for TemplateHash {
    const STORE: StoreName = StoreName {
        what: "template",
        setting: "`template_path`",
    };
    const MANIFEST: &'static str = MANIFEST;
    const NAME_FIELD: &'static str = "hash";

    fn parse(directory: &str) -> Option<Self> {
        directory.parse().ok()
    }

    fn in_manifest(&self) -> String {
        self.to_string()
    }
}

impl From<Sha256Digest> for TemplateHash {
    fn from(digest: Sha256Digest) -> Self {
        Self(digest)
    }
}

impl FromStr for TemplateHash {
    type Err = ParseTemplateHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |_| ParseTemplateHashError {
            text: text.to_owned(),
        };
        text.parse().map(Self).map_err(bad)
    }
}

impl fmt::Display for TemplateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TemplateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
