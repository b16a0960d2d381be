//! A file that the host reads.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use ironclaw_protocol::message::{FailureKind, GetFile, Outcome, RequestId};
use ironclaw_protocol::session::Outgoing;
use rustix::fs::OFlags;

use crate::account::Account;
use crate::credentials::as_user;
use crate::failure::{failed, refused};
use crate::os_str::os;
use crate::outflow::Outflow;
use crate::transfer::Transfer;

/// An open `GetFile`.
#[derive(Debug)]
pub(crate) struct Download {
    file: File,
    path: PathBuf,
    mode: u32,
    /// Bytes still to be read; `None` up to its end.
    left: Option<u64>,
    flow: Outflow,
}

impl Download {
    /// Opens the file; only a regular one, because others may block or have side effects.
    pub(crate) fn start(id: RequestId, get: &GetFile) -> Result<Self, Outcome> {
        let account = Account::of_request(get.user.as_ref())?;
        let opened = as_user(account.as_ref(), || Self::open(id, get));
        opened.map_err(|error| refused("become another user", &error, FailureKind::NoSuchUser))?
    }

    fn open(id: RequestId, get: &GetFile) -> Result<Self, Outcome> {
        let path = PathBuf::from(os(&get.path));
        let attempt = || format!("read {}", path.display());
        let irregular = || {
            failed(
                FailureKind::Invalid,
                format_args!("{}: not a regular file", attempt()),
            )
        };
        let refused = |error: &_| refused(attempt(), error, FailureKind::NotFound);
        // Checked before the open, because opening a device or a FIFO has side effects; and again
        // on the descriptor, because the guest's programs may have swapped the file.
        if !path.metadata().map_err(|error| refused(&error))?.is_file() {
            return Err(irregular());
        }
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path);
        let mut file = opened.map_err(|error| refused(&error))?;
        let found = file.metadata().map_err(|error| refused(&error))?;
        if !found.is_file() {
            return Err(irregular());
        }
        let mode = found.permissions().mode() & 0o7777;
        if get.from > 0 {
            let sought = file.seek(SeekFrom::Start(get.from));
            sought.map_err(|error| refused(&error))?;
        }
        Ok(Self {
            file,
            path,
            mode,
            left: get.length,
            flow: Outflow::new(id),
        })
    }
}

impl Transfer for Download {
    fn taken(&mut self, offset: u64) -> bool {
        self.flow.taken(offset)
    }

    fn is_ready(&self) -> bool {
        self.flow.room() > 0
    }

    fn step(&mut self, buffer: &mut [u8], out: &mut Outgoing) -> Option<Outcome> {
        let left = self.left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let longest = buffer.len().min(self.flow.room());
        if longest == 0 {
            return None;
        }
        let longest = longest.min(left);
        match self.file.read(&mut buffer[..longest]) {
            Ok(0) => Some(Outcome::FileRead {
                mode: self.mode,
                bytes: self.flow.sent(),
            }),
            Ok(count) => {
                if let Some(left) = &mut self.left {
                    *left -= count as u64;
                }
                self.flow.send(buffer[..count].to_vec(), out);
                None
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            // A file like /proc/kmsg: the agent, which has to serve others, does not wait for
            // content.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(failed(
                FailureKind::Invalid,
                format_args!(
                    "read {}: more of it has to be waited for, as a command could",
                    self.path.display()
                ),
            )),
            Err(error) => {
                let attempt = format_args!("read {}", self.path.display());
                Some(refused(attempt, &error, FailureKind::NotFound))
            }
        }
    }
}
