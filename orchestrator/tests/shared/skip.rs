//! Tests that can't run on this machine.

use std::fmt::Display;
use std::io::Write as _;

/// Says why a test does not run.
pub(crate) fn skipped(reason: &dyn Display) {
    // Past the harness, which keeps what a test prints to itself if the test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
