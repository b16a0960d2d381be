//! Tests the command line with real VMs under QEMU. `cargo xtask test` installs their requirements;
//! without these each test is ignored, with the reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// The `test` attribute is that of the harness.
#[macro_use]
extern crate ironclaw_test_harness;

#[path = "../apart/mod.rs"]
mod apart;
mod command;
mod ends;
mod on_terminal;
mod ports;
mod qemu;
mod run;
mod snapshots;
mod soak;
mod steps;
#[path = "../terminal/mod.rs"]
mod terminal;
#[path = "../vm/mod.rs"]
mod vm;

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}
