//! Blobs: what a digest names.

use std::io::{self, Read};

use ironclaw_store::Sha256Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::error::SourceError;
use super::platform::Platform;

/// Limit of an index or a manifest, in bytes, as registries have it.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;

/// What an image says of a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) digest: String,
    /// In bytes; each has to have one, and some tools forget it.
    pub(super) size: Option<u64>,
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: std::collections::BTreeMap<String, String>,
}

/// Parses a digest in its text form.
pub(super) fn digest(text: &str) -> Result<Sha256Digest, SourceError> {
    let hex = text.strip_prefix("sha256:");
    let digest = hex.and_then(|hex| hex.parse().ok());
    digest.ok_or_else(|| SourceError::Document {
        what: "manifest",
        reason: format!(
            "{:?} is no SHA-256 digest",
            text.chars().take(100).collect::<String>()
        ),
    })
}

/// Reads a document of at most [`MAX_DOCUMENT`] bytes and checks its digest.
pub(super) fn document(
    what: &'static str,
    reader: impl Read,
    expected: Sha256Digest,
) -> Result<Vec<u8>, SourceError> {
    let bytes = bounded(what, reader)?;
    let found = Sha256Digest::of(&bytes);
    if found != expected {
        return Err(SourceError::Digest {
            what,
            expected,
            found,
        });
    }
    Ok(bytes)
}

/// Reads a document of at most [`MAX_DOCUMENT`] bytes.
pub(super) fn bounded(what: &'static str, reader: impl Read) -> Result<Vec<u8>, SourceError> {
    let bad = |reason| SourceError::Document { what, reason };
    let mut bytes = Vec::new();
    let read = reader.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes);
    read.map_err(|error| bad(error.to_string()))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(bad(format!("it has more than {MAX_DOCUMENT} bytes")));
    }
    Ok(bytes)
}

/// Parses JSON.
pub(super) fn json<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, SourceError> {
    serde_json::from_slice(bytes).map_err(|error| SourceError::Document {
        what,
        reason: ironclaw_host::untrusted::message(&error.to_string()),
    })
}

/// Hashes and counts what is read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        let hasher = Sha256::new();
        Self {
            inner,
            hasher,
            bytes: 0,
        }
    }

    /// Returns how many bytes were read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what is left, and returns the digest and the size of all.
    pub(super) fn finish(mut self) -> io::Result<(Sha256Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        let digest: [u8; 32] = self.hasher.finalize().into();
        Ok((digest.into(), self.bytes))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        Ok(read)
    }
}
