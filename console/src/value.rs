//! What options of several commands take.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

/// Longest time limit of a command.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Reads the time limit of a command, such as `90s`.
///
/// # Errors
/// What it takes, if it is another text.
pub fn time_limit(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=MAX_TIMEOUT).contains(&time) {
        Ok(time)
    } else {
        Err("it takes 1ms to 30days".to_owned())
    }
}

/// Reads a variable and its value.
///
/// # Errors
/// What it takes, if it is another text.
pub fn variable(text: OsString) -> Result<(OsString, OsString), &'static str> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) if at > 0 => {
            let part = |bytes| OsStr::from_bytes(bytes).to_owned();
            Ok((part(&bytes[..at]), part(&bytes[at + 1..])))
        }
        _ => Err("it takes NAME=VALUE"),
    }
}
