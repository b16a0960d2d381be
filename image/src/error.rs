//! Errors of templates.

use std::io;
use std::path::{Path, PathBuf};

use ironclaw_store::{Artefact as _, StoreError};
use thiserror::Error;

#[cfg(feature = "debian")]
use crate::debian::{DecompressError, ModuleError};
use crate::hash::{ParseTemplateHashError, TemplateHash};
use crate::kernel::KernelError;
use crate::name::TemplateName;

/// The reason why a template could not be built, loaded, verified or deleted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The store can't be used, or the operating system refused something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source of a root can't be used.
    #[cfg(feature = "oci")]
    #[error(transparent)]
    Source(crate::oci::SourceError),
    /// A step of a recipe failed.
    #[cfg(feature = "oci")]
    #[error("{}{step}", .file.as_ref().map(|file| format!("{file}, ")).unwrap_or_default())]
    Step {
        /// The Dockerfile that it is in.
        file: Option<String>,
        /// The step and the reason.
        #[source]
        step: Box<crate::recipe::StepError>,
    },
    /// A Dockerfile can't be used.
    #[cfg(feature = "oci")]
    #[error("{file}, {source}")]
    Dockerfile {
        /// Its name.
        file: String,
        /// What is wrong with it.
        source: crate::recipe::DockerfileError,
    },
    /// A template that can't be gone on from.
    #[cfg(feature = "oci")]
    #[error("template {hash} can't be gone on from: {reason}")]
    Base {
        /// The template.
        hash: TemplateHash,
        /// The reason.
        reason: String,
    },
    /// What should make guests warm does not.
    #[cfg(feature = "oci")]
    #[error("no guest can be made warm")]
    Warm(#[source] crate::guest_failure::GuestFailure),
    /// A file that has to be read as a whole is larger than anything that belongs there.
    #[error("{path} is larger than {limit} bytes", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file that no guest could have as its root.
    #[error(
        "{path} has {size} bytes, and the image of a root disk a multiple of 512, up to 256 GiB: make one \
         with `mkfs.erofs`, `mksquashfs` or `mke2fs -d`",
        path = .path.display()
    )]
    RootDisk {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Boot arguments that no kernel accepts.
    #[error("boot arguments are one line of at most {limit} bytes")]
    BootArgs {
        /// The limit in bytes.
        limit: usize,
    },
    /// What should be a template's hash is none.
    #[error(transparent)]
    BadHash(#[from] ParseTemplateHashError),
    /// No template has that hash.
    #[error("there is no template {hash} in {root}", root = .root.display())]
    NotFound {
        /// The hash.
        hash: TemplateHash,
        /// The store's directory.
        root: PathBuf,
    },
    /// No template has that name.
    #[error(
        "there is no template named {name} (there is: {known}): build it by `ironclaw template build {name}{}`",
        if name.is_minimal() || name.is_base() { "" } else { " --from SOURCE" }
    )]
    NoSuchName {
        /// The name.
        name: TemplateName,
        /// The names that there are.
        known: String,
    },
    /// A directory with the name of a template has no mark of IronClaw.
    #[error("{path} is no template that IronClaw made: it is left alone; remove it by hand if it is to go", path = .path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// The manifest does not have this format.
    #[error("{path} is not a template manifest: {reason}; build the template again", path = .path.display())]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no usable template, and a program without the feature `debian` can't build one.
    #[error(
        "there is no usable template in {root}, and this program has no builder for one: import a kernel (`TemplateStore::import`), or build it with the feature `debian`",
        root = .root.display()
    )]
    NoBuilder {
        /// The store's directory.
        root: PathBuf,
    },
    /// The template was made for another release of IronClaw.
    #[error("template {hash} has {what} {found}, this program needs {needed}; build it again")]
    Outdated {
        /// The template's hash.
        hash: TemplateHash,
        /// The version that differs: of the manifest's format or the guest protocol.
        what: &'static str,
        /// The template's version.
        found: u16,
        /// The version that this program supports.
        needed: u16,
    },
    /// The size of a template's file differs from its manifest.
    #[error(
        "{path} has {found} bytes, its manifest says {expected}: it is damaged; build the template again",
        path = .path.display()
    )]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// Its size in bytes according to the manifest.
        expected: u64,
    },
    /// The content of a template's file differs from its manifest.
    #[error("the content of {path} is not what its manifest says: it is damaged; build the template again", path = .path.display())]
    WrongContent {
        /// The file.
        path: PathBuf,
    },
    /// A program needed to build a template is not installed.
    #[error(
        "{program} is not installed, and a template is made from Debian packages: build it on a Debian machine by `ironclaw template build` and copy its directory here (`template_path`), or use a kernel of your own (`ironclaw template import`)"
    )]
    ToolMissing {
        /// The program's name.
        program: &'static str,
    },
    /// A program needed to build a template failed.
    #[error("{command} failed ({status}): {message}")]
    ToolFailed {
        /// The command line.
        command: String,
        /// The status with which it ended.
        status: String,
        /// The end of its standard error.
        message: String,
    },
    /// A program needed to build a template did not end in time.
    #[error("{command} did not end within {seconds} s and was stopped")]
    ToolTimedOut {
        /// The command line.
        command: String,
        /// Its timeout.
        seconds: u64,
    },
    /// A package is not in APT's lists.
    #[error(
        "APT offers no package {package}: run `apt-get update`, or check the package sources ({message})"
    )]
    UnknownPackage {
        /// The package.
        package: String,
        /// APT's message.
        message: String,
    },
    /// A package could not be downloaded.
    #[error("can't download {package}: run `apt-get update` and check the network ({message})")]
    Download {
        /// The package and its version.
        package: String,
        /// APT's message.
        message: String,
    },
    /// A downloaded package differs from APT's lists.
    #[error(
        "the download of {package} has another SHA-256 than APT's lists say; run `apt-get update` and try again"
    )]
    WrongPackage {
        /// The package and its version.
        package: String,
    },
    /// A package lacks what it is used for.
    #[error("package {package} holds no {what}")]
    NotInPackage {
        /// The package.
        package: String,
        /// What it lacks.
        what: &'static str,
    },
    /// The kernel image can't be used.
    #[error("{path} can't be the kernel of a template", path = .path.display())]
    Kernel {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: KernelError,
    },
    /// The kernel's modules can't be used.
    #[cfg(feature = "debian")]
    #[error("the modules in {path} can't be used", path = .path.display())]
    Modules {
        /// The directory of the modules.
        path: PathBuf,
        /// What is wrong with them.
        source: ModuleError,
    },
    /// A compressed kernel module can't be read.
    #[cfg(feature = "debian")]
    #[error("can't decompress {path}", path = .path.display())]
    Decompress {
        /// The module.
        path: PathBuf,
        /// What is wrong with it.
        source: DecompressError,
    },
    /// A program for the guest needs a dynamic linker, which the guest lacks.
    #[error(
        "{path} is not a static x86-64 executable, which a guest needs: {reason}; `cargo xtask setup` builds a static guest agent",
        path = .path.display()
    )]
    NotStatic {
        /// The program.
        path: PathBuf,
        /// What it is instead.
        reason: &'static str,
    },
    /// Busybox printed an unexpected list of applets.
    #[error("busybox names an applet {applet:?}, which is no path")]
    Applet {
        /// The unexpected entry.
        applet: String,
    },
}

#[cfg(feature = "oci")]
impl From<crate::oci::SourceError> for TemplateError {
    fn from(error: crate::oci::SourceError) -> Self {
        match error {
            // What the store lacks is no fault of the source.
            crate::oci::SourceError::Store(error) => Self::Store(error),
            error => Self::Source(error),
        }
    }
}

impl TemplateError {
    /// Creates an I/O error for `map_err`, from the operation and the path.
    pub(crate) fn io<'a>(
        operation: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| StoreError::io(TemplateHash::STORE, operation, path, source).into()
    }

    /// Returns whether rebuilding the template is the remedy.
    #[must_use]
    pub fn needs_rebuild(&self) -> bool {
        matches!(
            self,
            Self::Manifest { .. }
                | Self::Outdated { .. }
                | Self::WrongSize { .. }
                | Self::WrongContent { .. }
                | Self::NotFound { .. }
        )
    }
}
