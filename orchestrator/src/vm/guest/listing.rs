//! A list of a guest's files that comes while it is read.

use ironclaw_protocol::file;
use ironclaw_protocol::message::Outcome;
use ironclaw_protocol::os_bytes::OsBytes;
use ironclaw_protocol::records::Records;

use super::error::GuestError;
use super::file_info::FileInfo;
use super::file_transfer::{no_file, unless_stalled};
use super::inbox::Arrival;
use super::running::Pending;
use crate::untrusted;

/// A list of files that goes on while it is read. Dropping it ends it.
#[derive(Debug)]
pub struct Listing {
    pending: Pending,
    directory: OsBytes,
    records: Records,
    files: u64,
    unread: u64,
    over: bool,
}

/// One step of a list.
#[derive(Debug)]
pub(super) enum Advance {
    File(FileInfo),
    End,
    Interrupted,
}

impl Listing {
    pub(super) fn new(pending: Pending, directory: OsBytes) -> Self {
        Self {
            pending,
            directory,
            records: Records::default(),
            files: 0,
            unread: 0,
            over: false,
        }
    }

    /// Returns the next file, or `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// As for [`Files::metadata`](super::Files::metadata); [`GuestError::WrongAnswer`] if the guest lists what is not below
    /// the directory; [`GuestError::Interrupted`] if the connection was lost, as by a checkpoint.
    pub async fn next(&mut self) -> Result<Option<FileInfo>, GuestError> {
        match self.advance().await? {
            Advance::File(file) => Ok(Some(file)),
            Advance::End => Ok(None),
            Advance::Interrupted => Err(GuestError::Interrupted {
                operation: "list files",
            }),
        }
    }

    /// Returns how many directories below could not be read. Known at the end.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// Goes on by one file.
    pub(super) async fn advance(&mut self) -> Result<Advance, GuestError> {
        let operation = "list files";
        loop {
            let record = self.records.read::<file::FileInfo>();
            if let Some(info) = record.map_err(|error| broken(&error.to_string()))? {
                info.validate()
                    .map_err(|error| broken(&error.to_string()))?;
                if !info.is_below(&self.directory) {
                    return Err(broken("a file that is not below the directory"));
                }
                self.files += 1;
                return Ok(Advance::File(info.into()));
            }
            if self.over {
                return Ok(Advance::End);
            }
            match unless_stalled(operation, self.pending.next()).await? {
                Arrival::Data(_, bytes) => self.records.push(&bytes),
                Arrival::Done(Outcome::Listed { files, unread })
                    if files == self.files && self.records.is_empty() =>
                {
                    self.unread = unread;
                    self.over = true;
                }
                Arrival::Interrupted => return Ok(Advance::Interrupted),
                other => return Err(no_file("a list of files", other)),
            }
        }
    }
}

fn broken(reason: &str) -> GuestError {
    GuestError::WrongAnswer {
        operation: "a list of files",
        answer: untrusted::line(reason),
    }
}
