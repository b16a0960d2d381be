//! Real VMs under a real Firecracker, on `/dev/kvm`.
//!
//! The tests need a Firecracker (`IRONCLAW_FIRECRACKER`, or on `PATH`) and the bare-metal test
//! guest, which `cargo xtask test` builds and names in `IRONCLAW_TESTGUEST`. Without one of them
//! they are ignored, with the reason; `IRONCLAW_TEST_REQUIRE_FIRECRACKER=1` makes them fail.

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

mod clones;
mod commands;
mod devices;
mod disks;
mod endpoints;
mod faults;
mod jail;
mod lab;
mod last_words;
mod life;
#[path = "../shared/limit.rs"]
mod limit;
mod linux;
mod owner;
mod pool;
mod process;
mod program;
mod raw_api;
#[path = "../shared/real.rs"]
mod real;
#[path = "../shared/root_image.rs"]
mod root_image;
#[path = "../shared/small_disk.rs"]
mod small_disk;
mod standby;
#[path = "../shared/warm_successor.rs"]
mod warm_successor;
#[path = "../shared/within.rs"]
mod within;

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}
