//! Converts errors of the kernel to failures of the protocol.

use std::fmt::Display;
use std::io;

use ironclaw_protocol::message::{Failure, FailureKind, Outcome, bounded_text};
use rustix::io::Errno;

/// Creates a failure of this kind.
pub(crate) fn failed(kind: FailureKind, message: impl Display) -> Outcome {
    Outcome::Failed(Failure {
        kind,
        message: bounded_text(message.to_string()),
    })
}

/// Creates the failure of an `attempt` that the kernel refused.
///
/// `missing` is the kind to report if a name does not exist.
pub(crate) fn refused(attempt: impl Display, error: &io::Error, missing: FailureKind) -> Outcome {
    failed(kind_of(error, missing), format_args!("{attempt}: {error}"))
}

fn kind_of(error: &io::Error, missing: FailureKind) -> FailureKind {
    let Some(errno) = Errno::from_io_error(error) else {
        return FailureKind::Io;
    };
    match errno {
        Errno::NOENT | Errno::NOTDIR => missing,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => FailureKind::PermissionDenied,
        Errno::EXIST => FailureKind::Exists,
        Errno::NOTEMPTY => FailureKind::NotEmpty,
        Errno::NOTSUP | Errno::NOSYS | Errno::NOTTY => FailureKind::Unsupported,
        Errno::NOSPC | Errno::DQUOT => FailureKind::NoSpace,
        Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE => FailureKind::TooMany,
        Errno::ISDIR
        | Errno::NAMETOOLONG
        | Errno::TOOBIG
        | Errno::NOEXEC
        | Errno::INVAL
        | Errno::XDEV => FailureKind::Invalid,
        _ => FailureKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use ironclaw_protocol::limits::MAX_TEXT;

    use super::*;

    #[test]
    fn a_failure_names_the_attempt_and_stays_within_the_protocols_bounds() {
        let error = io::Error::from(Errno::NOSPC);
        let outcome = refused("/x".repeat(MAX_TEXT), &error, FailureKind::NotFound);
        let Outcome::Failed(failure) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(failure.kind, FailureKind::NoSpace);
        assert_eq!(failure.message.len(), MAX_TEXT);
        assert!(failure.message.starts_with("/x"));
    }
}
