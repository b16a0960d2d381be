//! Container images, archives and directories as sources of a template's root.
//!
//! ```text
//! source ──▶ manifest, config ──▶ layers, each checked and unpacked once into the layer store
//!                                     └─▶ `layer::Merge` ──▶ tree ──▶ `erofs::write` ──▶ root image
//! ```
//!
//! Everything in an image is somebody else's: each read has a limit, each blob its digest, and paths are
//! data. Layers are kept by the digest of what is in them, so images that share one share its file.

mod access;
mod blob;
mod child;
mod config;
mod docker_archive;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzed;
mod host_tree;
mod layer_store;
mod layout;
mod manifest;
mod place;
mod platform;
mod reference;
#[cfg(feature = "registry")]
mod registry;
mod registry_error;
mod root;
mod source;
mod source_key;
mod suite;
#[cfg(test)]
mod tests;
mod unpack;
#[cfg(feature = "registry")]
mod watched;

pub use crate::root_origin::ImageConfig;
pub use access::RegistryAccess;
pub use error::SourceError;
#[cfg(feature = "fuzzing")]
pub use fuzzed::fuzz;
#[cfg(feature = "debian")]
pub(crate) use layer_store::{Expected, StoredLayer};
pub use layer_store::{LayerId, LayerStore};
pub use reference::ImageReference;
pub use registry_error::RegistryError;
#[cfg(feature = "debian")]
pub(crate) use root::Opened;
pub use root::{RootBuilder, RootImage, RootStep};
pub use source::{IncludeError, ParseSourceError, RootSource};
pub(crate) use source_key::SourceKey;
