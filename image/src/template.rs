//! A published template.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::TemplateError;
use crate::file;
use crate::hash::{MANIFEST, TemplateHash};
use crate::manifest::Manifest;

/// A published template; cheap to clone.
#[derive(Debug, Clone)]
pub struct Template(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    root_disk: Option<PathBuf>,
    manifest: Manifest,
}

impl Template {
    pub(crate) const KERNEL: &str = "vmlinux";
    pub(crate) const INITRAMFS: &str = "initramfs";
    pub(crate) const ROOT_DISK: &str = "root-disk";
    pub(crate) const MANIFEST: &str = MANIFEST;

    /// Reads the manifest in `directory` and compares the sizes of the files.
    pub(crate) fn load(directory: &Path, hash: &TemplateHash) -> Result<Self, TemplateError> {
        let manifest = Manifest::read(&directory.join(Self::MANIFEST), hash)?;
        let kernel = directory.join(Self::KERNEL);
        let initramfs = manifest.initramfs.as_ref();
        let initramfs = initramfs.map(|facts| (directory.join(Self::INITRAMFS), facts.size));
        let root_disk = manifest.root_disk.as_ref();
        let root_disk = root_disk.map(|facts| (directory.join(Self::ROOT_DISK), facts.size));
        let others = [&initramfs, &root_disk].map(|file| file.as_ref());
        let files = [Some((&kernel, manifest.kernel.size))]
            .into_iter()
            .chain(others.map(|file| file.map(|(path, size)| (path, *size))));
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
            root_disk: root_disk.map(|(path, _)| path),
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
        let root_disk = self.root_disk().zip(manifest.root_disk.as_ref());
        let files = [Some((self.kernel(), &manifest.kernel.sha256))]
            .into_iter()
            .chain([initramfs.map(|(path, facts)| (path, &facts.sha256))])
            .chain([root_disk.map(|(path, facts)| (path, &facts.sha256))]);
        for (path, expected) in files.flatten() {
            if file::digest(path)? != *expected {
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
    /// [`TemplateError::Store`] if the file can't be read.
    pub fn has_agent(&self, path: &Path) -> Result<bool, TemplateError> {
        let agent = self.manifest().initramfs.as_ref();
        let Some(agent) = agent.and_then(|initramfs| initramfs.agent_sha256.as_ref()) else {
            return Ok(false);
        };
        Ok(file::digest(path)? == *agent)
    }

    /// Returns whether it was imported (`TemplateStore::import`): nobody replaces its agent then.
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

    /// Returns the path of the image of the guest's root, which all VMs and snapshots of the template
    /// share; `None` if the root is the initramfs.
    #[must_use]
    pub fn root_disk(&self) -> Option<&Path> {
        self.0.root_disk.as_deref()
    }

    /// Returns arguments for the kernel that do not depend on the VMM.
    #[must_use]
    pub fn boot_args(&self) -> &str {
        &self.manifest().boot_args
    }

    /// Returns its directory.
    pub(crate) fn directory(&self) -> &Path {
        // Made by joining a name to that.
        self.0.kernel.parent().unwrap_or(Path::new("/"))
    }

    /// Returns whether it has its name: one that is being built has not.
    pub(crate) fn is_published(&self) -> bool {
        let name = self.hash().to_string();
        self.directory().file_name().is_some_and(|it| *it == *name)
    }

    /// Returns the directory of the store that it is in.
    pub(crate) fn root(&self) -> &Path {
        let directory = self.directory();
        directory.parent().unwrap_or(directory)
    }

    /// Returns the manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }
}
