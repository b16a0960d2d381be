//! Real VMs with a real Linux guest, under QEMU.
//!
//! The tests need Debian's `qemu-system-x86` and the static guest agent; `cargo xtask test`
//! provides both. Without them each test is ignored, with the reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// The `test` attributes are those of the harness; everything else of Tokio is Tokio's.
#[macro_use]
#[allow(unused_imports, reason = "all tests are asynchronous so far")]
extern crate ironclaw_test_harness as tokio;

mod acquire;
mod clones;
mod commands;
mod examples;
mod faults;
mod files;
mod fixture;
mod guest_system;
mod leases;
#[path = "../shared/limit.rs"]
mod limit;
mod pool;
#[path = "../shared/required.rs"]
mod required;
#[path = "../shared/small_disk.rs"]
mod small_disk;
mod templates;
#[path = "../shared/warm_successor.rs"]
mod warm_successor;
mod warm_up;
#[path = "../shared/within.rs"]
mod within;

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}
