//! Imports templates from existing files: a kernel of the user's own, and its initramfs.

use std::path::PathBuf;

use crate::error::TemplateError;
use crate::file;
use crate::kernel::{self, KernelError};
use crate::links::Reference;
use crate::manifest::is_plain;
use crate::name::TemplateName;
use crate::step::Step;
use crate::store::TemplateStore;
use crate::template::Template;
use crate::write::{Archive, Content, Image};

/// Limit of an imported initramfs, in bytes.
const MAX_INITRAMFS: u64 = 1 << 30;
/// Limit of boot arguments, in bytes (COMMAND_LINE_SIZE of Linux on x86).
const MAX_BOOT_ARGS: usize = 2048;

/// A kernel and an initramfs that boot into a program that speaks the guest protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportSpec {
    /// The path of a kernel that the VMM can boot. All VMMs boot an ELF image with a PVH entry
    /// (`vmlinux` of a kernel with `CONFIG_PVH`); Firecracker boots a bzImage since 1.17.
    pub kernel: PathBuf,
    /// The path of the initramfs, if the kernel needs one.
    pub initramfs: Option<PathBuf>,
    /// The path of the read-only image of the guest's root, if it is to be on a disk: erofs, squashfs or
    /// ext4. Its agent, in the initramfs, mounts it.
    pub root_disk: Option<PathBuf>,
    /// Arguments of the kernel, at most 2048 bytes on one line; the VMM adds what it needs.
    pub boot_args: String,
}

impl TemplateStore {
    /// Copies files into a template and makes it the default; see [`import_as`](Self::import_as).
    ///
    /// # Errors
    /// As for [`import_as`](Self::import_as).
    pub fn import(
        &self,
        spec: &ImportSpec,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        self.import_as(None, spec, progress)
    }

    /// Copies files into a template, and gives it `name`, or else makes it the default. Checks only that the kernel is one: a
    /// guest that does not boot, or whose agent does not speak this release's protocol, fails at
    /// its boot.
    ///
    /// # Errors
    /// If a file can't be read, the kernel is none, or the store can't be written; the store is
    /// unchanged then.
    pub fn import_as(
        &self,
        name: Option<&TemplateName>,
        spec: &ImportSpec,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        if spec.boot_args.len() > MAX_BOOT_ARGS || !is_plain(&spec.boot_args) {
            return Err(TemplateError::BootArgs {
                limit: MAX_BOOT_ARGS,
            });
        }
        let image = file::read(&spec.kernel, kernel::MAX_IMAGE)?;
        if !kernel::is_image(&image) {
            return Err(TemplateError::Kernel {
                path: spec.kernel.clone(),
                source: KernelError::NotAKernel,
            });
        }
        let archive = spec
            .initramfs
            .as_ref()
            .map(|path| file::read(path, MAX_INITRAMFS))
            .transpose()?;
        let _lock = self.lock(|| progress(Step::Waiting))?;
        let content = Content {
            kernel: &image,
            kernel_package: None,
            // Not every ELF image is a Linux kernel that says it.
            release: kernel::release(&image).unwrap_or_else(|_| "unknown".to_owned()),
            initramfs: archive.as_ref().map(|archive| Archive {
                content: archive,
                busybox: None,
                agent_sha256: None,
            }),
            root_disk: spec.root_disk.as_deref().map(Image::Copied),
            root_origin: None,
            warm: None,
            boot_args: spec.boot_args.clone(),
        };
        let template = self.write(content, progress)?;
        let reference = name.cloned().map_or(Reference::Default, Reference::Name);
        self.point(&reference, template.hash())?;
        Ok(template)
    }
}
