//! Errors between the host and the agent in a guest.

use std::fmt;
use std::time::Duration;

use ironclaw_protocol::frame::FrameError;
use ironclaw_protocol::message::{Failure, FailureKind, OutOfBounds};
use thiserror::Error;

use crate::untrusted;
use crate::vm::exit_reason::ExitReason;

/// The reason why a guest did not do what it was asked.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The agent reported a failure.
    #[error("the guest says: {message}")]
    Failed {
        /// The kind of failure, for programs.
        kind: FailureKind,
        /// The agent's message, in one line.
        message: String,
    },
    /// The connection to the agent is over: the VM ended, was destroyed, or reached a limit, or one
    /// side violated the protocol.
    #[error("the connection to the guest is closed: {reason}")]
    Closed {
        /// The reason. For a VM that ended, with its exit and last output.
        reason: ExitReason,
        /// The output of the command until then, if [`exec`](super::Guest::exec) or
        /// [`output`](super::Running::output) was collecting it.
        printed: Printed,
    },
    /// A command's output, or a file, is larger than the caller takes.
    #[error("the guest sent more than {limit} bytes; stream it instead of collecting it")]
    TooMuchOutput {
        /// The limit in bytes.
        limit: u64,
    },
    /// The agent did not answer in time.
    #[error("the guest did not {operation} within {after:?}")]
    NoAnswer {
        /// The request.
        operation: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// The request exceeds the protocol's limits and was not sent.
    #[error("this can't be asked of a guest")]
    Invalid(#[from] OutOfBounds),
    /// The request does not fit into one frame and was not sent.
    #[error("this can't be asked of a guest, it is too large for one message")]
    TooLarge(#[source] FrameError),
    /// Another listener has attached to the command, by [`Guest::attach`](super::Guest::attach).
    #[error("another session listens to the command now")]
    TakenOver,
    /// The connection to the guest was lost while a stream was sent, which can't be sent again by
    /// itself. A checkpoint does that with some hypervisors.
    #[error("the connection to the guest was lost while it should {operation}: begin again")]
    Interrupted {
        /// The request.
        operation: &'static str,
    },
    /// The agent's answer does not fit the request.
    #[error("the guest answered {operation} with something else: {answer}")]
    WrongAnswer {
        /// The request.
        operation: &'static str,
        /// The answer.
        answer: String,
    },
}

/// The output of a command whose end is unknown.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Printed {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// Without what it is, which may be secret, or large.
impl fmt::Debug for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stdout, stderr) = (self.stdout.len(), self.stderr.len());
        write!(f, "Printed({stdout} and {stderr} bytes)")
    }
}

impl GuestError {
    /// The error of a closed connection, without collected output.
    pub(super) fn closed(reason: ExitReason) -> Self {
        Self::Closed {
            reason,
            printed: Printed::default(),
        }
    }
}

impl From<Failure> for GuestError {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            kind: failure.kind,
            message: untrusted::line(&failure.message),
        }
    }
}
