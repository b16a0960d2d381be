//! Standard output or standard error that nobody reads.

use std::io;

use anyhow::Error;
use thiserror::Error as ThisError;

/// The reader of standard output or standard error has gone.
#[derive(Debug, ThisError)]
#[error("nobody reads the output any more")]
pub struct OutputClosed;

/// For `map_err` of a write to standard output or standard error.
pub fn written(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        OutputClosed.into()
    } else {
        Error::new(error).context("can't write the output")
    }
}
