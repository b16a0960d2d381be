//! What can go wrong between the host and the agent in a guest.

use std::time::Duration;

use ironclaw_protocol::frame::FrameError;
use ironclaw_protocol::message::{Failure, FailureKind, OutOfBounds};
use thiserror::Error;

use crate::untrusted;
use crate::vm::exit_reason::ExitReason;

/// Why a guest did not do what it was asked.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The agent answered that it could not do it.
    #[error("the guest says: {message}")]
    Failed {
        /// What kind of failure, for programs.
        kind: FailureKind,
        /// The agent's words, in one line.
        message: String,
    },
    /// The connection to the agent is over: the VM ended, was given back, or reached a limit, or
    /// one side broke the protocol.
    #[error("the connection to the guest is closed: {reason}")]
    Closed {
        /// Why it was closed. Of a VM that ended: how, and what it printed last.
        reason: ExitReason,
        /// What a command had printed until then, if [`exec`](super::Guest::exec) or
        /// [`output`](super::Running::output) was collecting it.
        printed: Printed,
    },
    /// A command printed, or a file holds, more than the caller takes.
    #[error("the guest sent more than {limit} bytes; stream it instead of collecting it")]
    TooMuchOutput {
        /// The most bytes that are collected.
        limit: u64,
    },
    /// The agent did not answer in time.
    #[error("the guest did not {operation} within {after:?}")]
    NoAnswer {
        /// What it was asked.
        operation: &'static str,
        /// How long it was given.
        after: Duration,
    },
    /// The request is outside of the protocol's limits and was not sent.
    #[error("this can't be asked of a guest: {0}")]
    Invalid(#[from] OutOfBounds),
    /// The request does not fit into one frame and was not sent.
    #[error("this can't be asked of a guest, it is too large for one message: {0}")]
    TooLarge(FrameError),
    /// Somebody else listens to the command now, by [`Guest::attach`](super::Guest::attach).
    #[error("another session listens to the command now")]
    TakenOver,
    /// The agent's answer is none to what was asked.
    #[error("the guest answered {operation} with something else: {answer}")]
    WrongAnswer {
        /// What it was asked.
        operation: &'static str,
        /// What it said.
        answer: String,
    },
}

/// What a command printed whose end is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Printed {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl GuestError {
    /// The connection is over, and nothing was being collected.
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
