//! Container images, archives and directories as sources of a template's root.
//!
//! ```text
//! source ──▶ manifest, config ──▶ layers, each checked and unpacked once into the layer store
//!                                     └─▶ `layer::Merge` ──▶ tree ──▶ `erofs::write` ──▶ root image
//! ```
//!
//! Everything in an image is somebody else's: each read has a limit, each blob its digest, and paths are
//! data. Layers are kept by the digest of what is in them, so images that share one share its file.

mod blob;
mod config;
mod docker_archive;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzed;
mod host_tree;
mod layer_store;
mod layout;
mod place;
mod platform;
mod root;
mod source;
mod source_key;
#[cfg(test)]
mod tests;
mod unpack;

pub use crate::root_origin::ImageConfig;
pub use error::SourceError;
#[cfg(feature = "fuzzing")]
pub use fuzzed::fuzz;
#[cfg(feature = "debian")]
pub(crate) use layer_store::StoredLayer;
pub use layer_store::{LayerId, LayerStore};
#[cfg(feature = "debian")]
pub(crate) use root::Opened;
pub use root::{RootBuilder, RootImage, RootStep};
pub use source::{ParseSourceError, RootSource};
pub(crate) use source_key::SourceKey;
