//! What differs between a guest's files and those of its image.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use ironclaw_protocol::file::{self, ChangeKind, FileKind};
use ironclaw_protocol::message::Outcome;
use ironclaw_protocol::records::Records;

use super::error::GuestError;
use super::file_transfer::{no_file, unless_stalled};
use super::inbox::Arrival;
use super::running::Pending;
use crate::untrusted;

const LIST: &str = "list what differs from its image";

/// A difference from the image, as its guest tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileChange {
    /// The absolute path, without detours.
    pub path: PathBuf,
    /// What became of it.
    pub kind: ChangeKind,
    /// What is there; what was there, if it is removed.
    pub file: FileKind,
}

/// A list of what differs from a guest's image, which goes on while it is read. Dropping it ends it.
#[derive(Debug)]
pub struct ChangeListing {
    pending: Pending,
    records: Records,
    files: u64,
    unread: u64,
    over: bool,
}

impl ChangeListing {
    pub(super) fn new(pending: Pending) -> Self {
        Self {
            pending,
            records: Records::default(),
            files: 0,
            unread: 0,
            over: false,
        }
    }

    /// Returns the next difference, each directory before what is in it, or `None` at the end.
    /// Cancel-safe.
    ///
    /// # Errors
    /// As for [`Files::changes`](super::Files::changes); [`GuestError::Interrupted`] if the connection
    /// was lost, as by a checkpoint.
    pub async fn next(&mut self) -> Result<Option<FileChange>, GuestError> {
        loop {
            let record = self.records.read::<file::FileChange>();
            if let Some(change) = record.map_err(|error| broken(&error.to_string()))? {
                change
                    .validate()
                    .map_err(|error| broken(&error.to_string()))?;
                self.files += 1;
                return Ok(Some(change.into()));
            }
            if self.over {
                return Ok(None);
            }
            match unless_stalled(LIST, self.pending.next()).await? {
                Arrival::Data(_, bytes) => self.records.push(&bytes),
                Arrival::Done(Outcome::Listed { files, unread })
                    if files == self.files && self.records.is_empty() =>
                {
                    self.unread = unread;
                    self.over = true;
                }
                Arrival::Interrupted => return Err(GuestError::Interrupted { operation: LIST }),
                other => return Err(no_file("a list of what differs", other)),
            }
        }
    }

    /// Returns how many files could not be looked at. Known at the end.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.unread
    }
}

impl From<file::FileChange> for FileChange {
    fn from(change: file::FileChange) -> Self {
        let path = OsString::from_vec(change.path.as_bytes().to_vec());
        Self {
            path: path.into(),
            kind: change.kind,
            file: change.file,
        }
    }
}

fn broken(reason: &str) -> GuestError {
    GuestError::WrongAnswer {
        operation: "a list of what differs",
        answer: untrusted::line(reason),
    }
}
