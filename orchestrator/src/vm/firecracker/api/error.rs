//! Why a request failed.

use std::time::Duration;

use thiserror::Error;

/// Why a request to Firecracker failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApiError {
    /// Firecracker refused it.
    #[error("{request}: {message} (HTTP status {status})")]
    Refused {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// Firecracker's `fault_message`, bounded and without control characters.
        message: String,
    },
    /// The connection is gone, most likely with the process.
    #[error("the connection to Firecracker's API ended: {0}")]
    Closed(String),
    /// There was no answer in time.
    #[error("{request}: no answer within {after:?}")]
    TimedOut {
        /// Method and path.
        request: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The answer is not what the API promises.
    #[error("{request}: the answer is out of protocol: {detail}")]
    Malformed {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        detail: String,
    },
}
