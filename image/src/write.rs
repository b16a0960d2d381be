//! A template's files, and their way to disk.

use ironclaw_store::{Sha256Digest, file as durable};

use crate::error::TemplateError;
use crate::manifest::{Initramfs, Kernel, Manifest, PackageVersion};
use crate::step::Step;
use crate::store::TemplateStore;
use crate::template::Template;

/// What a template consists of.
pub(crate) struct Content<'a> {
    pub(crate) kernel: &'a [u8],
    pub(crate) kernel_package: Option<PackageVersion>,
    /// As `uname -r` prints it in the guest.
    pub(crate) release: String,
    pub(crate) initramfs: Option<Archive<'a>>,
    pub(crate) boot_args: String,
}

/// An initramfs.
pub(crate) struct Archive<'a> {
    pub(crate) content: &'a [u8],
    pub(crate) busybox: Option<PackageVersion>,
    /// Not known of an imported one.
    pub(crate) agent_sha256: Option<Sha256Digest>,
}

impl TemplateStore {
    /// Writes a template's files and publishes them. The caller holds the lock of builds.
    pub(crate) fn write(
        &self,
        content: Content<'_>,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Template, TemplateError> {
        let Content {
            kernel,
            kernel_package,
            release,
            initramfs,
            boot_args,
        } = content;
        let archive = initramfs.as_ref().map(|archive| archive.content);
        let manifest = Manifest::new(
            Kernel {
                package: kernel_package,
                release,
                sha256: Sha256Digest::of(kernel),
                size: kernel.len() as u64,
            },
            initramfs.map(|archive| Initramfs {
                busybox: archive.busybox,
                agent_sha256: archive.agent_sha256,
                sha256: Sha256Digest::of(archive.content),
                size: archive.content.len() as u64,
            }),
            boot_args,
        );
        progress(Step::Publishing);
        let staging = self.stage()?;
        let write = |name: &str, content: &[u8]| {
            let path = staging.path().join(name);
            durable::write_new(&path, content).map_err(TemplateError::io("write", &path))
        };
        write(Template::KERNEL, kernel)?;
        if let Some(archive) = archive {
            write(Template::INITRAMFS, archive)?;
        }
        let json = manifest
            .to_json()
            .map_err(|error| TemplateError::Manifest {
                path: staging.path().join(Template::MANIFEST),
                reason: error.to_string(),
            })?;
        write(Template::MANIFEST, &json)?;
        self.publish(staging, manifest.hash)
    }
}
