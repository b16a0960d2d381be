//! Real VMs under a real Firecracker, on `/dev/kvm`.
//!
//! They need a Firecracker (`IRONCLAW_FIRECRACKER`, or on `PATH`) and the bare-metal test guest,
//! which `cargo xtask test` builds and names in `IRONCLAW_TESTGUEST`. Without one of them the run
//! says `skipped:` and why, once; `IRONCLAW_TEST_REQUIRE_FIRECRACKER=1` makes it fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod clones;
mod commands;
mod devices;
mod endpoints;
mod faults;
mod jail;
mod lab;
mod last_words;
mod life;
#[path = "../shared/limit.rs"]
mod limit;
mod owner;
mod pool;
mod process;
mod program;
mod raw_api;
#[path = "../shared/real.rs"]
mod real;
#[path = "../shared/skip.rs"]
mod skip;
#[path = "../shared/small_disk.rs"]
mod small_disk;
#[path = "../shared/warm_successor.rs"]
mod warm_successor;
#[path = "../shared/within.rs"]
mod within;
