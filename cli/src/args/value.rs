//! What an option takes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ironclaw_orchestrator::vm::config::BackendChoice;

/// Longest time limit of a command.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Of values that a shell can offer.
pub(super) fn backend() -> impl TypedValueParser<Value = BackendChoice> {
    PossibleValuesParser::new(BackendChoice::names()).try_map(|text| {
        let parsed = text.parse();
        parsed.map_err(|()| format!("it takes one of {}", BackendChoice::names().join(", ")))
    })
}

pub(super) fn time_limit(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=MAX_TIMEOUT).contains(&time) {
        Ok(time)
    } else {
        Err("it takes 1ms to 30days".to_owned())
    }
}

pub(super) fn variable(text: OsString) -> Result<(OsString, OsString), &'static str> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) if at > 0 => {
            let part = |bytes| OsStr::from_bytes(bytes).to_owned();
            Ok((part(&bytes[..at]), part(&bytes[at + 1..])))
        }
        _ => Err("it takes NAME=VALUE"),
    }
}

pub(super) fn setting(text: OsString) -> Result<(String, OsString), &'static str> {
    let (key, value) = variable(text).map_err(|_| "it takes KEY=VALUE")?;
    let key = key.into_string().map_err(|_| "a key is in UTF-8")?;
    Ok((key, value))
}

pub(super) fn absolute(text: OsString) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("it takes an absolute path")
    }
}
