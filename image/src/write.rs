//! A template's files, and their way to disk.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ironclaw_store::{Sha256Digest, copy_file, file as durable};

use crate::error::TemplateError;
use crate::file;
use crate::manifest::{Initramfs, Kernel, Manifest, PackageVersion, RootDisk};
use crate::root_origin::RootOrigin;
use crate::step::Step;
use crate::store::TemplateStore;
use crate::template::Template;

/// Limit of the image of a root disk in bytes.
const MAX_ROOT_DISK: u64 = 256 << 30;
/// Bytes of a disk that is read at a time: the rest of an image would not be there for a guest.
const SECTOR: u64 = 512;

/// What a template consists of.
pub(crate) struct Content<'a> {
    pub(crate) kernel: &'a [u8],
    pub(crate) kernel_package: Option<PackageVersion>,
    /// As `uname -r` prints it in the guest.
    pub(crate) release: String,
    pub(crate) initramfs: Option<Archive<'a>>,
    /// The file with the image of a root disk, which is copied.
    pub(crate) root_disk: Option<&'a Path>,
    /// Where the root came from, if that is known.
    pub(crate) root_origin: Option<RootOrigin>,
    pub(crate) boot_args: String,
}

/// An initramfs.
pub(crate) struct Archive<'a> {
    pub(crate) content: &'a [u8],
    pub(crate) busybox: Option<PackageVersion>,
    /// Not known of an imported one.
    pub(crate) agent_sha256: Option<Sha256Digest>,
}

/// Copies the image of a root disk into a directory, durably; returns what the manifest says of it.
fn copy_image(image: &Path, directory: &Path) -> Result<RootDisk, TemplateError> {
    let from = file::open(image)?;
    let size = from
        .metadata()
        .map_err(TemplateError::io("look at", image))?
        .len();
    if size == 0 || size > MAX_ROOT_DISK || size % SECTOR != 0 {
        return Err(TemplateError::RootDisk {
            path: image.to_owned(),
            size,
        });
    }
    let path = directory.join(Template::ROOT_DISK);
    let failed = || TemplateError::io("write", &path);
    let mut options = File::options();
    let to = options.read(true).write(true).create_new(true).mode(0o600);
    let to = to.open(&path).map_err(failed())?;
    copy_file(&from, &to, size).map_err(failed())?;
    to.sync_all().map_err(failed())?;
    Ok(RootDisk {
        sha256: file::digest(&path)?,
        size,
    })
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
            root_disk,
            root_origin,
            boot_args,
        } = content;
        progress(Step::Publishing);
        let staging = self.stage()?;
        let root_disk = root_disk.map(|image| copy_image(image, staging.path()));
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
            (root_disk.transpose()?, root_origin),
            boot_args,
        );
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
