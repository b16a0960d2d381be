//! Unix sockets: their files, modes and groups.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
use tokio::net::{UnixListener, UnixStream};

use super::error::ListenError;

/// Where groups are told by name.
const GROUPS: &str = "/etc/group";

/// A listener whose file is removed with it.
#[derive(Debug)]
pub(super) struct SocketFile {
    listener: UnixListener,
    /// None for one that was passed: its file is that of its maker.
    path: Option<PathBuf>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // It may be gone, or another's by now: the next daemon finds out.
            let _ = fs::remove_file(path);
        }
    }
}

impl SocketFile {
    pub(super) async fn open(path: &Path, group: Option<&str>) -> Result<Self, ListenError> {
        let error = |source| ListenError::Unix {
            path: path.to_owned(),
            source,
        };
        let gid = group.map(gid).transpose()?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                if UnixStream::connect(path).await.is_ok() {
                    return Err(ListenError::Taken(path.to_owned()));
                }
                fs::remove_file(path).map_err(error)?;
            }
            Ok(_) => return Err(error(io::ErrorKind::AlreadyExists.into())),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
            Err(other) => return Err(error(other)),
        }
        let listener = UnixListener::bind(path).map_err(error)?;
        let file = Self {
            listener,
            path: Some(path.to_owned()),
        };
        if gid.is_some() {
            std::os::unix::fs::chown(path, None, gid).map_err(error)?;
        }
        fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(error)?;
        Ok(file)
    }

    /// Takes one that a service manager made.
    pub(super) fn passed(listener: std::os::unix::net::UnixListener) -> Result<Self, ListenError> {
        prepare(&listener).map_err(ListenError::Passed)?;
        let listener = UnixListener::from_std(listener).map_err(ListenError::Passed)?;
        Ok(Self {
            listener,
            path: None,
        })
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

/// Makes a socket that was passed one of ours: no child inherits it, and nothing waits for it.
pub(super) fn prepare(socket: impl AsFd) -> io::Result<()> {
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(ioctl_fionbio(&socket, true)?)
}

/// Finds a group by its name or number.
fn gid(group: &str) -> Result<u32, ListenError> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = fs::read_to_string(GROUPS).unwrap_or_default();
    number_of(&groups, group).ok_or_else(|| ListenError::NoGroup(group.to_owned()))
}

/// Reads the number of a group in a `group(5)`.
fn number_of(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        // Password, gid.
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nbroken\nstaff:x:50:a,b\n";
        assert_eq!(number_of(groups, "staff"), Some(50));
        assert_eq!(number_of(groups, "sta"), None);
        assert_eq!(number_of(groups, "broken"), None);
        assert_eq!(gid("1234").unwrap(), 1234);
        let missing = gid("no such group").unwrap_err();
        assert!(matches!(missing, ListenError::NoGroup(_)), "{missing}");
    }
}
