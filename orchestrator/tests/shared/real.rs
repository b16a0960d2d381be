//! Finds the real Firecracker.

use std::path::PathBuf;

use ironclaw_orchestrator::vm::Config;
use ironclaw_orchestrator::vm::firecracker::FirecrackerBinary;

/// Set to fail tests that would be skipped without it.
const REQUIRED: &str = "IRONCLAW_TEST_REQUIRE_FIRECRACKER";
/// The path of the test guest's ELF image.
const TESTGUEST: &str = "IRONCLAW_TESTGUEST";
/// The device of KVM.
const KVM: &str = "/dev/kvm";

/// The requirements of its tests.
pub(crate) struct Real {
    pub(crate) binary: FirecrackerBinary,
    /// The path of the test guest's image.
    pub(crate) guest: PathBuf,
}

/// Finds the real one; the error is the reason why it can't be tested here.
///
/// # Panics
/// If it is required, or named in the settings and can't be used.
pub(crate) async fn firecracker() -> Result<Real, String> {
    let config = Config::from_env().unwrap();
    let found = FirecrackerBinary::find(config.backends.firecracker.binary.as_deref()).await;
    let real = match found {
        Ok(binary) => on_this_host(binary),
        Err(error) => {
            assert!(config.backends.firecracker.binary.is_none(), "{error}");
            Err(error.to_string())
        }
    };
    real.map_err(|reason| format!("no firecracker: {}", unless_required(reason)))
}

fn on_this_host(binary: FirecrackerBinary) -> Result<Real, String> {
    let mut kvm = std::fs::File::options();
    if let Err(error) = kvm.read(true).write(true).open(KVM) {
        return Err(format!("{KVM} can't be opened: {error}"));
    }
    match std::env::var_os(TESTGUEST).map(PathBuf::from) {
        Some(guest) if guest.is_file() => Ok(Real { binary, guest }),
        Some(guest) => Err(format!("there is no test guest at {}", guest.display())),
        None => Err(format!(
            "{TESTGUEST} does not say where the test guest is; `cargo xtask test` builds it"
        )),
    }
}

/// Returns the reason for which a test is skipped.
///
/// # Panics
/// If no test may be skipped.
pub(crate) fn unless_required(reason: String) -> String {
    let required = std::env::var_os(REQUIRED).is_some_and(|value| value == "1");
    assert!(!required, "{REQUIRED}=1, and a test can't be run: {reason}");
    reason
}
