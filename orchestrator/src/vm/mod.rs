//! MicroVMs: what they are restored from, and how.

pub mod snapshot;
