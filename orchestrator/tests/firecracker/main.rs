//! The real Firecracker on /dev/kvm, with the bare-metal guest of `testguest/`.
//!
//! They look for Firecracker as `ironclaw` does (IRONCLAW_FIRECRACKER, PATH) and for the guest at
//! IRONCLAW_TESTGUEST, which `cargo xtask test` sets. Where one of them or KVM is missing, all of
//! them say so in one line and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod binary;
mod clones;
mod commands;
mod faults;
mod fixture;
mod jail;
mod pool;
