//! The removal of a directory with everything in it.
//!
//! Other programs of the guest may rename and replace what is being removed. So each name is
//! resolved in an open directory, and no symbolic link is followed: nothing outside is removed.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ironclaw_protocol::limits::MAX_DEPTH;
use ironclaw_protocol::message::{FailureKind, Outcome};
use ironclaw_protocol::session::Outgoing;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::account::Account;
use crate::credentials::as_user;
use crate::failure::{failed, refused};
use crate::transfer::Transfer;

/// Names that are removed at a time, before others are served.
const MAX_AT_A_TIME: usize = 256;

/// A directory that is being emptied.
#[derive(Debug)]
struct Level {
    entries: Dir,
    /// Its name in the directory above.
    name: CString,
}

/// An open removal.
#[derive(Debug)]
pub(crate) struct Removal {
    account: Option<Account>,
    path: PathBuf,
    /// The directory in which the tree is.
    parent: OwnedFd,
    levels: Vec<Level>,
    removed: u64,
}

enum Step {
    Done,
    Further,
}

impl Removal {
    /// Opens the tree; removes at once what is no directory.
    pub(crate) fn start(path: &Path, account: Option<Account>) -> Result<Self, Outcome> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            let attempt = format_args!("remove {}: not a name in a directory", path.display());
            return Err(failed(FailureKind::Invalid, attempt));
        };
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let parent = openat(rustix::fs::CWD, above, flags, Mode::empty())?;
            let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
            let mut removal = Self {
                account: None,
                path: path.to_owned(),
                parent,
                levels: Vec::new(),
                removed: 0,
            };
            removal.enter_or_remove(name, FileType::Unknown)?;
            Ok(removal)
        };
        let opened = as_user(account.as_ref(), open);
        let opened = opened.and_then(|opened: Result<_, Errno>| Ok(opened?));
        match opened {
            Ok(removal) => Ok(Self { account, ..removal }),
            Err(error) => Err(of_path(path, &error)),
        }
    }

    fn current(&self) -> Result<std::os::fd::BorrowedFd<'_>, Errno> {
        use std::os::fd::AsFd;
        match self.levels.last() {
            Some(level) => level.entries.fd(),
            None => Ok(self.parent.as_fd()),
        }
    }

    /// Removes a name of the current directory, or enters it if it is a directory.
    fn enter_or_remove(&mut self, name: CString, kind: FileType) -> Result<(), Errno> {
        let current = self.current()?;
        if kind != FileType::Directory {
            match unlinkat(current, &name, AtFlags::empty()) {
                Ok(()) => {
                    self.removed += 1;
                    return Ok(());
                }
                // Removed by others meanwhile.
                Err(Errno::NOENT) if !self.levels.is_empty() => return Ok(()),
                // Linux says the one of a directory, and POSIX the other.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error),
            }
        }
        if self.levels.len() >= MAX_DEPTH as usize {
            return Err(Errno::NAMETOOLONG);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entries = match openat(current, &name, flags, Mode::empty()) {
            Ok(directory) => Dir::new(directory)?,
            Err(Errno::NOENT) if !self.levels.is_empty() => return Ok(()),
            // What is no directory could not be removed above.
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Errno::PERM),
            Err(error) => return Err(error),
        };
        self.levels.push(Level { entries, name });
        Ok(())
    }

    fn further(&mut self) -> Result<Step, Errno> {
        for _ in 0..MAX_AT_A_TIME {
            let Some(level) = self.levels.last_mut() else {
                return Ok(Step::Done);
            };
            match level.entries.next().transpose()? {
                Some(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Some(entry) => {
                    let (name, kind) = (entry.file_name().to_owned(), entry.file_type());
                    self.enter_or_remove(name, kind)?;
                }
                None => {
                    let Some(Level { name, entries }) = self.levels.pop() else {
                        return Ok(Step::Done);
                    };
                    drop(entries);
                    match unlinkat(self.current()?, &name, AtFlags::REMOVEDIR) {
                        Ok(()) => self.removed += 1,
                        Err(Errno::NOENT) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(Step::Further)
    }

    /// Returns the path of the directory that is being emptied, for people.
    fn at(&self) -> PathBuf {
        let mut path = self.path.clone();
        let below = self.levels.iter().skip(1);
        path.extend(below.map(|level| OsStr::from_bytes(level.name.to_bytes())));
        path
    }
}

fn of_path(path: &Path, error: &std::io::Error) -> Outcome {
    let attempt = format_args!("remove {}", path.display());
    refused(attempt, error, FailureKind::NotFound)
}

impl Transfer for Removal {
    fn is_ready(&self) -> bool {
        true
    }

    fn step(&mut self, _: &mut [u8], _: &mut Outgoing) -> Option<Outcome> {
        let account = self.account.take();
        let done = as_user(account.as_ref(), || self.further());
        self.account = account;
        match done.and_then(|done| Ok(done?)) {
            Ok(Step::Further) => None,
            Ok(Step::Done) => Some(Outcome::Changed {
                files: self.removed,
            }),
            Err(error) => Some(of_path(&self.at(), &error)),
        }
    }
}
