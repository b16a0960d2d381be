//! Manifests and indexes: from the first document of an image to its layers.

use ironclaw_store::Sha256Digest;
use serde::Deserialize;

use super::blob::{self, Descriptor};
use super::config;
use super::error::SourceError;
use super::platform;
use crate::root_origin::ImageConfig;

/// Indexes that lead to indexes.
const MAX_INDEXES: usize = 4;

/// An image: what it says of itself, and its layers from the lowest on.
#[derive(Debug)]
pub(super) struct Image {
    /// The digest of its manifest, or of its config where it has none.
    pub(super) digest: Sha256Digest,
    pub(super) config: ImageConfig,
    pub(super) layers: Vec<Layer>,
}

/// A layer of an image.
#[derive(Debug)]
pub(super) struct Layer {
    /// The digest of what it is unpacked.
    pub(super) archive: Sha256Digest,
    /// The digest of its blob, if the image says it.
    pub(super) blob: Option<Sha256Digest>,
    /// The size of its blob in bytes, if the image says it.
    pub(super) size: Option<u64>,
    /// The path of its blob in the image.
    pub(super) path: String,
}

impl Layer {
    /// Returns its name in errors: the digest of its blob, as the image has it.
    pub(super) fn name(&self) -> String {
        format!("sha256:{}", self.blob.unwrap_or(self.archive))
    }
}

/// What leads to the variants of an image, or to several images.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    pub(super) manifests: Vec<Descriptor>,
}

/// An image's config and layers.
#[derive(Debug)]
pub(super) struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Either, by what it holds.
#[derive(Debug)]
pub(super) enum Document {
    Index(Index),
    Manifest(Manifest),
}

/// Either of them: old tools give no media type.
#[derive(Debug, Deserialize)]
struct Either {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, SourceError> {
        let either: Either = blob::json("manifest", bytes)?;
        match (either.manifests, either.config, either.layers) {
            (Some(manifests), None, None) => Ok(Self::Index(Index { manifests })),
            (None, Some(config), Some(layers)) => Ok(Self::Manifest(Manifest { config, layers })),
            // One that is both would be another image to another program (CVE-2021-41190).
            _ => Err(SourceError::Document {
                what: "manifest",
                reason: "it is neither a manifest nor an index of some".to_owned(),
            }),
        }
    }
}

/// Documents by their digests, which are checked.
pub(super) trait Documents {
    /// Reads a manifest or an index.
    fn manifest(&self, digest: Sha256Digest) -> Result<Vec<u8>, SourceError>;
    /// Reads a config.
    fn config(&self, digest: Sha256Digest) -> Result<Vec<u8>, SourceError>;
}

/// Follows an image from the first of its documents, through indexes, to its layers.
pub(super) fn follow(
    documents: &impl Documents,
    mut digest: Sha256Digest,
    mut document: Document,
) -> Result<Image, SourceError> {
    for _ in 0..=MAX_INDEXES {
        match document {
            Document::Index(index) => {
                digest = blob::digest(&ours(&index)?.digest)?;
                document = Document::parse(&documents.manifest(digest)?)?;
            }
            Document::Manifest(manifest) => return image(documents, digest, &manifest),
        }
    }
    Err(SourceError::Document {
        what: "index",
        reason: format!("it leads to an image through more than {MAX_INDEXES} others"),
    })
}

/// Chooses the variant for guests here.
pub(super) fn ours(index: &Index) -> Result<&Descriptor, SourceError> {
    let found = index.manifests.iter().find(|descriptor| {
        let platform = descriptor.platform.as_ref();
        platform.is_some_and(platform::Platform::is_ours)
    });
    let all = index.manifests.iter().filter_map(|it| it.platform.as_ref());
    found.ok_or_else(|| platform::none_of(all))
}

fn image(
    documents: &impl Documents,
    digest: Sha256Digest,
    manifest: &Manifest,
) -> Result<Image, SourceError> {
    let id = blob::digest(&manifest.config.digest)?;
    let (config, archives) = config::parse(&documents.config(id)?)?;
    if archives.len() != manifest.layers.len() {
        return Err(SourceError::Document {
            what: "manifest",
            reason: format!(
                "it has {} layers, and its config {}",
                manifest.layers.len(),
                archives.len()
            ),
        });
    }
    let layers = manifest.layers.iter().zip(archives);
    let layers = layers.map(|(descriptor, archive)| {
        let blob = blob::digest(&descriptor.digest)?;
        Ok(Layer {
            archive,
            blob: Some(blob),
            size: descriptor.size,
            path: path(blob),
        })
    });
    Ok(Image {
        digest,
        config,
        layers: layers.collect::<Result<_, SourceError>>()?,
    })
}

/// The path of a blob in an image layout.
pub(super) fn path(digest: Sha256Digest) -> String {
    format!("blobs/sha256/{digest}")
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(bytes: &[u8]) {
    let descriptors = match Document::parse(bytes) {
        Ok(Document::Index(index)) => ours(&index).into_iter().cloned().collect(),
        Ok(Document::Manifest(manifest)) => manifest.layers,
        Err(_) => Vec::new(),
    };
    for descriptor in descriptors {
        let digest = blob::digest(&descriptor.digest);
        assert!(
            digest.is_ok_and(|it| format!("sha256:{it}") == descriptor.digest)
                || blob::digest(&descriptor.digest).is_err()
        );
    }
}
