//! Tests of `ironclaw` without a VM.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// The `test` attribute is that of the harness.
#[macro_use]
extern crate ironclaw_test_harness;

mod command_line;
mod directories;
mod failures;
mod pool_stats;
mod settings;
mod snapshots;
mod state;
mod templates;
mod vmms;

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}
