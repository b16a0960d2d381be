//! Begins watches over files of a sandbox, for any API.

use std::path::Path;

use ironclaw_orchestrator::vm::{FileWatch, GuestError, VmClient};
use thiserror::Error;

/// Bytes that are read of a guest's table of mounts.
const MAX_MOUNTS: u64 = 1024 * 1024;

/// What is watched.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    /// The absolute path of a file or a directory.
    pub(crate) path: String,
    /// The user whose permissions hold.
    pub(crate) user: String,
    /// Whether the directories below are watched, too.
    pub(crate) recursive: bool,
    /// Whether it may be on a file system of the network, of which not all is told.
    pub(crate) allow_network_mounts: bool,
}

/// The reason why there is no watch.
#[derive(Debug, Error)]
pub(crate) enum WatchError {
    /// Others may change files there, of which the guest's kernel is not told.
    #[error("cannot watch path on network filesystem: {0}")]
    OnNetwork(String),
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// Begins a watch, which ends when it is dropped.
pub(crate) async fn open(vm: &VmClient, watched: &Watched) -> Result<FileWatch, WatchError> {
    let Watched {
        path,
        user,
        recursive,
        allow_network_mounts,
    } = watched;
    if !allow_network_mounts {
        let mounts = vm.get_file("/proc/mounts", MAX_MOUNTS).await?;
        if is_network(&String::from_utf8_lossy(&mounts), Path::new(path)) {
            return Err(WatchError::OnNetwork(path.clone()));
        }
    }
    let files = vm.files().as_user(user);
    Ok(match recursive {
        true => files.watch_recursive(path).await?,
        false => files.watch(path).await?,
    })
}

/// Finds the last mount that a path is below, in a table as `/proc/mounts` has it.
fn is_network(mounts: &str, path: &Path) -> bool {
    let below = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        path.starts_with(at).then_some((at.len(), kind))
    });
    // Of two at the same place, the later one is seen.
    let found = below.max_by_key(|(length, _)| *length);
    found.is_some_and(|(_, kind)| {
        matches!(kind, "nfs" | "nfs4" | "cifs" | "smb3" | "9p") || kind.starts_with("fuse")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_of_the_network_is_told_from_the_disk_around_it() {
        let mounts = "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n\
            s:/x /mnt/nfs nfs4 rw 0 0\nf /home/user/f fuse.sshfs rw 0 0\ntmpfs /mnt/nfs/t tmpfs rw 0 0\n";
        for (path, network) in [
            ("/", false),
            ("/mnt", false),
            ("/mnt/nfs", true),
            ("/mnt/nfs/a/b", true),
            ("/mnt/nfs2", false),
            ("/mnt/nfs/t/a", false),
            ("/home/user/f/g", true),
        ] {
            assert_eq!(is_network(mounts, Path::new(path)), network, "{path}");
        }
    }
}
