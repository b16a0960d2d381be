//! VMs under QEMU, where there have to be some.

use std::fmt::Display;

/// Set by `cargo xtask test`, which installs QEMU and builds the agent: its VMs are there then.
const REQUIRED: &str = "IRONCLAW_TEST_REQUIRE_VM";

/// To be called when there is no VM under QEMU.
///
/// # Panics
/// Where there has to be one.
pub(crate) fn unless_required(reason: &dyn Display) {
    let required = std::env::var_os(REQUIRED).is_some_and(|value| value == "1");
    assert!(!required, "{REQUIRED}=1, and there is no VM: {reason}");
}
