//! How the file system is mounted that a directory is on.

use std::io;
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, Process};
use rustix::fs::{StatVfsMountFlags, statvfs};

/// What a jail can't do without: its VMM runs from a file there, and opens devices there.
const NEEDED: [(StatVfsMountFlags, &str); 2] = [
    (StatVfsMountFlags::NODEV, "nodev"),
    (StatVfsMountFlags::NOEXEC, "noexec"),
];

/// An option that keeps jails from working, and where it is mounted with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hindrance {
    /// As in fstab(5).
    pub option: &'static str,
    /// Where the file system is mounted.
    pub mount: PathBuf,
}

impl Hindrance {
    /// Of jails below `path`, which need not be there yet: it will be on the file system of what is
    /// above it.
    pub fn of_jails(path: &Path) -> io::Result<Option<Self>> {
        let Some(there) = path.ancestors().find_map(|path| path.canonicalize().ok()) else {
            return Ok(None);
        };
        let flags = statvfs(&there)?.f_flag;
        let option = NEEDED.iter().find(|(flag, _)| flags.contains(*flag));
        Ok(option.map(|(_, option)| Self {
            option,
            mount: mount_point(&there).unwrap_or(there),
        }))
    }
}

fn mount_point(path: &Path) -> Option<PathBuf> {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    let above = |mount: &MountInfo| path.starts_with(&mount.mount_point);
    let points = mounts.ok()?.0.into_iter().filter(above);
    points
        .map(|mount| mount.mount_point)
        .max_by_key(|point| point.components().count())
}
