//! What can go wrong with templates.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::TemplateHash;
use super::compression::DecompressError;
use super::kernel::KernelError;
use super::modules::ModuleError;
use crate::disk;
use crate::state_path::Exposed;
use ironclaw_host::host_limits;

/// Why a template could not be built, loaded, verified or deleted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The file system refused something.
    #[error("can't {operation} {path}: {}", host_limits::told(.source), path = .path.display())]
    Io {
        /// What was attempted, as an infinitive.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The directory of the templates can't be made or entered.
    #[error(
        "can't use the directory of the templates {root}: {source}; give this user read, write and search permission or set IRONCLAW_TEMPLATE_PATH to a directory of its own",
        root = .root.display()
    )]
    RootUnusable {
        /// The directory.
        root: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The disk is full.
    #[error(
        "no space left to {operation} {path}: free some on its file system, or set IRONCLAW_TEMPLATE_PATH to a directory on another",
        path = .path.display()
    )]
    NoSpace {
        /// What was attempted, as an infinitive.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
    },
    /// Other users could replace what is booted, and what is run to build it.
    #[error(
        "the template store {} {}, or set IRONCLAW_TEMPLATE_PATH to a directory of its own",
        path.display(),
        Exposed::at(path, component, *owner, *mode)
    )]
    RootExposed {
        /// Path of the store.
        path: PathBuf,
        /// What they can change: the store itself, a directory above it, or a link on the way.
        component: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Its type and permissions (inode(7)).
        mode: u32,
    },
    /// A file that has to be read whole is larger than anything that belongs there.
    #[error("{path} is larger than {limit} bytes", path = .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is accepted, in bytes.
        limit: u64,
    },
    /// Boot arguments that no kernel takes.
    #[error("boot arguments are one line of at most {limit} bytes")]
    BootArgs {
        /// The most that is accepted, in bytes.
        limit: usize,
    },
    /// Something other than 64 hexadecimal digits was given as a template's hash.
    #[error("{text:?} is not a template hash (64 lower-case hexadecimal digits)")]
    BadHash {
        /// What was given.
        text: String,
    },
    /// There is no template of that hash.
    #[error("there is no template {hash} in {root}", root = .root.display())]
    NotFound {
        /// The hash that was asked for.
        hash: TemplateHash,
        /// The store's directory.
        root: PathBuf,
    },
    /// Nothing in a directory with the name of a template says that IronClaw made it.
    #[error("{path} is no template that IronClaw made: it is left alone; remove it by hand if it is to go", path = .path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// The manifest is not one of this format.
    #[error("{path} is not a template manifest: {reason}; build the template again", path = .path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The template was made for another release of IronClaw.
    #[error("template {hash} has {what} {found}, this program needs {needed}; build it again")]
    Outdated {
        /// The template.
        hash: TemplateHash,
        /// What differs: the manifest's format or the guest protocol.
        what: &'static str,
        /// The template's version.
        found: u16,
        /// The version that this program works with.
        needed: u16,
    },
    /// A template's file has another size than its manifest says.
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
    /// A template's file has other content than its manifest says.
    #[error("the content of {path} is not what its manifest says: it is damaged; build the template again", path = .path.display())]
    WrongContent {
        /// The file.
        path: PathBuf,
    },
    /// A program that is needed to build a template is not installed.
    #[error(
        "{program} is not installed, and a template is made from Debian packages: build it on a Debian machine by `ironclaw template build` and copy its directory here (IRONCLAW_TEMPLATE_PATH), or use a kernel of your own (`ironclaw template import`)"
    )]
    ToolMissing {
        /// The program's name.
        program: &'static str,
    },
    /// A program that is needed to build a template failed.
    #[error("{command} failed ({status}): {message}")]
    ToolFailed {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote to standard error.
        message: String,
    },
    /// A program that is needed to build a template did not end in time.
    #[error("{command} did not end within {seconds} s and was stopped")]
    ToolTimedOut {
        /// The command line.
        command: String,
        /// Its time limit.
        seconds: u64,
    },
    /// A package is not in APT's lists.
    #[error(
        "APT offers no package {package}: run `apt-get update`, or check the package sources ({message})"
    )]
    UnknownPackage {
        /// The package.
        package: String,
        /// What APT said.
        message: String,
    },
    /// A package could not be downloaded.
    #[error("can't download {package}: run `apt-get update` and check the network ({message})")]
    Download {
        /// The package, and its version.
        package: String,
        /// What APT said.
        message: String,
    },
    /// A package was downloaded, but it is not what APT's lists say.
    #[error(
        "the download of {package} has another SHA-256 than APT's lists say; run `apt-get update` and try again"
    )]
    WrongPackage {
        /// The package, and its version.
        package: String,
    },
    /// A package does not hold what it is wanted for.
    #[error("package {package} holds no {what}")]
    NotInPackage {
        /// The package.
        package: String,
        /// What was looked for.
        what: &'static str,
    },
    /// The kernel image can't be used.
    #[error("{path}: {source}", path = .path.display())]
    Kernel {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: KernelError,
    },
    /// The kernel's modules can't be used.
    #[error("the modules in {path} can't be used: {source}", path = .path.display())]
    Modules {
        /// The directory of the modules.
        path: PathBuf,
        /// What is wrong with them.
        source: ModuleError,
    },
    /// A compressed kernel module can't be read.
    #[error("can't decompress {path}: {source}", path = .path.display())]
    Decompress {
        /// The module.
        path: PathBuf,
        /// What is wrong with it.
        source: DecompressError,
    },
    /// A program for the guest can't run in it: there is no dynamic linker.
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
    /// Busybox does not tell its applets as it should.
    #[error("busybox names an applet {applet:?}, which is no path")]
    Applet {
        /// What it said.
        applet: String,
    },
}

impl TemplateError {
    /// For `map_err`: the operation that failed, and where.
    pub(super) fn io<'a>(
        operation: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| {
            let path = path.to_owned();
            if disk::is_full(&source) {
                return Self::NoSpace { operation, path };
            }
            Self::Io {
                operation,
                path,
                source,
            }
        }
    }

    /// Whether building the template again is the remedy.
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
