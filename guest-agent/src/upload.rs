//! A file that the host writes.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ironclaw_protocol::message::{Existing, FailureKind, Outcome, PutFile, RequestId};
use ironclaw_protocol::session::{Outgoing, Violation};
use rustix::fs::OFlags;

use crate::failure::{failed, refused};
use crate::inflow::Inflow;
use crate::os_str::os;

/// How many names are tried for the half-written file. A name is taken only if an earlier agent
/// process of the same number was killed in mid-write.
const NAMES: u32 = 16;

/// An open `PutFile`.
///
/// The bytes go to a file of another name in the same directory, which takes the asked-for name
/// when it is complete: nobody ever sees half a file there. It is a new file, the agent's own: a
/// symbolic link of that name is replaced, not followed, and a file's other names keep the old
/// content. A file that is to be overwritten instead gets the bytes as they come.
///
/// Nothing is synced to disk: a guest does not outlive a crash of its kernel.
///
/// Dropping it before the end removes the half-written file.
#[derive(Debug)]
pub(crate) struct Upload {
    file: File,
    replacing: Option<Replacing>,
    target: PathBuf,
    written: u64,
    inflow: Inflow,
}

/// A half-written file that is going to be renamed.
#[derive(Debug)]
struct Replacing {
    temporary: PathBuf,
    mode: u32,
    complete: bool,
}

impl Upload {
    /// Opens what is to be written.
    pub(crate) fn start(id: RequestId, put: &PutFile) -> Result<Self, Outcome> {
        let target = PathBuf::from(os(&put.path));
        let invalid = |reason| {
            failed(
                FailureKind::Invalid,
                format_args!("write {}: {reason}", target.display()),
            )
        };
        let (Some(directory), Some(_), false) = (
            target.parent(),
            target.file_name(),
            put.path.as_bytes().ends_with(b"/"),
        ) else {
            return Err(invalid("not the name of a file"));
        };
        // Writing to others has effects of its own; renaming over them would replace a device node, or
        // fail only after all was sent.
        let found = match put.existing {
            Existing::Replaced => target.symlink_metadata().ok().filter(|f| !f.is_symlink()),
            Existing::Overwritten => target.metadata().ok(),
        };
        let exists = found.is_some();
        match found {
            Some(found) if found.is_dir() => return Err(invalid("is a directory")),
            Some(found) if !found.is_file() => {
                return Err(invalid("exists and is not a regular file"));
            }
            _ => {}
        }
        let opened = match put.existing {
            Existing::Replaced => create_beside(directory).map(|(file, temporary)| {
                let replacing = Replacing {
                    temporary,
                    mode: put.mode,
                    complete: false,
                };
                (file, Some(replacing))
            }),
            Existing::Overwritten => open_in_place(&target, put.mode).map(|file| (file, None)),
        };
        let (file, replacing) = opened.map_err(|error| {
            let at = target.display();
            match (put.existing, exists) {
                (Existing::Overwritten, _) => refused(
                    format_args!("overwrite {at}"),
                    &error,
                    FailureKind::NoSuchDirectory,
                ),
                // Such as one of procfs, which says that there is no such file.
                (Existing::Replaced, true) => refused(
                    format_args!("write {at} anew, and not in place: create a file beside it"),
                    &error,
                    FailureKind::PermissionDenied,
                ),
                (Existing::Replaced, false) => refused(
                    format_args!("write {at}: create a file in {}", directory.display()),
                    &error,
                    FailureKind::NoSuchDirectory,
                ),
            }
        })?;
        Ok(Self {
            file,
            replacing,
            target,
            written: 0,
            inflow: Inflow::new(id),
        })
    }

    /// Adds content. The outer error is a violation of the protocol, the inner one ends the
    /// request.
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

    /// Ends the content: gives a new file its mode and its name.
    pub(crate) fn finish(mut self) -> Outcome {
        if let Some(replacing) = &self.replacing {
            let mode = Permissions::from_mode(replacing.mode);
            if let Err(error) = self.file.set_permissions(mode) {
                return self.refused("set the mode of", &error);
            }
            if let Err(error) = std::fs::rename(&replacing.temporary, &self.target) {
                return self.refused("give its name to", &error);
            }
        }
        if let Some(replacing) = &mut self.replacing {
            replacing.complete = true;
        }
        Outcome::FileWritten {
            bytes: self.written,
        }
    }

    fn refused(&self, attempt: &str, error: &io::Error) -> Outcome {
        let attempt = format_args!("{attempt} {}", self.target.display());
        refused(attempt, error, FailureKind::NoSuchDirectory)
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        if !self.complete {
            // Nothing can be done about a directory that became read-only meanwhile.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Opens a file as it is, by a link or not, and empties it; makes it if it is not there.
fn open_in_place(target: &Path, mode: u32) -> io::Result<File> {
    // Anything but a regular file was refused before, unless a program of the guest swapped it
    // since.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.write(true).truncate(true).custom_flags(flags);
    match options.clone().create_new(true).mode(0o600).open(target) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(mode))?;
            Ok(file)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            options.create(true).mode(mode).open(target)
        }
        Err(error) => Err(error),
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
