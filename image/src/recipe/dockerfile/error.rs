//! What is wrong with a Dockerfile.

use thiserror::Error;

use crate::recipe::expand::ExpandError;

/// Size limit of a Dockerfile, in bytes.
pub(super) const MAX_DOCKERFILE: usize = 1024 * 1024;
/// Limit of the instructions in one.
pub(super) const MAX_INSTRUCTIONS: usize = 1000;

/// The reason why a Dockerfile can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DockerfileError {
    /// It is too long.
    #[error("a Dockerfile has at most {MAX_DOCKERFILE} bytes and {MAX_INSTRUCTIONS} instructions")]
    TooLarge,
    /// It is malformed.
    #[error("line {line}: {reason}")]
    Malformed {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// An instruction, or a form of one, that is not supported.
    #[error("line {line}: {what} is not supported")]
    Unsupported {
        /// The line, counted from 1.
        line: usize,
        /// The instruction or option.
        what: String,
    },
    /// A variable could not be expanded.
    #[error("line {line} can't be expanded")]
    Expand {
        /// The line, counted from 1.
        line: usize,
        /// The reason.
        #[source]
        source: ExpandError,
    },
    /// Build arguments were given that it declares nowhere.
    #[error("no ARG declares {}", .0.join(", "))]
    UnknownArgs(Vec<String>),
}

pub(super) fn malformed(line: usize, reason: &str) -> DockerfileError {
    DockerfileError::Malformed {
        line,
        reason: reason.to_owned(),
    }
}

pub(super) fn unsupported(line: usize, what: &str) -> DockerfileError {
    DockerfileError::Unsupported {
        line,
        what: what.to_owned(),
    }
}
