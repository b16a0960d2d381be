//! Fresh, isolated microVMs in milliseconds: see [`vm`].

#![forbid(unsafe_code)]

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
#[doc(hidden)]
pub mod fuzzing;
pub mod metrics;
pub mod vm;

/// What a VM boots from.
pub use ironclaw_image as template;

use ironclaw_host::{disk, mark, state_path, sys, untrusted};
