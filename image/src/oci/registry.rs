//! Registries: images over HTTP, as the OCI distribution specification has it.
//!
//! ```text
//! name ──▶ `session`: scheme, authorization, retries ──▶ manifest, config
//!            │    └─▶ `auth_file`, `token`: who asks    └─▶ `download`: a layer, resumed where it breaks
//!            └─▶ `transport`, `tls`: one exchange, its limits, where it may lead
//! ```
//!
//! A registry is as hostile as an image: each answer has a limit of its size and of its time, and what it
//! leads to is looked at before it is followed.

mod auth_file;
mod backoff;
mod credentials;
mod download;
mod endpoint;
mod failure;
mod helper;
mod session;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod transport;

use ironclaw_store::Sha256Digest;

use super::access::RegistryAccess;
use super::blob;
use super::error::SourceError;
use super::manifest::{self, Document, Documents, Image, Layer};
use super::reference::ImageReference;
use super::registry_error::RegistryError;
use download::Download;
use session::Session;

/// The repository of an image.
#[derive(Debug)]
pub(super) struct Repository {
    session: Session,
    image: ImageReference,
}

impl Repository {
    /// Connects with the registry of an image.
    pub(super) fn connect(
        image: &ImageReference,
        access: &RegistryAccess,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            session: Session::connect(image, access)?,
            image: image.clone(),
        })
    }

    /// Finds the image: the variant for guests here.
    pub(super) fn find(&self) -> Result<Image, SourceError> {
        let mut named = self.manifest_of(&self.image.manifest());
        let bytes = blob::bounded("manifest", &mut named);
        let bytes = bytes.map_err(|error| self.failed(&mut named, error))?;
        let digest = Sha256Digest::of(&bytes);
        if let Some(expected) = self.image.digest()
            && expected != digest
        {
            return Err(SourceError::Digest {
                what: "manifest",
                expected,
                found: digest,
            });
        }
        manifest::follow(self, digest, Document::parse(&bytes)?)
    }

    /// Opens a layer.
    pub(super) fn layer(&self, layer: &Layer) -> Download<'_> {
        let digest = layer.blob.unwrap_or(layer.archive);
        Download::new(&self.session, format!("blobs/sha256:{digest}"), layer.size)
    }

    /// Returns the error of what was read from a download: the registry's, if it is at fault.
    pub(super) fn failed(&self, download: &mut Download<'_>, error: SourceError) -> SourceError {
        match download.failure() {
            Some(failure) => SourceError::of_registry(&self.image, failure),
            None => error,
        }
    }

    fn manifest_of(&self, name: &str) -> Download<'_> {
        Download::new(&self.session, format!("manifests/{name}"), None)
    }

    fn document(
        &self,
        what: &'static str,
        mut download: Download<'_>,
        digest: Sha256Digest,
    ) -> Result<Vec<u8>, SourceError> {
        let read = blob::document(what, &mut download, digest);
        read.map_err(|error| self.failed(&mut download, error))
    }
}

impl Documents for Repository {
    fn manifest(&self, digest: Sha256Digest) -> Result<Vec<u8>, SourceError> {
        let download = self.manifest_of(&format!("sha256:{digest}"));
        self.document("manifest", download, digest)
    }

    fn config(&self, digest: Sha256Digest) -> Result<Vec<u8>, SourceError> {
        let download = Download::new(&self.session, format!("blobs/sha256:{digest}"), None);
        self.document("config", download, digest)
    }
}
