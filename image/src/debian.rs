//! Templates from Debian's packages, or from files in their place.

mod archive;
mod boot_args;
mod build;
mod compression;
mod directory;
mod elf;
mod initramfs;
mod module_error;
mod modules;
mod packages;
mod tool;
mod vmlinux;

#[cfg(feature = "oci")]
pub(crate) use build::BootFiles;
#[cfg(test)]
pub(crate) use build::CACHE;
pub use build::{BuildSpec, BusyboxSource, KernelSource};
pub use compression::DecompressError;
#[cfg(feature = "oci")]
pub(crate) use initramfs::read_program;
pub use module_error::ModuleError;

#[cfg(test)]
pub(crate) use directory::entries;
#[cfg(test)]
pub(crate) use elf::{KernelKind, kernel_kind};

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz {
    pub use super::elf::fuzz as elf;
    pub use super::initramfs::fuzz as applets;
    pub use super::packages::fuzz as package;
    pub use super::vmlinux::fuzz as kernel;
}
