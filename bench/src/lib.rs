//! The commands `ironclaw bench` and `ironclaw soak`: measure a pool on this machine, and use one
//! for long while faults are injected.

#![forbid(unsafe_code)]

pub mod bench;
mod daemon;
pub mod soak;
mod statistics;
