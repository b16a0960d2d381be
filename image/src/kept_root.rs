//! The root of the default template, for the one that replaces it.

use std::path::PathBuf;

use ironclaw_store::Artefact as _;
use serde::Deserialize;

use crate::error::TemplateError;
use crate::file;
use crate::manifest::{MAX_MANIFEST, RootDisk};
use crate::root_origin::RootOrigin;
use crate::store::TemplateStore;
use crate::template::Template;

/// A root to build a template with.
#[derive(Debug)]
pub(crate) struct Root {
    /// The file with its image.
    pub(crate) image: PathBuf,
    /// Where it came from.
    pub(crate) origin: Option<RootOrigin>,
}

/// What a manifest of any release says of a root.
#[derive(Deserialize)]
struct Head {
    root_disk: Option<RootDisk>,
    root_origin: Option<RootOrigin>,
}

impl TemplateStore {
    /// Returns the root of the default template if that is on a disk, and sound: a template that was
    /// made for another release, or with another agent, is built again with it.
    pub(crate) fn default_root(&self) -> Result<Option<Root>, TemplateError> {
        let Some(hash) = self.default_hash()? else {
            return Ok(None);
        };
        let directory = hash.directory(self.root());
        let manifest = directory.join(Template::MANIFEST);
        if !file::exists(&manifest)? {
            return Ok(None);
        }
        let head = serde_json::from_slice::<Head>(&file::read(&manifest, MAX_MANIFEST)?);
        let Ok(Head {
            root_disk: Some(facts),
            root_origin: origin,
        }) = head
        else {
            return Ok(None);
        };
        let image = directory.join(Template::ROOT_DISK);
        if file::digest(&image)? != facts.sha256 {
            return Err(TemplateError::WrongContent { path: image });
        }
        Ok(Some(Root { image, origin }))
    }
}
