//! The QEMU binary.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use crate::sys::program::Program;
use crate::vm::vmm::VmmError;
use crate::vm::vmm::process::{Launch, Process};
use crate::vm::vmm::program::find_program;

pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// Timeout of the program's version, which takes milliseconds.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// The QEMU binary and its version.
#[derive(Debug, Clone)]
pub struct QemuBinary {
    /// Its path.
    pub path: PathBuf,
    /// The version that it reports, like `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
    pub version: String,
}

impl QemuBinary {
    /// Finds the binary at `configured`, or else on PATH.
    ///
    /// # Errors
    /// [`VmmError::NotInstalled`] names Debian's package; [`VmmError::Unusable`] if it is not QEMU.
    pub async fn find(configured: Option<&Path>) -> Result<Self, VmmError> {
        let path = find_program(
            PROGRAM,
            configured,
            "install Debian's package qemu-system-x86 \
             (apt-get install --no-install-recommends qemu-system-x86), or set `qemu` to \
             the binary",
        )?;
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
        match version(&exit.log) {
            Some(version) => Ok(Self {
                path,
                version: version.to_owned(),
            }),
            None => Err(VmmError::Unusable {
                program: PROGRAM,
                path,
                reason: format!("it does not say a QEMU version ({exit})"),
            }),
        }
    }
}

/// Parses the first line of what `--version` prints.
fn version(printed: &str) -> Option<&str> {
    let rest = printed.strip_prefix("QEMU emulator version ")?;
    rest.lines().next().map(str::trim)
}

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
pub(crate) mod fuzz {
    /// Parses the output of a program in place of QEMU.
    pub(crate) fn version(printed: &str) {
        if let Some(version) = super::version(printed) {
            assert!(!version.contains('\n') && version == version.trim());
        }
    }
}
