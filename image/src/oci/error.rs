//! Errors of sources.

use std::io;
use std::path::{Path, PathBuf};

use ironclaw_store::{Artefact as _, Sha256Digest, StoreError};
use thiserror::Error;

use super::reference::ImageReference;
use super::registry_error::RegistryError;
use crate::erofs::ErofsError;
use crate::hash::TemplateHash;
use crate::layer::LayerError;

/// The reason why a source did not become a root image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file of the source can't be read.
    #[error("can't read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is not an image of the kind that it should be.
    #[error("{path} is no {kind}: {reason}", path = .path.display())]
    NotAnImage {
        /// The source.
        path: PathBuf,
        /// What it should be.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A reference names none of its images, or none was given and there are several.
    #[error("{path} has {what}; it has: {known}", path = .path.display())]
    Reference {
        /// The source.
        path: PathBuf,
        /// What was asked for.
        what: String,
        /// The references of its images.
        known: String,
    },
    /// None of an image's variants is for this machine.
    #[error(
        "the image is not for {wanted}, but for {found}: guests run what this machine's processor runs"
    )]
    Platform {
        /// What was looked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A blob is not what its digest says.
    #[error("{what} {expected} is damaged: its content has the digest sha256:{found}")]
    Digest {
        /// What it is: a layer, a manifest, a config.
        what: &'static str,
        /// The digest that it should have.
        expected: Sha256Digest,
        /// The digest that it has.
        found: Sha256Digest,
    },
    /// A blob is longer or shorter than its image says.
    #[error(
        "layer {layer} is damaged: it has {found} than the {expected} bytes that its image says"
    )]
    Size {
        /// The layer.
        layer: String,
        /// The size that it should have.
        expected: u64,
        /// `more` or `less`.
        found: &'static str,
    },
    /// A layer's content can't be unpacked.
    #[error("layer {layer} can't be unpacked: {reason}")]
    Unpack {
        /// The layer.
        layer: String,
        /// The reason.
        reason: String,
    },
    /// A document of an image can't be used.
    #[error("the image's {what} can't be used: {reason}")]
    Document {
        /// What it is: manifest, config, index.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The program that installs Debian's packages is not there.
    #[error(
        "mmdebstrap is not installed, and debian:SUITE takes it: `apt-get install mmdebstrap`, or begin with an \
         image, as docker://debian:SUITE"
    )]
    NoMmdebstrap,
    /// A suite of Debian can't be installed.
    #[error("debian:{suite} can't be installed: {reason}")]
    Suite {
        /// The suite.
        suite: String,
        /// The reason.
        reason: String,
    },
    /// An image can't be had from its registry.
    #[error("{image} can't be pulled: {source}")]
    Registry {
        /// The image.
        image: String,
        /// The reason.
        source: RegistryError,
    },
    /// A layer can't be applied.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The image can't be written.
    #[error(transparent)]
    Image(#[from] ErofsError),
    /// The layer store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SourceError {
    /// The error of an image that can't be written to `path`.
    pub(crate) fn of_image(path: &Path) -> impl Fn(ErofsError) -> Self {
        move |error| match error {
            ErofsError::Write(source) => {
                StoreError::io(TemplateHash::STORE, "write", path, source).into()
            }
            error => Self::Image(error),
        }
    }

    /// The error of an image that its registry does not give.
    pub(super) fn of_registry(image: &ImageReference, source: RegistryError) -> Self {
        let image = image.to_string();
        Self::Registry { image, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::TemplateError;

    #[test]
    fn a_disk_that_is_too_small_for_an_image_is_told_with_its_path_and_what_to_do() {
        let full = ErofsError::Write(io::ErrorKind::StorageFull.into());
        let error = SourceError::of_image(Path::new("/templates/x"))(full);
        let error = TemplateError::from(error);
        assert!(
            matches!(error, TemplateError::Store(StoreError::NoSpace { .. })),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("/templates/x") && text.contains("`template_path`"),
            "{text}"
        );
    }
}
