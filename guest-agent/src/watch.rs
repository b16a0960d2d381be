//! A file or a directory that the host watches.

mod directories;
mod kernel;
mod observer;
mod told;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use ironclaw_protocol::limits::MAX_WATCHED;
use ironclaw_protocol::message::{FailureKind, Outcome, RequestId, ToHost};
use ironclaw_protocol::os_bytes::OsBytes;
use ironclaw_protocol::session::Outgoing;
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::account::Account;
use crate::credentials::as_user;
use crate::failure::{failed, refused};
use crate::os_str::os;
use crate::outflow::Outflow;
use crate::transfer::Transfer;

use kernel::TooMany;
use observer::Observer;
use told::Told;

/// An open watch.
#[derive(Debug)]
pub(crate) struct Watch {
    id: RequestId,
    path: PathBuf,
    account: Option<Account>,
    observer: Observer,
    told: Told,
    /// Whether the host knows that it watches.
    is_open: bool,
    /// Whether the last poll, or nothing yet, found events.
    readable: bool,
    flow: Outflow,
}

impl Watch {
    /// Begins to watch what is there.
    pub(crate) fn start(
        id: RequestId,
        path: &OsBytes,
        recursive: bool,
        account: Option<Account>,
    ) -> Result<Self, Outcome> {
        let place = Path::new(os(path));
        let opened = as_user(account.as_ref(), || Observer::open(place, recursive)).flatten();
        let observer = opened.map_err(|error| refuse(place, &error))?;
        Ok(Self {
            id,
            path: place.to_owned(),
            account,
            told: Told::new(path.clone(), observer.is_directory()),
            observer,
            is_open: false,
            readable: true,
            flow: Outflow::new(id),
        })
    }

    /// Does a bounded part of the work as its user; returns what ends it.
    fn go_on(&mut self) -> Result<(), Outcome> {
        if self.observer.is_searching() {
            return match self.observer.go_on_searching(&mut self.told) {
                Err(TooMany) if !self.is_open => Err(too_many(&self.path)),
                Err(TooMany) => {
                    self.told.overflow();
                    Ok(())
                }
                Ok(()) => Ok(()),
            };
        }
        if self.readable {
            let read = self.observer.read(&mut self.told);
            self.readable = read.map_err(|error| refuse(&self.path, &error))?;
        }
        Ok(())
    }
}

fn refuse(path: &Path, error: &io::Error) -> Outcome {
    let attempt = format_args!("watch {}", path.display());
    match Errno::from_io_error(error) {
        // The kernel's words for its limit of watches are about a disk.
        Some(Errno::NOSPC) => failed(
            FailureKind::TooMany,
            format_args!("{attempt}: the guest's kernel watches no more files (see fs.inotify)"),
        ),
        _ => refused(attempt, error, FailureKind::NotFound),
    }
}

fn too_many(path: &Path) -> Outcome {
    failed(
        FailureKind::TooMany,
        format_args!(
            "watch {}: there are more than {MAX_WATCHED} directories below, or more than the kernel \
             watches: watch one of them, or this one alone",
            path.display()
        ),
    )
}

impl Transfer for Watch {
    fn taken(&mut self, offset: u64) -> bool {
        self.flow.taken(offset)
    }

    fn waits(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        (!self.readable).then(|| (self.observer.descriptor(), PollFlags::IN))
    }

    fn serve(&mut self, events: PollFlags) {
        self.readable |= !events.is_empty();
    }

    fn is_watch(&self) -> bool {
        true
    }

    fn is_ready(&self) -> bool {
        let speaks = self.told.has_any() && self.flow.room() > 0;
        let ends = self.observer.is_gone() && !self.told.has_any();
        self.observer.is_searching() || !self.is_open || self.readable || speaks || ends
    }

    fn step(&mut self, _: &mut [u8], out: &mut Outgoing) -> Option<Outcome> {
        let account = self.account.take();
        let done = as_user(account.as_ref(), || self.go_on());
        self.account = account;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(outcome)) => return Some(outcome),
            Err(error) => {
                let attempt = "become another user";
                return Some(refused(attempt, &error, FailureKind::NoSuchUser));
            }
        }
        if !self.is_open && !self.observer.is_searching() {
            self.is_open = true;
            out.push(&ToHost::Opened { id: self.id });
        }
        if self.is_open && self.flow.room() > 0 {
            let bytes = self.told.take(self.flow.room());
            if !bytes.is_empty() {
                self.flow.send(bytes, out);
            } else if self.observer.is_gone() {
                return Some(Outcome::Unwatched);
            }
        }
        None
    }
}
