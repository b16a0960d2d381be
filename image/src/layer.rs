//! Layers of container images: tar archives, one on top of the other, as the OCI image specification
//! has them.
//!
//! Layers are hostile. They are indexed, never extracted: a [`Merge`] makes a
//! [`FileTree`](crate::tree::FileTree) of them, in which owners, devices and links are data. Whatever
//! can't be applied is refused with the layer and the entry's name, and so is what takes too much
//! ([`Limits`]).

mod archive;
mod error;
#[cfg(feature = "fuzzing")]
mod fuzzed;
mod header;
mod limits;
mod merge;
mod pax;
mod sparse;
#[cfg(test)]
mod tests;

pub use error::{LayerError, Refusal};
#[cfg(feature = "fuzzing")]
pub use fuzzed::fuzz;
pub use limits::Limits;
pub use merge::Merge;
