//! A file that the host writes.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ironclaw_protocol::message::{FailureKind, Outcome, PutFile, RequestId};

use crate::failure::{failed, refused};
use crate::inflow::Inflow;
use crate::outgoing::Outgoing;
use crate::violation::Violation;

/// How many names are tried for the half-written file. A name is taken only if an earlier agent
/// process of the same number was killed in mid-write.
const NAMES: u32 = 16;

/// An open `PutFile`.
///
/// The bytes go to a file of another name in the same directory, which takes the asked-for name
/// when it is complete: nobody ever sees half a file there. Nothing is synced to disk: a guest
/// does not outlive a crash of its kernel.
///
/// Dropping it before the end removes the half-written file.
#[derive(Debug)]
pub(crate) struct Upload {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    mode: u32,
    written: u64,
    inflow: Inflow,
    complete: bool,
}

impl Upload {
    /// Creates the file that is going to be renamed.
    pub(crate) fn start(id: RequestId, put: &PutFile) -> Result<Self, Outcome> {
        let target = PathBuf::from(&put.path);
        let invalid = |reason| {
            failed(
                FailureKind::Invalid,
                format_args!("write {}: {reason}", target.display()),
            )
        };
        let (Some(directory), Some(_), false) =
            (target.parent(), target.file_name(), put.path.ends_with('/'))
        else {
            return Err(invalid("not the name of a file"));
        };
        // Renaming over them would replace a device node, or fail only after all was sent.
        match target.symlink_metadata() {
            Ok(found) if found.is_dir() => return Err(invalid("is a directory")),
            Ok(found) if !found.is_file() && !found.is_symlink() => {
                return Err(invalid("exists and is not a regular file"));
            }
            _ => {}
        }
        let (file, temporary) = create_beside(directory).map_err(|error| {
            let attempt = format_args!("create a file in {}", directory.display());
            refused(attempt, &error, FailureKind::NoSuchDirectory)
        })?;
        let inflow = Inflow::new(id);
        let mode = put.mode;
        Ok(Self {
            file,
            temporary,
            target,
            mode,
            written: 0,
            inflow,
            complete: false,
        })
    }

    /// Content arrived. The outer error breaks the protocol, the inner one ends the request.
    pub(crate) fn arrive(
        &mut self,
        bytes: &[u8],
        out: &mut Outgoing,
    ) -> Result<Result<(), Outcome>, Violation> {
        self.inflow.arrive(bytes.len())?;
        Ok(match self.file.write_all(bytes) {
            Ok(()) => {
                self.written += bytes.len() as u64;
                self.inflow.consume(bytes.len(), out);
                Ok(())
            }
            Err(error) => Err(self.refused("write", &error)),
        })
    }

    /// All content arrived: gives the file its mode and its name.
    pub(crate) fn finish(mut self) -> Outcome {
        if let Err(error) = self.file.set_permissions(Permissions::from_mode(self.mode)) {
            return self.refused("set the mode of", &error);
        }
        if let Err(error) = std::fs::rename(&self.temporary, &self.target) {
            return self.refused("give its name to", &error);
        }
        self.complete = true;
        Outcome::FileWritten {
            bytes: self.written,
        }
    }

    fn refused(&self, attempt: &str, error: &io::Error) -> Outcome {
        let attempt = format_args!("{attempt} {}", self.target.display());
        refused(attempt, error, FailureKind::NoSuchDirectory)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.complete {
            // Nothing can be done about a directory that became read-only meanwhile.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn create_beside(directory: &Path) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut last = io::Error::from(ErrorKind::AlreadyExists);
    for _ in 0..NAMES {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".ironclaw-put-{}-{number}", std::process::id()));
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
