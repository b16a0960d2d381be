//! The error of a request.

use std::time::Duration;

use thiserror::Error;

/// The reason why a request to Firecracker failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApiError {
    /// Firecracker refused it.
    #[error("{request}: {message} (HTTP status {status})")]
    Refused {
        /// Its method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// Firecracker's `fault_message`, bounded and without control characters.
        message: String,
    },
    /// The connection broke, most likely with the process.
    #[error("the connection to Firecracker's API ended: {0}")]
    Closed(String),
    /// No answer came in time.
    #[error("{request}: no answer within {after:?}")]
    TimedOut {
        /// Its method and path.
        request: String,
        /// The timeout.
        after: Duration,
    },
    /// The answer violates the API.
    #[error("{request}: the answer is out of protocol: {detail}")]
    Malformed {
        /// Its method and path.
        request: String,
        /// What is wrong with it.
        detail: String,
    },
}
