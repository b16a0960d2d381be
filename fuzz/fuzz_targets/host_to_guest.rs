//! Messages of a host to its guest.

#![no_main]

use ironclaw_testguest::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::host_to_guest(bytes));
