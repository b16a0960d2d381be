//! Finds the Firecracker binary and checks its version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use semver::Version;
use tokio::time::timeout;

use super::quirks::Quirks;
use crate::sys::program::Program;
use crate::vm::vmm::VmmError;
use crate::vm::vmm::process::{Launch, Process};
use crate::vm::vmm::program::find_program;

pub(in crate::vm) const PROGRAM: &str = "firecracker";

const HINT: &str = "put a release from \
                    https://github.com/firecracker-microvm/firecracker/releases on PATH, or set \
                    `firecracker` to the binary";

/// Timeout of printing a version, which takes milliseconds.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// A Firecracker binary of a supported version.
#[derive(Debug, Clone)]
pub struct FirecrackerBinary {
    /// Its absolute path.
    pub path: PathBuf,
    /// The version that it reports, like `1.16.1`.
    pub version: String,
    /// The features and defects of that version.
    pub quirks: Quirks,
}

impl FirecrackerBinary {
    /// Finds the binary at `configured`, or else on PATH.
    ///
    /// # Errors
    /// [`VmmError::NotInstalled`], or [`VmmError::Unusable`] if it is not Firecracker or its
    /// version is not supported ([`Unsupported`](super::Unsupported)).
    pub async fn find(configured: Option<&Path>) -> Result<Self, VmmError> {
        let path = find_program(PROGRAM, configured, HINT)?;
        let mut program = Program::new(&path);
        program.arg("--version");
        let process = Process::start(Launch::new(program))
            .await
            .map_err(VmmError::io(format!("start {}", path.display())))?;
        let exit = timeout(VERSION_TIMEOUT, process.exited())
            .await
            .map_err(|_| VmmError::TimedOut {
                operation: "say its version",
                after: VERSION_TIMEOUT,
            })?;
        let unusable = |reason: String| VmmError::Unusable {
            program: PROGRAM,
            path: path.clone(),
            reason,
        };
        let version = parse(&exit.log)
            .ok_or_else(|| unusable(format!("it does not say a Firecracker version ({exit})")))?;
        let quirks = Quirks::for_version(&version).map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            path,
            version: version.to_string(),
            quirks,
        })
    }
}

/// Parses the first line of what `--version` prints: `Firecracker v1.16.1`.
fn parse(printed: &str) -> Option<Version> {
    let first = printed.lines().next()?;
    let text = first.strip_prefix("Firecracker v")?;
    Version::parse(text.trim()).ok()
}

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
/// Parses the output of a program in place of Firecracker.
pub(crate) fn fuzz(printed: &str) {
    if let Some(version) = parse(printed) {
        let _ = Quirks::for_version(&version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_first_line() {
        let release = "Firecracker v1.16.1\n\nSupported snapshot data format versions: v9.0.0\n";
        assert_eq!(parse(release), Some(Version::new(1, 16, 1)));
        let development = parse("Firecracker v1.17.0-dev\n").unwrap();
        assert_eq!((development.minor, development.patch), (17, 0));
        for other in ["", "QEMU emulator version 7.2", "Firecracker v1", "v1.16.1"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }
}
