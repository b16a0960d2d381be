//! The OCI image layout: an index, and blobs by their digests.

use ironclaw_store::Sha256Digest;
use serde::Deserialize;

use super::blob::{self, Descriptor};
use super::config;
use super::error::SourceError;
use super::place::Place;
use super::platform;
use crate::root_origin::ImageConfig;

/// The annotation with the name of an image.
const REFERENCE: &str = "org.opencontainers.image.ref.name";
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
    /// The path of its blob in the image.
    pub(super) path: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug)]
enum Document {
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
    fn parse(bytes: &[u8]) -> Result<Self, SourceError> {
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

/// Finds an image in a layout.
pub(super) fn find(place: &Place, reference: Option<&str>) -> Result<Image, SourceError> {
    let index = blob::bounded("index", place.open("index.json")?)?;
    let index: Index = blob::json("index", &index)?;
    let mut chosen = chosen(place, &index, reference)?;
    for _ in 0..MAX_INDEXES {
        let digest = blob::digest(&chosen.digest)?;
        let bytes = blob::document("manifest", place.open(&path(digest))?, digest)?;
        match Document::parse(&bytes)? {
            Document::Index(index) => chosen = ours(&index)?.clone(),
            Document::Manifest(manifest) => return image(place, digest, &manifest),
        }
    }
    Err(SourceError::Document {
        what: "index",
        reason: format!("it leads to an image through more than {MAX_INDEXES} others"),
    })
}

/// Chooses an image by its name.
fn chosen(
    place: &Place,
    index: &Index,
    reference: Option<&str>,
) -> Result<Descriptor, SourceError> {
    let name = |descriptor: &&Descriptor| descriptor.annotations.get(REFERENCE).cloned();
    let known = || {
        let names: Vec<_> = index.manifests.iter().filter_map(|it| name(&it)).collect();
        let names = if names.is_empty() {
            "no names".to_owned()
        } else {
            names.join(", ")
        };
        ironclaw_host::untrusted::message(&names)
    };
    let failed = |what| SourceError::Reference {
        path: place.path().to_owned(),
        what,
        known: known(),
    };
    let Some(reference) = reference else {
        return match &*index.manifests {
            [] => Err(failed("no image".to_owned())),
            [only] => Ok(only.clone()),
            [first, ..] if index.manifests.iter().all(|it| name(&it) == name(&first)) => {
                ours(index).cloned()
            }
            _ => Err(failed(
                "several images, and no reference says which".to_owned(),
            )),
        };
    };
    let named = index
        .manifests
        .iter()
        .filter(|it| name(it).as_deref() == Some(reference));
    let named = Index {
        manifests: named.cloned().collect(),
    };
    match &*named.manifests {
        [] => Err(failed(format!("no image {reference:?}"))),
        [only] => Ok(only.clone()),
        _ => ours(&named).cloned(),
    }
}

/// Chooses the variant for guests here.
fn ours(index: &Index) -> Result<&Descriptor, SourceError> {
    let found = index.manifests.iter().find(|descriptor| {
        let platform = descriptor.platform.as_ref();
        platform.is_some_and(platform::Platform::is_ours)
    });
    let all = index.manifests.iter().filter_map(|it| it.platform.as_ref());
    found.ok_or_else(|| platform::none_of(all))
}

fn image(place: &Place, digest: Sha256Digest, manifest: &Manifest) -> Result<Image, SourceError> {
    let id = blob::digest(&manifest.config.digest)?;
    let bytes = blob::document("config", place.open(&path(id))?, id)?;
    let (config, archives) = config::parse(&bytes)?;
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
            path: path(blob),
        })
    });
    Ok(Image {
        digest,
        config,
        layers: layers.collect::<Result<_, SourceError>>()?,
    })
}

fn path(digest: Sha256Digest) -> String {
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
