//! Answers of Firecracker.

#![no_main]

use ironclaw_orchestrator::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::firecracker_answers(bytes));
