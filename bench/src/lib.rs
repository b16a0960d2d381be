//! What `ironclaw bench` and `ironclaw soak` do: measure a pool on this machine, and use one for long
//! while things go wrong.

#![forbid(unsafe_code)]

pub mod bench;
pub mod soak;
mod statistics;
