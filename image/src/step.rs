//! What a build or an import does.

use std::fmt;

#[cfg(feature = "oci")]
use crate::oci::RootStep;

/// The next step of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Waits for another process that builds or deletes in the same store.
    Waiting,
    /// Downloads a package. Packages of an earlier build are not downloaded again.
    Downloading {
        /// The name of the package.
        package: String,
    },
    /// Unpacks a package.
    Unpacking {
        /// The name of the package.
        package: String,
    },
    /// Makes the root.
    #[cfg(feature = "oci")]
    Root(RootStep),
    /// Decompresses the kernel's image.
    ExtractingKernel,
    /// Packs the initramfs.
    Packing,
    /// Writes the template and publishes it.
    Publishing,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another build"),
            Self::Downloading { package } => write!(f, "downloading {package}"),
            Self::Unpacking { package } => write!(f, "unpacking {package}"),
            #[cfg(feature = "oci")]
            Self::Root(step) => step.fmt(f),
            Self::ExtractingKernel => f.write_str("extracting the kernel"),
            Self::Packing => f.write_str("packing the initramfs"),
            Self::Publishing => f.write_str("publishing the template"),
        }
    }
}
