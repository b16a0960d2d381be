//! What is logged on standard error.

use std::ffi::OsStr;
use std::io::IsTerminal as _;

use ironclaw_console::streams::Stderr;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

const VARIABLE: &str = "RUST_LOG";
/// Where nothing is set.
const DEFAULT: &str = "warn";

/// `RUST_LOG` is no filter.
#[derive(Debug, Error)]
#[error(
    "{VARIABLE}={value:?} can't be used: it takes a level, or levels by module, such as debug or \
     warn,ironclaw_orchestrator=trace"
)]
pub(crate) struct BadFilter {
    value: String,
    source: Option<ParseError>,
}

/// Logs from now on what `RUST_LOG` says.
pub(crate) fn start() -> Result<(), BadFilter> {
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    tracing_subscriber::fmt()
        .with_env_filter(filter(&value)?)
        .with_writer(|| Stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

fn filter(value: &OsStr) -> Result<EnvFilter, BadFilter> {
    if value.is_empty() {
        return Ok(EnvFilter::new(DEFAULT));
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
        assert_eq!(filter(OsStr::new("")).unwrap().to_string(), DEFAULT);
        assert_eq!(filter(OsStr::new("debug")).unwrap().to_string(), "debug");
        let error = filter(OsStr::new("ironclaw=loud")).unwrap_err();
        assert!(error.to_string().contains("ironclaw=loud"), "{error}");
    }
}
