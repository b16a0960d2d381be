//! Images of kernels, compressed or not.

#![no_main]

use ironclaw_orchestrator::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::kernel_image(bytes));
