//! Templates: a kernel, an initramfs and boot arguments for a VM, made from Debian's packages.
//!
//! A template is named by a hash of its content, so the same agent, kernel and busybox make the
//! same template on every machine. It is built in a staging directory, published by one rename, and
//! never changed afterwards.
//!
//! ```text
//! <root>/<hash>/vmlinux         the kernel's ELF image
//!               initramfs       newc cpio archive, see `initramfs`
//!               root-disk       the image of its root, if that is on a disk
//!               template.json   Manifest
//!        default -> <hash>      or a name; replaced atomically
//!        .names/<name> -> <hash>   replaced by a build under that name
//!        .images/<key> -> <hash>   what an image, an archive or a directory held when it was built
//!        .cache/                downloaded packages, checked again on every use
//!        .layers/               unpacked layers of images, see `oci::LayerStore`
//!        .steps/                which layer the program of a step made, see `recipe`
//!        .staging-*/            builds under way; locked while their process lives
//!        .lock                  held by the process that builds or deletes
//! ```
//!
//! All functions block, [`TemplateStore::build`] for a minute or more: asynchronous callers have to
//! run them on a thread for blocking work.

mod choice;
#[cfg(feature = "debian")]
mod debian;
pub mod erofs;
mod error;
mod ext4;
mod file;
#[cfg(any(all(test, feature = "debian"), feature = "fuzzing"))]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a fuzzing build uses a part of it, and tests fail by panicking"
)]
mod fixture;
mod guest_failure;
mod guests;
mod hash;
mod import;
#[cfg(feature = "debian")]
mod kept_root;
mod kernel;
#[cfg(feature = "oci")]
pub mod layer;
mod links;
mod manifest;
mod name;
mod named;
#[cfg(feature = "oci")]
pub mod oci;
#[cfg(feature = "oci")]
pub mod recipe;
#[cfg(all(feature = "debian", feature = "oci"))]
mod recipe_build;
mod references;
mod removal;
mod root_origin;
#[cfg(all(feature = "debian", feature = "oci"))]
mod rooted;
mod step;
#[cfg(all(feature = "debian", feature = "oci"))]
mod step_cache;
mod store;
mod template;
#[cfg(test)]
#[cfg(feature = "debian")]
mod tests;
pub mod tree;
#[cfg(feature = "debian")]
mod wanted;
mod warm;
mod write;

pub use choice::TemplateChoice;
#[cfg(feature = "debian")]
pub use debian::{BuildSpec, BusyboxSource, DecompressError, KernelSource, ModuleError};
pub use error::TemplateError;
pub use ext4::format_ext4;
pub use guest_failure::GuestFailure;
pub use guests::{Guests, Program};
pub use hash::{ParseTemplateHashError, TemplateHash};
pub use import::ImportSpec;
pub use ironclaw_store::{Sha256Digest, StoreError};
pub use kernel::KernelError;
pub use manifest::{FORMAT, Initramfs, Kernel, Manifest, PackageVersion, RootDisk};
pub use name::{ParseTemplateNameError, TemplateName};
pub use references::REFERENCE;
pub use removal::{Removal, TemplatePin};
pub use root_origin::{ImageConfig, RootOrigin};
pub use step::Step;
pub use store::{Listed, TemplateStore};
pub use template::Template;
pub use warm::Warm;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz {
    //! What reads files of others, for the targets in `fuzz/`.

    pub use crate::debian::fuzz::{applets, elf, kernel, package};
    pub use crate::fixture::seeds;
    pub use crate::layer::fuzz as layers;
    pub use crate::manifest::fuzz as manifest;
    pub use crate::oci::fuzz as image_config;
    pub use crate::recipe::fuzz as recipes;
}
