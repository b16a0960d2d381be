//! What `docker save` writes: a tar archive with a list of images.

use ironclaw_store::Sha256Digest;
use serde::Deserialize;

use super::blob;
use super::config;
use super::error::SourceError;
use super::manifest::{Image, Layer};
use super::place::Place;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Finds an image in an archive.
pub(super) fn find(place: &Place, reference: Option<&str>) -> Result<Image, SourceError> {
    let bytes = blob::bounded("list of images", place.open("manifest.json")?)?;
    let entries: Vec<ListedImage> = blob::json("list of images", &bytes)?;
    let entry = chosen(place, &entries, reference)?;
    let bytes = blob::bounded("config", place.open(&entry.config)?)?;
    let (config, archives) = config::parse(&bytes)?;
    if archives.len() != entry.layers.len() {
        return Err(SourceError::Document {
            what: "list of images",
            reason: format!(
                "it has {} layers, and the config {}",
                entry.layers.len(),
                archives.len()
            ),
        });
    }
    let layers = archives.into_iter().zip(&entry.layers);
    let layers = layers.map(|(archive, path)| Layer {
        archive,
        blob: None,
        size: None,
        path: path.clone(),
    });
    Ok(Image {
        // There is no manifest: the config has the digests of all else.
        digest: Sha256Digest::of(&bytes),
        config,
        layers: layers.collect(),
    })
}

fn chosen<'a>(
    place: &Place,
    entries: &'a [ListedImage],
    reference: Option<&str>,
) -> Result<&'a ListedImage, SourceError> {
    let tags = |entry: &'a ListedImage| entry.repo_tags.iter().flatten();
    let failed = |what| {
        let known: Vec<_> = entries.iter().flat_map(tags).map(String::as_str).collect();
        SourceError::Reference {
            path: place.path().to_owned(),
            what,
            known: ironclaw_host::untrusted::message(&known.join(", ")),
        }
    };
    match (entries, reference) {
        ([], _) => Err(failed("no image".to_owned())),
        ([only], None) => Ok(only),
        (_, None) => Err(failed(
            "several images, and no reference says which".to_owned(),
        )),
        (_, Some(reference)) => entries
            .iter()
            .find(|entry| tags(entry).any(|tag| tag == reference))
            .ok_or_else(|| failed(format!("no image {reference:?}"))),
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(bytes: &[u8]) {
    drop(blob::json::<Vec<ListedImage>>("list of images", bytes));
}
