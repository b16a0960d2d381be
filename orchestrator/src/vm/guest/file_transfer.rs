//! The steps of a file's way to or from a guest, and unexpected answers.

use std::time::Duration;

use ironclaw_protocol::message::Outcome;
use tokio::time::timeout;

use super::error::GuestError;
use super::inbox::Arrival;
use crate::untrusted;

/// Timeout of progress on a file's way to or from a guest, whose VMM may be stopped or whose host
/// overloaded. A chunk of 64 KiB takes milliseconds, and a guest's files are in memory.
pub(super) const FILE_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Executes the next step of a file's transfer, with the timeout of progress.
pub(super) async fn unless_stalled<T>(
    operation: &'static str,
    step: impl Future<Output = Result<T, GuestError>>,
) -> Result<T, GuestError> {
    let after = FILE_STALL_TIMEOUT;
    let late = |_| GuestError::NoAnswer { operation, after };
    timeout(after, step).await.map_err(late)?
}

pub(super) fn no_file(operation: &'static str, arrival: Arrival) -> GuestError {
    match arrival {
        Arrival::Done(Outcome::Failed(failure)) => failure.into(),
        Arrival::Done(other) => wrong(operation, &other),
        other => GuestError::WrongAnswer {
            operation,
            answer: untrusted::line(&format!("{other:?}")),
        },
    }
}

pub(super) fn wrong(operation: &'static str, answer: &Outcome) -> GuestError {
    GuestError::WrongAnswer {
        operation,
        answer: untrusted::line(&format!("{answer:?}")),
    }
}
