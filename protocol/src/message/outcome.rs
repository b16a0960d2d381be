//! The ends of requests.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::command::{CommandEnd, CommandInfo};
use crate::bounds::{OutOfBounds, check};
use crate::file::{FileInfo, check_attributes};
use crate::limits::{MAX_LISTED, MAX_TEXT};
use crate::os_bytes::OsBytes;

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Answers `Ping`.
    Pong,
    /// Entropy, clock and identity are in force.
    IdentitySet,
    /// The command exited with this status.
    Exited(u8),
    /// The command was terminated by this signal.
    Signaled(i32),
    /// The command reached its time limit and was killed.
    TimedOut,
    /// The file is written.
    FileWritten {
        /// The size of the file.
        bytes: u64,
    },
    /// The file was sent completely.
    FileRead {
        /// The permission bits of the file.
        mode: u32,
        /// The size of the file.
        bytes: u64,
    },
    /// The guest powers off.
    ShuttingDown,
    /// The request failed.
    Failed(Failure),
    /// The commands that the guest knows, in the order of their start.
    Commands(Vec<CommandInfo>),
    /// The signal was sent; the command may have ended before.
    Delivered,
    /// The request is detached; the command continues.
    Detached,
    /// A file's properties.
    FileInfo(Box<FileInfo>),
    /// The files were listed, as [records](crate::records) in the content.
    Listed {
        /// The number of files.
        files: u64,
        /// The number of directories that could not be read.
        unread: u64,
    },
    /// The change is made.
    Changed {
        /// The number of files that were made or removed.
        files: u64,
    },
    /// A file's extended attributes, by name.
    Attributes(Vec<(OsBytes, OsBytes)>),
    /// The archive was sent completely.
    Archived {
        /// The number of entries.
        files: u64,
        /// The number of files that it does not have: they can't be read, or no archive holds them.
        omitted: u64,
    },
    /// The connection is closed in both directions.
    Disconnected,
    /// What was watched is gone.
    Unwatched,
    /// The archive is unpacked.
    Extracted {
        /// The number of entries.
        files: u64,
        /// The number of entries that were left out: devices, for users who may not make any.
        omitted: u64,
    },
}

/// The reason why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind, for programs.
    pub kind: FailureKind,
    /// The attempt and its object, for people. At most [`MAX_TEXT`] bytes.
    pub message: String,
}

/// The kinds of failure that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// The program of an `Exec`, or the file of a `GetFile`, does not exist.
    NotFound,
    /// The working directory of an `Exec`, or the directory of a `PutFile`, does not exist.
    NoSuchDirectory,
    /// The guest's kernel denied access.
    PermissionDenied,
    /// The agent does not support it: an empty argv, a relative path, a directory to read.
    Invalid,
    /// The guest has no space left.
    NoSpace,
    /// The guest has reached its limit of requests or processes.
    TooMany,
    /// The host cancelled it.
    Cancelled,
    /// Any other error of the guest's kernel.
    Io,
    /// The command of an `Attach` has ended and was forgotten, because nobody asked for its end.
    Forgotten,
    /// The guest has no such user or group.
    NoSuchUser,
    /// This guest can't do it.
    Unsupported,
    /// There is something of that name.
    Exists,
    /// The directory is not empty.
    NotEmpty,
    /// Nothing listens on the port.
    Refused,
}

impl Outcome {
    pub(super) fn validate(&self) -> Result<(), OutOfBounds> {
        match self {
            Self::Failed(failure) => check(
                failure.message.len() <= MAX_TEXT,
                "a failure's text is too long",
            ),
            Self::Commands(commands) => {
                check(commands.len() <= MAX_LISTED, "a list of too many commands")?;
                commands.iter().try_for_each(CommandInfo::validate)
            }
            Self::FileInfo(info) => info.validate(),
            Self::Attributes(attributes) => check_attributes(attributes),
            _ => Ok(()),
        }
    }
}

impl CommandEnd {
    /// Converts it to the outcome of a request.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Exited(code) => Outcome::Exited(code),
            Self::Signaled(signal) => Outcome::Signaled(signal),
            Self::TimedOut => Outcome::TimedOut,
            Self::Cancelled => Outcome::Failed(Failure {
                kind: FailureKind::Cancelled,
                message: "the host cancelled the command".into(),
            }),
        }
    }
}

/// Cuts `text` to the longest prefix of at most [`MAX_TEXT`] bytes.
#[must_use]
pub fn bounded_text(mut text: String) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
