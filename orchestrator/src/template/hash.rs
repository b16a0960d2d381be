//! SHA-256 hashes in manifests and names of templates.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::TemplateError;
use super::file;

/// A SHA-256 digest as 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(String);

/// The name of a template: a SHA-256 over the digests of its kernel and initramfs and its boot
/// arguments. Equal inputs have equal hashes, whenever and wherever they were built.
pub type TemplateHash = Sha256Hex;

const DIGITS: usize = 64;

impl Sha256Hex {
    /// Returns the 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_digest(&Sha256::digest(bytes))
    }

    /// Hashes a file's content.
    pub(super) fn of_file(path: &Path) -> Result<Self, TemplateError> {
        let mut file = file::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match file
                .read(&mut buffer)
                .map_err(TemplateError::io("read", path))?
            {
                0 => return Ok(Self::from_digest(&hasher.finalize())),
                read => hasher.update(&buffer[..read]),
            }
        }
    }

    /// Computes the hash of a template made of these.
    #[must_use]
    pub(super) fn of_template(
        kernel: &Self,
        initramfs: Option<&Self>,
        boot_args: &str,
    ) -> TemplateHash {
        // Unambiguous: the digests have a fixed length, and a hyphen is no digit.
        let initramfs = initramfs.map_or("-", Self::as_str);
        Self::of(format!("{kernel}{initramfs}{boot_args}").as_bytes())
    }

    fn from_digest(digest: &[u8]) -> Self {
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl FromStr for Sha256Hex {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for Sha256Hex {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let hexadecimal = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hexadecimal && text.len() == DIGITS {
            Ok(Self(text))
        } else {
            Err(TemplateError::BadHash { text })
        }
    }
}

impl From<Sha256Hex> for String {
    fn from(hash: Sha256Hex) -> Self {
        hash.0
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
