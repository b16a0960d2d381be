//! The root of a template, for the one that replaces it.

use std::path::PathBuf;

use ironclaw_store::Artefact as _;
use serde::Deserialize;

use crate::error::TemplateError;
use crate::file;
use crate::hash::TemplateHash;
use crate::manifest::{MAX_MANIFEST, RootDisk};
use crate::root_origin::RootOrigin;
use crate::store::TemplateStore;
use crate::template::Template;
use crate::warm::Warm;

/// A root to build a template with.
#[derive(Debug)]
pub(crate) struct Root {
    /// The file with its image; without one, it is in memory.
    pub(crate) image: Option<PathBuf>,
    /// Where it came from.
    pub(crate) origin: Option<RootOrigin>,
    /// The programs that make guests warm, if there are any.
    pub(crate) warm: Option<Warm>,
}

/// What a manifest of any release says of a root.
#[derive(Deserialize)]
struct Head {
    root_disk: Option<RootDisk>,
    root_origin: Option<RootOrigin>,
    warm: Option<Warm>,
}

impl TemplateStore {
    /// Returns the root of a template if there is more to it than busybox in memory: a template that was
    /// made for another release, or with another agent, is built again with it.
    pub(crate) fn root_of(&self, hash: &TemplateHash) -> Result<Option<Root>, TemplateError> {
        let directory = hash.directory(self.root());
        let manifest = directory.join(Template::MANIFEST);
        if !file::exists(&manifest)? {
            return Ok(None);
        }
        let head = serde_json::from_slice::<Head>(&file::read(&manifest, MAX_MANIFEST)?);
        let Ok(Head {
            root_disk,
            root_origin: origin,
            warm,
        }) = head
        else {
            return Ok(None);
        };
        let Some(facts) = root_disk else {
            return Ok(warm.map(|warm| Root {
                image: None,
                origin: None,
                warm: Some(warm),
            }));
        };
        let image = directory.join(Template::ROOT_DISK);
        if file::digest(&image)? != facts.sha256 {
            return Err(TemplateError::WrongContent { path: image });
        }
        Ok(Some(Root {
            image: Some(image),
            origin,
            warm,
        }))
    }
}
