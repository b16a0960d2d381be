//! Layers of container images.

#![no_main]

use ironclaw_orchestrator::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::layers(bytes));
