//! Templates: a kernel, an initramfs and boot arguments for a VM, made from Debian's packages.
//!
//! A template is named by a hash of its content, so the same agent, kernel and busybox make the
//! same template on every machine. It is built in a staging directory, published by one rename, and
//! never changed afterwards.
//!
//! ```text
//! <root>/<hash>/vmlinux         the kernel's ELF image
//!               initramfs       newc cpio archive, see `initramfs`
//!               template.json   Manifest
//!        default -> <hash>      replaced atomically by a build
//!        .cache/                downloaded packages, checked again on every use
//!        .staging-*/            builds under way; locked while their process lives
//!        .lock                  held by the process that builds or deletes
//! ```
//!
//! All functions block, [`TemplateStore::build`] for a minute or more: asynchronous callers have to
//! run them on a thread for blocking work.

mod archive;
mod boot_args;
mod build;
mod compression;
mod debian;
mod elf;
mod error;
mod file;
#[cfg(test)]
mod fixture;
mod hash;
mod import;
mod initramfs;
mod kernel;
mod manifest;
mod modules;
mod staging;
mod store;
mod tool;

use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz {
    pub(crate) use super::debian::fuzz as package;
    pub(crate) use super::elf::fuzz as elf;
    pub(crate) use super::initramfs::fuzz as applets;
    pub(crate) use super::kernel::fuzz as kernel;
    pub(crate) use super::manifest::fuzz as manifest;

    /// Returns minimal programs, modules and kernels, with a name for each.
    #[cfg(test)]
    pub(crate) fn seeds() -> [(&'static str, Vec<u8>); 7] {
        use super::fixture::{RELEASE, bz_image, lz4_legacy, module, program, vmlinux, xz};
        let kernel = vmlinux(true);
        let with_size = |mut payload: Vec<u8>| {
            payload.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
            payload
        };
        [
            ("program", program("hi")),
            ("module", module(RELEASE, "virtio,virtio_ring")),
            ("vmlinux", kernel.clone()),
            ("lz4", bz_image(&with_size(lz4_legacy(&kernel, 100)))),
            ("xz", bz_image(&with_size(xz(&kernel)))),
            ("lz4_alone", lz4_legacy(&kernel, 100)),
            ("xz_alone", xz(&kernel)),
        ]
    }
}
pub use self::build::{BuildSpec, BusyboxSource, KernelSource, Step};
pub use self::compression::DecompressError;
pub use self::error::TemplateError;
pub use self::hash::{Sha256Hex, TemplateHash};
pub use self::import::ImportSpec;
pub use self::kernel::KernelError;
pub use self::manifest::{FORMAT, Initramfs, Kernel, Manifest, PackageVersion};
pub use self::modules::ModuleError;
pub use self::store::{Listed, TemplateStore};

/// A published template; cheap to clone.
#[derive(Debug, Clone)]
pub struct Template(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    manifest: Manifest,
}

impl Template {
    const KERNEL: &str = "vmlinux";
    const INITRAMFS: &str = "initramfs";
    const MANIFEST: &str = "template.json";

    /// Reads the manifest in `directory` and compares the sizes of the files.
    fn load(directory: &Path, hash: &TemplateHash) -> Result<Self, TemplateError> {
        let manifest = Manifest::read(&directory.join(Self::MANIFEST), hash)?;
        let kernel = directory.join(Self::KERNEL);
        let initramfs = manifest.initramfs.as_ref();
        let initramfs = initramfs.map(|facts| (directory.join(Self::INITRAMFS), facts.size));
        let files = [Some((&kernel, manifest.kernel.size))]
            .into_iter()
            .chain([initramfs.as_ref().map(|(path, size)| (path, *size))]);
        for (path, expected) in files.flatten() {
            let found = path
                .metadata()
                .map_err(TemplateError::io("look at", path))?
                .len();
            if found != expected {
                return Err(TemplateError::WrongSize {
                    path: path.clone(),
                    found,
                    expected,
                });
            }
        }
        Ok(Self(Arc::new(Inner {
            kernel,
            initramfs: initramfs.map(|(path, _)| path),
            manifest,
        })))
    }

    /// Compares the content of all files with the hashes in the manifest.
    ///
    /// # Errors
    /// [`TemplateError::WrongContent`] with the first file that differs.
    pub fn verify(&self) -> Result<(), TemplateError> {
        let manifest = self.manifest();
        let initramfs = self.initramfs().zip(manifest.initramfs.as_ref());
        let files = [Some((self.kernel(), &manifest.kernel.sha256))]
            .into_iter()
            .chain([initramfs.map(|(path, facts)| (path, &facts.sha256))]);
        for (path, expected) in files.flatten() {
            if Sha256Hex::of_file(path)? != *expected {
                return Err(TemplateError::WrongContent {
                    path: path.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Reads the file at `path` and returns whether it is the guest agent in this template.
    ///
    /// # Errors
    /// [`TemplateError::Io`] if the file can't be read.
    pub fn has_agent(&self, path: &Path) -> Result<bool, TemplateError> {
        let agent = self.manifest().initramfs.as_ref();
        let Some(agent) = agent.and_then(|initramfs| initramfs.agent_sha256.as_ref()) else {
            return Ok(false);
        };
        Ok(Sha256Hex::of_file(path)? == *agent)
    }

    /// Returns whether it was imported ([`TemplateStore::import`]): nobody replaces its agent then.
    #[must_use]
    pub fn is_imported(&self) -> bool {
        self.manifest().is_imported()
    }

    /// Returns the template's name.
    #[must_use]
    pub fn hash(&self) -> &TemplateHash {
        &self.manifest().hash
    }

    /// Returns the path of the kernel: an ELF image with a PVH entry in a built template, the given
    /// file in an imported one.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.0.kernel
    }

    /// Returns the path of the initramfs: an uncompressed cpio archive in a built template.
    #[must_use]
    pub fn initramfs(&self) -> Option<&Path> {
        self.0.initramfs.as_deref()
    }

    /// Returns arguments for the kernel that do not depend on the VMM.
    #[must_use]
    pub fn boot_args(&self) -> &str {
        &self.manifest().boot_args
    }

    /// Returns the manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }
}

#[cfg(test)]
mod tests;
