//! Mount options of the file system that a directory is on.

use std::io;
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, Process};
use rustix::fs::{StatVfsMountFlags, statvfs};

/// Mount options that break a jail: its VMM executes a file and opens devices there.
const NEEDED: [(StatVfsMountFlags, &str); 2] = [
    (StatVfsMountFlags::NODEV, "nodev"),
    (StatVfsMountFlags::NOEXEC, "noexec"),
];

/// A mount option that breaks jails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hindrance {
    /// The option's name, as in fstab(5).
    pub option: &'static str,
    /// The mount point that has it.
    pub mount: PathBuf,
}

impl Hindrance {
    /// Returns the mount option that would break jails below `path`, if any. `path` need not exist:
    /// it will be on the file system of its nearest existing ancestor.
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
