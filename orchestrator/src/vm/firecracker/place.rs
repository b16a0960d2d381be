//! Where a Firecracker process has its files, seen from both sides.
//!
//! Without a jail it sees the host's file system, and only its sockets are here. In a jail this
//! directory is all that it sees: what it reads is linked in, and what it writes is taken out. It
//! may have been taken over by its guest, so nothing in here is followed if it is a link.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, linkat, openat};
use tokio::net::UnixStream;

use crate::vm::vmm::VmmError;

/// The directory of a VM.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: Arc<Path>,
    directory: Arc<OwnedFd>,
    /// The group of a jailed process.
    jail: Option<u32>,
}

impl Place {
    /// The directory at `path`, for a process of the group `jail` if that is jailed in it.
    pub(super) fn open(path: &Path, jail: Option<u32>) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self {
            path: path.into(),
            directory: Arc::new(openat(CWD, path, flags, Mode::empty())?),
            jail,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to the socket called `name`, however long this directory's path is.
    pub(super) async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = openat(&self.directory, name, flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode);
        if kind != FileType::Socket {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{name} is not a socket"),
            ));
        }
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }

    /// Lets the process read `file`, which goes by `name` in a jail; returns what it calls it.
    pub(super) fn lend(&self, file: &Path, name: &str) -> Result<PathBuf, VmmError> {
        let Some(group) = self.jail else {
            return Ok(file.to_owned());
        };
        let failed = || VmmError::io(format!("let a jailed VM read {}", file.display()));
        readable_by(file, group).map_err(failed())?;
        let target = self.path.join(name);
        match linkat(CWD, file, CWD, &target, AtFlags::empty()) {
            Ok(()) => Ok(name.into()),
            Err(rustix::io::Errno::XDEV) => Err(VmmError::io(format!(
                "link {} into {}: set IRONCLAW_RUN_PATH to a directory of the same file system",
                file.display(),
                self.path.display()
            ))(rustix::io::Errno::XDEV.into())),
            Err(errno) => Err(failed()(errno.into())),
        }
    }

    /// What the process calls the new file that it is to write for `target`.
    pub(super) fn outgoing(&self, target: &Path, name: &str) -> Result<PathBuf, VmmError> {
        if self.jail.is_some() {
            return Ok(name.into());
        }
        // Firecracker would create it for all to read.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        openat(CWD, target, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .map_err(VmmError::io(format!("create {}", target.display())))?;
        Ok(target.to_owned())
    }

    /// Puts what the process wrote at `target`, for us alone.
    pub(super) fn collect(&self, target: &Path, name: &str) -> Result<(), VmmError> {
        if self.jail.is_none() {
            return Ok(());
        }
        let written = self.path.join(name);
        let collect = || -> io::Result<()> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(openat(CWD, &written, flags, Mode::empty())?);
            let facts = file.metadata()?;
            if !facts.is_file() || facts.nlink() != 1 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is not a file of its own",
                ));
            }
            let us = rustix::process::geteuid().as_raw();
            fchown(&file, Some(us), Some(rustix::process::getegid().as_raw()))?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            fs::rename(&written, target)
        };
        collect().map_err(VmmError::io(format!(
            "take {} to {}",
            written.display(),
            target.display()
        )))
    }
}

/// Lets a group read a file that only its owner may read. Its directory stays closed to them:
/// they meet the file through a link of ours.
fn readable_by(file: &Path, group: u32) -> io::Result<()> {
    let file = File::open(file)?;
    let facts = file.metadata()?;
    if facts.gid() != group || facts.mode() & 0o777 != 0o640 {
        fchown(&file, None, Some(group))?;
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
    }
    Ok(())
}
