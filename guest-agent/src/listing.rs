//! A list of what is below a directory.

use std::fs::{self, ReadDir};
use std::io;
use std::path::{Path, PathBuf};

use ironclaw_protocol::file::{FileInfo, FileKind};
use ironclaw_protocol::limits::MAX_CHUNK;
use ironclaw_protocol::message::{FailureKind, Outcome, RequestId};
use ironclaw_protocol::records;
use ironclaw_protocol::session::Outgoing;

use crate::account::{Account, Names};
use crate::credentials::as_user;
use crate::failure::refused;
use crate::file_info::look;
use crate::outflow::Outflow;
use crate::transfer::Transfer;

/// An open list. It holds a directory open for each level, and no more than a chunk of records.
///
/// A directory below that can't be read is listed itself, and counted.
#[derive(Debug)]
pub(crate) struct Listing {
    account: Option<Account>,
    names: Names,
    /// From the directory that was asked for to the one that is read.
    open: Vec<ReadDir>,
    depth: usize,
    /// Records that are not sent.
    records: Vec<u8>,
    files: u64,
    unread: u64,
    flow: Outflow,
}

impl Listing {
    /// Opens the directory.
    pub(crate) fn start(
        id: RequestId,
        path: &Path,
        depth: u32,
        account: Option<Account>,
    ) -> Result<Self, Outcome> {
        let opened = as_user(account.as_ref(), || fs::read_dir(path)).flatten();
        let first = opened.map_err(|error| {
            let attempt = format_args!("list {}", path.display());
            refused(attempt, &error, FailureKind::NotFound)
        })?;
        Ok(Self {
            account,
            names: Names::read(),
            open: vec![first],
            depth: depth as usize,
            records: Vec::new(),
            files: 0,
            unread: 0,
            flow: Outflow::new(id),
        })
    }

    /// Reads entries until there is a chunk of them, or no more.
    fn read(&mut self) {
        while self.records.len() < MAX_CHUNK
            && let Some(directory) = self.open.last_mut()
        {
            match directory.next() {
                None => drop(self.open.pop()),
                // The directory is broken, or gone.
                Some(Err(_)) => {
                    self.unread += 1;
                    self.open.pop();
                }
                Some(Ok(entry)) => self.add(entry.path()),
            }
        }
    }

    fn add(&mut self, path: PathBuf) {
        // A file that has gone since, or whose path no message holds.
        let Some(info) = self.look(&path) else {
            return;
        };
        if records::append(&info, &mut self.records).is_err() {
            return;
        }
        self.files += 1;
        if info.kind == FileKind::Directory && self.open.len() < self.depth {
            match fs::read_dir(path) {
                Ok(directory) => self.open.push(directory),
                Err(_) => self.unread += 1,
            }
        }
    }

    fn look(&self, path: &Path) -> Option<FileInfo> {
        let info: io::Result<_> = look(path, false, &self.names);
        info.ok().filter(|info| info.validate().is_ok())
    }
}

impl Transfer for Listing {
    fn taken(&mut self, offset: u64) -> bool {
        self.flow.taken(offset)
    }

    fn is_ready(&self) -> bool {
        self.flow.room() > 0
    }

    fn step(&mut self, _: &mut [u8], out: &mut Outgoing) -> Option<Outcome> {
        let account = self.account.take();
        let read = as_user(account.as_ref(), || self.read());
        self.account = account;
        if let Err(error) = read {
            return Some(refused(
                "become another user",
                &error,
                FailureKind::NoSuchUser,
            ));
        }
        let count = self.records.len().min(self.flow.room());
        if count == 0 && self.records.is_empty() {
            return Some(Outcome::Listed {
                files: self.files,
                unread: self.unread,
            });
        }
        if count > 0 {
            self.flow.send(self.records.drain(..count).collect(), out);
        }
        None
    }
}
