//! Fails tests without VMs under QEMU where they are required.

use std::fmt::Display;

/// Set by `cargo xtask test`, which installs QEMU and builds the agent: makes a missing VM a
/// failure.
const REQUIRED: &str = "IRONCLAW_TEST_REQUIRE_VM";

/// Call this if there is no VM under QEMU.
///
/// # Panics
/// If one is required.
pub(crate) fn unless_required(reason: &dyn Display) {
    let required = std::env::var_os(REQUIRED).is_some_and(|value| value == "1");
    assert!(!required, "{REQUIRED}=1, and there is no VM: {reason}");
}
