//! Where a root comes from, as people write it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use thiserror::Error;

use super::reference::ImageReference;
use super::suite;

/// The source of a template's root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RootSource {
    /// A directory in the OCI image layout.
    OciLayout {
        /// The directory.
        directory: PathBuf,
        /// The name of an image in it; may be missing if it has one alone.
        reference: Option<String>,
    },
    /// Such a directory in a tar archive.
    OciArchive {
        /// The archive.
        file: PathBuf,
        /// The name of an image in it.
        reference: Option<String>,
    },
    /// What `docker save` writes.
    DockerArchive {
        /// The archive.
        file: PathBuf,
        /// The name and tag of an image in it.
        reference: Option<String>,
    },
    /// A directory of the host with a root file system in it.
    Directory(PathBuf),
    /// A tar archive with a root file system in it.
    Tar(PathBuf),
    /// An image in a registry.
    Registry(ImageReference),
    /// Packages of Debian, which `mmdebstrap` installs.
    Debian {
        /// The suite: `bookworm`, `stable`.
        suite: String,
        /// Packages beside the required ones.
        packages: Vec<String>,
    },
}

/// The text names no source.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no source: {reason}")]
pub struct ParseSourceError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The forms of a source, for who gave another one.
const FORMS: &str = "it takes docker://REGISTRY/REF, oci:DIR[:REF], oci-archive:FILE[:REF], \
                     docker-archive:FILE[:REF], rootfs:DIR, tar:FILE or debian:SUITE";

impl fmt::Display for RootSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, reference) = match self {
            Self::OciLayout {
                directory,
                reference,
            } => ("oci", directory, reference.as_ref()),
            Self::OciArchive { file, reference } => ("oci-archive", file, reference.as_ref()),
            Self::DockerArchive { file, reference } => ("docker-archive", file, reference.as_ref()),
            Self::Directory(path) => ("rootfs", path, None),
            Self::Tar(path) => ("tar", path, None),
            Self::Debian { suite, packages } => {
                write!(f, "debian:{suite}")?;
                let mut marks = std::iter::once(" with ").chain(std::iter::repeat(", "));
                return packages.iter().try_for_each(|package| {
                    write!(f, "{}{package}", marks.next().unwrap_or_default())
                });
            }
            Self::Registry(image) => return write!(f, "docker://{image}"),
        };
        write!(f, "{kind}:{}", path.display())?;
        reference.map_or(Ok(()), |reference| write!(f, ":{reference}"))
    }
}

/// Packages can't be included.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IncludeError {
    /// Nothing installs packages there.
    #[error("{0} installs no packages: debian:SUITE alone does")]
    NotInstalled(String),
    /// No package has such a name.
    #[error("{0:?} is no name of a package")]
    NoName(String),
}

impl RootSource {
    /// Has packages beside the required ones installed.
    ///
    /// # Errors
    /// [`IncludeError`]: the source installs none, or one has no name of a package.
    pub fn with_packages(self, more: Vec<String>) -> Result<Self, IncludeError> {
        if let Some(bad) = more.iter().find(|it| !suite::is_package(it)) {
            return Err(IncludeError::NoName(bad.clone()));
        }
        match self {
            Self::Debian {
                suite,
                mut packages,
            } => {
                packages.extend(more);
                Ok(Self::Debian { suite, packages })
            }
            other if more.is_empty() => Ok(other),
            other => Err(IncludeError::NotInstalled(other.to_string())),
        }
    }

    /// Parses a source.
    ///
    /// # Errors
    /// [`ParseSourceError`].
    pub fn parse(text: &OsStr) -> Result<Self, ParseSourceError> {
        let bytes = text.as_bytes();
        let refused = |reason: String| ParseSourceError {
            text: text.to_string_lossy().into_owned(),
            reason,
        };
        let bad = || refused(FORMS.to_owned());
        let colon = bytes
            .iter()
            .position(|byte| *byte == b':')
            .ok_or_else(bad)?;
        let (kind, rest) = (&bytes[..colon], &bytes[colon + 1..]);
        if rest.is_empty() {
            return Err(bad());
        }
        let whole = || PathBuf::from(OsStr::from_bytes(rest));
        let image = || -> Result<(PathBuf, Option<String>), ParseSourceError> {
            // As skopeo has it: the path ends at the first colon.
            let end = rest.iter().position(|byte| *byte == b':');
            let path = PathBuf::from(OsStr::from_bytes(&rest[..end.unwrap_or(rest.len())]));
            let reference = end.map(|end| str::from_utf8(&rest[end + 1..]));
            let reference = reference.transpose().map_err(|_| bad())?;
            let is_usable = !path.as_os_str().is_empty() && reference != Some("");
            is_usable
                .then(|| (path, reference.map(str::to_owned)))
                .ok_or_else(bad)
        };
        Ok(match kind {
            b"oci" => {
                let (directory, reference) = image()?;
                Self::OciLayout {
                    directory,
                    reference,
                }
            }
            b"oci-archive" => {
                let (file, reference) = image()?;
                Self::OciArchive { file, reference }
            }
            b"docker-archive" => {
                let (file, reference) = image()?;
                Self::DockerArchive { file, reference }
            }
            b"docker" => {
                let image = rest.strip_prefix(b"//").ok_or_else(bad)?;
                let image = str::from_utf8(image).map_err(|_| bad())?;
                Self::Registry(ImageReference::parse(image).map_err(refused)?)
            }
            b"debian" => Self::Debian {
                suite: str::from_utf8(rest)
                    .ok()
                    .filter(|suite| suite::is_suite(suite))
                    .ok_or_else(|| refused("debian: takes the name of a suite".to_owned()))?
                    .to_owned(),
                packages: Vec::new(),
            },
            b"rootfs" => Self::Directory(whole()),
            b"tar" => Self::Tar(whole()),
            _ => return Err(bad()),
        })
    }
}
