//! Messages of a guest to its host.

#![no_main]

use ironclaw_orchestrator::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::guest_to_host(bytes));
