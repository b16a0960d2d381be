//! A file that the host writes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ironclaw_protocol::message::{Existing, FailureKind, Outcome, PutFile, RequestId};
use ironclaw_protocol::session::{Outgoing, Violation};
use rustix::fs::OFlags;

use crate::account::Account;
use crate::credentials::as_user;
use crate::failure::{failed, refused};
use crate::inflow::Inflow;
use crate::os_str::os;
use crate::transfer::Transfer;

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
    account: Option<Account>,
    mode: u32,
    complete: bool,
}

impl Upload {
    /// Opens what is to be written.
    pub(crate) fn start(id: RequestId, put: &PutFile) -> Result<Self, Outcome> {
        let account = Account::of_request(put.user.as_ref())?;
        let opened = as_user(account.as_ref(), || Self::open(id, put, account.clone()));
        opened.map_err(|error| refused("become another user", &error, FailureKind::NoSuchUser))?
    }

    fn open(id: RequestId, put: &PutFile, account: Option<Account>) -> Result<Self, Outcome> {
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
            _ => target.metadata().ok(),
        };
        let exists = found.is_some();
        match found {
            Some(found) if found.is_dir() => return Err(invalid("is a directory")),
            Some(found) if !found.is_file() => {
                return Err(invalid("exists and is not a regular file"));
            }
            _ => {}
        }
        if put.parents {
            fs::create_dir_all(directory).map_err(|error| {
                let attempt = format_args!("make the directory {}", directory.display());
                refused(attempt, &error, FailureKind::NoSuchDirectory)
            })?;
        }
        let opened = match put.existing {
            Existing::Replaced => create_beside(directory).map(|(file, temporary)| {
                let replacing = Replacing {
                    temporary,
                    account,
                    mode: put.mode,
                    complete: false,
                };
                (file, Some(replacing))
            }),
            in_place => open_in_place(&target, put.mode, in_place).map(|file| (file, None)),
        };
        let (file, replacing) = opened.map_err(|error| {
            let at = target.display();
            match (put.existing, exists) {
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
                _ => refused(
                    format_args!("overwrite {at}"),
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

    /// Gives a new file its mode and its name.
    fn publish(&mut self) -> Result<(), Outcome> {
        let Some(replacing) = &mut self.replacing else {
            return Ok(());
        };
        let mode = Permissions::from_mode(replacing.mode);
        let named = as_user(replacing.account.as_ref(), || {
            if let Err(error) = self.file.set_permissions(mode) {
                return Err(("set the mode of", error));
            }
            fs::rename(&replacing.temporary, &self.target)
                .map_err(|error| ("give its name to", error))
        });
        let named = named.unwrap_or_else(|error| Err(("become the owner of", error)));
        replacing.complete = named.is_ok();
        named.map_err(|(attempt, error)| self.refused(attempt, &error))
    }

    fn refused(&self, attempt: &str, error: &io::Error) -> Outcome {
        let attempt = format_args!("{attempt} {}", self.target.display());
        refused(attempt, error, FailureKind::NoSuchDirectory)
    }
}

impl Transfer for Upload {
    fn content(
        &mut self,
        _: RequestId,
        bytes: &[u8],
        out: &mut Outgoing,
    ) -> Result<Option<Outcome>, Violation> {
        self.inflow.arrive(bytes.len())?;
        Ok(match self.file.write_all(bytes) {
            Ok(()) => {
                self.written += bytes.len() as u64;
                self.inflow.consume(bytes.len(), out);
                None
            }
            Err(error) => Some(self.refused("write", &error)),
        })
    }

    fn end_of_content(&mut self, _: RequestId) -> Result<Option<Outcome>, Violation> {
        Ok(Some(match self.publish() {
            Ok(()) => Outcome::FileWritten {
                bytes: self.written,
            },
            Err(outcome) => outcome,
        }))
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        if !self.complete {
            // Nothing can be done about a directory that became read-only meanwhile.
            let _ = as_user(self.account.as_ref(), || fs::remove_file(&self.temporary));
        }
    }
}

/// Opens a file as it is, by a link or not, to write what is asked for of it; makes it if it is not
/// there.
fn open_in_place(target: &Path, mode: u32, existing: Existing) -> io::Result<File> {
    // Anything but a regular file was refused before, unless a program of the guest swapped it
    // since.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(flags);
    match existing {
        Existing::Appended => options.append(true),
        Existing::WrittenAt(_) => options.truncate(false),
        Existing::Overwritten | Existing::Replaced => options.truncate(true),
    };
    let mut file = open_or_make(&options, target, mode)?;
    if let Existing::WrittenAt(offset) = existing {
        file.seek(SeekFrom::Start(offset))?;
    }
    Ok(file)
}

fn open_or_make(options: &OpenOptions, target: &Path, mode: u32) -> io::Result<File> {
    match options.clone().create_new(true).mode(0o600).open(target) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(mode))?;
            Ok(file)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            options.clone().create(true).mode(mode).open(target)
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
