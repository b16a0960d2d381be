//! A file that the host reads.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use ironclaw_protocol::limits::{MAX_CHUNK, WINDOW};
use ironclaw_protocol::message::{FailureKind, GetFile, Outcome, RequestId, Stream, ToHost};
use ironclaw_protocol::session::Outgoing;
use rustix::fs::OFlags;

use crate::failure::{failed, refused};
use crate::os_str::os;

/// An open `GetFile`.
#[derive(Debug)]
pub(crate) struct Download {
    id: RequestId,
    file: File,
    path: PathBuf,
    mode: u32,
    sent: u64,
    /// Bytes that the host has taken.
    taken: u64,
}

impl Download {
    /// Opens the file; only a regular one, because others may block or have side effects.
    pub(crate) fn start(id: RequestId, get: &GetFile) -> Result<Self, Outcome> {
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
        let file = opened.map_err(|error| refused(&error))?;
        let found = file.metadata().map_err(|error| refused(&error))?;
        if !found.is_file() {
            return Err(irregular());
        }
        let mode = found.permissions().mode() & 0o7777;
        Ok(Self {
            id,
            file,
            path,
            mode,
            sent: 0,
            taken: 0,
        })
    }

    /// Returns how many bytes the host takes now.
    fn credit(&self) -> u64 {
        self.taken + u64::from(WINDOW) - self.sent
    }

    /// Returns whether the host takes more.
    pub(crate) fn has_credit(&self) -> bool {
        self.credit() > 0
    }

    /// Records that the host took everything up to `offset`; returns `false` if that was not sent.
    #[must_use]
    pub(crate) fn taken(&mut self, offset: u64) -> bool {
        self.taken = self.taken.max(offset);
        self.taken <= self.sent
    }

    /// Sends one chunk; returns the outcome at the end of the file, or on an error.
    pub(crate) fn send(&mut self, buffer: &mut [u8], out: &mut Outgoing) -> Option<Outcome> {
        let longest = buffer.len().min(MAX_CHUNK);
        let longest = usize::try_from(self.credit())
            .unwrap_or(longest)
            .min(longest);
        if longest == 0 {
            return None;
        }
        match self.file.read(&mut buffer[..longest]) {
            Ok(0) => Some(Outcome::FileRead {
                mode: self.mode,
                bytes: self.sent,
            }),
            Ok(count) => {
                let bytes = buffer[..count].to_vec();
                out.push(&ToHost::Data {
                    id: self.id,
                    stream: Stream::File,
                    bytes,
                });
                self.sent += count as u64;
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
