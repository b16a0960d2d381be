//! The OCI image layout: an index, and blobs by their digests.

use ironclaw_store::Sha256Digest;

use super::blob::{self, Descriptor};
use super::error::SourceError;
use super::manifest::{self, Document, Documents, Image, Index, ours};
use super::place::Place;

/// The annotation with the name of an image.
const REFERENCE: &str = "org.opencontainers.image.ref.name";

impl Documents for Place {
    fn manifest(&self, digest: Sha256Digest) -> Result<Vec<u8>, SourceError> {
        blob::document("manifest", self.open(&manifest::path(digest))?, digest)
    }

    fn config(&self, digest: Sha256Digest) -> Result<Vec<u8>, SourceError> {
        blob::document("config", self.open(&manifest::path(digest))?, digest)
    }
}

/// Finds an image in a layout.
pub(super) fn find(place: &Place, reference: Option<&str>) -> Result<Image, SourceError> {
    let index = blob::bounded("index", place.open("index.json")?)?;
    let index: Index = blob::json("index", &index)?;
    let digest = blob::digest(&chosen(place, &index, reference)?.digest)?;
    let document = Document::parse(&place.manifest(digest)?)?;
    manifest::follow(place, digest, document)
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
