//! Tests that can't run on this machine.

use std::fmt::Display;
use std::io::Write as _;

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

/// Says why a test does not run.
pub(crate) fn skipped(reason: &dyn Display) {
    // Past the harness, which keeps what a test prints to itself if the test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
