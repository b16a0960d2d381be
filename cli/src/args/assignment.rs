//! The settings of the command line, for a program that is started with the same ones.

use std::ffi::OsString;

/// Returns settings as `--set` takes them.
pub(super) fn assignments(set: &[(String, OsString)]) -> Vec<OsString> {
    set.iter().map(assignment).collect()
}

fn assignment((key, value): &(String, OsString)) -> OsString {
    let mut word = OsString::from(key);
    word.push("=");
    word.push(value);
    word
}
