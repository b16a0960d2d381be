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
    /// Follows a step of a recipe.
    #[cfg(feature = "oci")]
    Following {
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// The step.
        text: String,
        /// Whether it was done before, on the same files: it is not done again.
        is_cached: bool,
    },
    /// Makes a guest warm, for a trial.
    #[cfg(feature = "oci")]
    Warming,
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
            #[cfg(feature = "oci")]
            Self::Following {
                number,
                of,
                text,
                is_cached,
            } => {
                let done = if *is_cached { " (cached)" } else { "" };
                write!(f, "step {number} of {of}: {text}{done}")
            }
            #[cfg(feature = "oci")]
            Self::Warming => f.write_str("trying what makes a guest warm"),
            Self::ExtractingKernel => f.write_str("extracting the kernel"),
            Self::Packing => f.write_str("packing the initramfs"),
            Self::Publishing => f.write_str("publishing the template"),
        }
    }
}
