//! The error of a standard output or standard error without a reader.

use std::io;

use anyhow::Error;
use thiserror::Error as ThisError;

/// Nobody reads standard output or standard error any more.
#[derive(Debug, ThisError)]
#[error("nobody reads the output any more")]
pub struct OutputClosed;

/// Converts the error of a write to standard output or standard error.
pub fn written(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        OutputClosed.into()
    } else {
        Error::new(error).context("can't write the output")
    }
}
