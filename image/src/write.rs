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
use crate::warm::Warm;

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
    /// The image of a root disk.
    pub(crate) root_disk: Option<Image<'a>>,
    /// Where the root came from, if that is known.
    pub(crate) root_origin: Option<RootOrigin>,
    /// The programs that make guests warm, if there are any.
    pub(crate) warm: Option<Warm>,
    pub(crate) boot_args: String,
}

/// The image of a root disk.
pub(crate) enum Image<'a> {
    /// In a file that is copied.
    Copied(&'a Path),
    /// In its place already.
    #[cfg(all(feature = "debian", feature = "oci"))]
    Made(RootDisk),
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
        progress(Step::Publishing);
        let staging = self.stage()?;
        write_boot(&content, staging.path())?;
        let manifest = write_manifest(content, staging.path())?;
        self.publish(staging, manifest.hash)
    }
}

/// Writes the kernel and the initramfs into a directory.
pub(crate) fn write_boot(content: &Content<'_>, directory: &Path) -> Result<(), TemplateError> {
    write_new(&directory.join(Template::KERNEL), content.kernel)?;
    match &content.initramfs {
        Some(archive) => write_new(&directory.join(Template::INITRAMFS), archive.content),
        None => Ok(()),
    }
}

/// Puts the root's image into the directory, if it is to be copied, and writes the manifest.
pub(crate) fn write_manifest(
    content: Content<'_>,
    directory: &Path,
) -> Result<Manifest, TemplateError> {
    let Content {
        kernel,
        kernel_package,
        release,
        initramfs,
        root_disk,
        root_origin,
        warm,
        boot_args,
    } = content;
    let root_disk = root_disk.map(|image| match image {
        Image::Copied(image) => copy_image(image, directory),
        #[cfg(all(feature = "debian", feature = "oci"))]
        Image::Made(facts) => Ok(facts),
    });
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
        warm,
        boot_args,
    );
    let path = directory.join(Template::MANIFEST);
    let json = manifest
        .to_json()
        .map_err(|error| TemplateError::Manifest {
            path: path.clone(),
            reason: error.to_string(),
        })?;
    write_new(&path, &json)?;
    Ok(manifest)
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), TemplateError> {
    durable::write_new(path, content).map_err(TemplateError::io("write", path))
}
