//! Configures the log on standard error.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};

use crate::for_users;
use crate::streams::Stderr;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

const VARIABLE: &str = "RUST_LOG";
/// The level that is logged if `RUST_LOG` is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// Warnings, for the user of the command.
    Warnings,
    /// Only errors: the command reports everything else in its result.
    Errors,
}

impl Default {
    fn level(self) -> &'static str {
        match self {
            Self::Warnings => "warn",
            Self::Errors => "error",
        }
    }
}

/// The error of an invalid `RUST_LOG`.
#[derive(Debug, Error)]
#[error(
    "{VARIABLE}={value:?} can't be used: it takes a level, or levels by module, such as debug or \
     warn,ironclaw_orchestrator=trace"
)]
pub struct BadFilter {
    value: String,
    source: Option<ParseError>,
}

/// Standard error, where settings go by the names of their variables.
struct ForUsers;

impl Write for ForUsers {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        Stderr.write_all(for_users(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Stderr.flush()
    }
}

/// Starts logging at the levels in `RUST_LOG`.
///
/// # Errors
/// Its value is no filter.
pub fn start(default: Default) -> Result<(), BadFilter> {
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    tracing_subscriber::fmt()
        .with_env_filter(filter(&value, default)?)
        .with_writer(|| ForUsers)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

fn filter(value: &OsStr, default: Default) -> Result<EnvFilter, BadFilter> {
    if value.is_empty() {
        return Ok(EnvFilter::new(default.level()));
    }
    let bad = |source| BadFilter {
        value: value.to_string_lossy().into_owned(),
        source,
    };
    let text = value.to_str().ok_or_else(|| bad(None))?;
    EnvFilter::try_new(text).map_err(|error| bad(Some(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_none_is_an_error_and_none_at_all_is_the_default() {
        let filter = |text| filter(OsStr::new(text), Default::Warnings);
        assert_eq!(filter("").unwrap().to_string(), "warn");
        assert_eq!(filter("debug").unwrap().to_string(), "debug");
        let error = filter("ironclaw=loud").unwrap_err();
        assert!(error.to_string().contains("ironclaw=loud"), "{error}");
    }
}
