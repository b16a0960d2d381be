//! Prints on standard output.

use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Error, Result};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use ironclaw_orchestrator::vm::snapshot::Timestamp;
use serde::Serialize;

use crate::output_closed;
use crate::streams::Stdout;

/// Prints `value` as JSON on one line.
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).context("can't write JSON")?;
    line(&text)
}

/// Prints one or several lines of text.
pub fn line(text: &str) -> Result<()> {
    Stdout
        .write_all(format!("{text}\n").as_bytes())
        .map_err(output_closed::written)
}

/// Prints a table.
pub fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> Result<()> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header).add_rows(rows);
    line(&table.trim_fmt())
}

/// Formats a size: `12.3 MiB`
pub fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Returns the age of `time` in whole seconds; `None` if it is in the future.
pub fn seconds_since(time: Timestamp) -> Option<u64> {
    Some(time.age()?.as_secs())
}

/// Formats the age of `made`: `2h 3m 4s`
pub fn age(made: Timestamp) -> String {
    match seconds_since(made) {
        Some(seconds) => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
        None => format!("from the future, {}", time(made.unix_seconds)),
    }
}

/// Formats seconds since 1970: `2026-01-31T12:00:00Z`
pub fn time(unix_seconds: u64) -> String {
    /// The last second of the year 9999, the last one that the notation can express.
    const LAST: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(unix_seconds.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Converts to milliseconds, for JSON and tables.
pub fn milliseconds(duration: Duration) -> f64 {
    // Rounded to a microsecond: the rest is noise.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Runs a blocking library call on a thread for such calls.
pub async fn blocking<T, E>(call: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    E: Into<Error> + Send + 'static,
{
    tokio::task::spawn_blocking(call)
        .await
        .context("a thread failed")?
        .map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_rounded_for_people() {
        assert_eq!(mebibytes(0), "0.0 MiB");
        assert_eq!(mebibytes((12 << 20) + (512 << 10)), "12.5 MiB");
        assert!((milliseconds(Duration::from_nanos(1_234_567)) - 1.235).abs() < 1e-9);
    }

    #[test]
    fn a_time_in_the_future_is_shown_as_such() {
        let future = Timestamp {
            unix_seconds: 32_503_680_000,
            nanoseconds: 0,
        };
        assert_eq!(age(future), "from the future, 3000-01-01T00:00:00Z");
        assert_eq!(seconds_since(future), None);
    }
}
