//! Mounts temporary file systems, which are in memory, with a limit on their total.
//!
//! A tmpfs takes up to half of the guest's memory by default, and two full ones take all of it:
//! then the kernel kills a program where it should have reported a lack of space. So /tmp, /run and
//! /dev/shm share one, and a root in memory may grow into what is left: together less than half,
//! and programs have the rest.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
use rustix::system::sysinfo;

use crate::console::say;

/// From linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The options of the file system that /run, /tmp and /dev/shm share.
const SHARED_SIZE: &std::ffi::CStr = c"mode=0755,size=30%";
/// Growth of a root in memory, in hundredths of the guest's memory.
const ROOT_PERCENT: u64 = 15;
/// The options of /dev, which has nodes and links, and is in memory, too.
const DEV_SIZE: &std::ffi::CStr = c"mode=0755,size=1m";

const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Directories below /run, and their other mount points.
const SHARED: [(&str, &str); 2] = [("/run/tmp", TMP), ("/run/shm", "/dev/shm")];
const TMP: &str = "/tmp";

/// Where a guest's root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// In memory, which it shares with these file systems.
    Memory,
    /// On a disk, which has more room for /tmp.
    Disk,
}

/// Mounts them. Reports failures on the console, and continues.
pub(crate) fn mount_all(root: Root) {
    let dev = mount_remount("/dev", MountFlags::NOSUID, DEV_SIZE);
    report("bound the size of /dev", dev.map_err(Into::into));
    report("bound the size of /", bound_root());
    report("mount /run", mount_run());
    for (directory, at) in SHARED {
        if root == Root::Disk && at == TMP {
            report("create /tmp", make(at, 0o1777));
            continue;
        }
        let shown = make(directory, 0o1777).and_then(|()| show(directory, at));
        report(&format!("mount {directory} at {at}"), shown);
    }
}

fn report(attempt: &str, result: io::Result<()>) {
    if let Err(error) = result {
        say(format_args!("{attempt}: {error}"));
    }
}

fn bound_root() -> io::Result<()> {
    let root = statfs("/")?;
    if u64::try_from(root.f_type).is_ok_and(|kind| kind != TMPFS_MAGIC) {
        // A root on a disk has a size of its own.
        return Ok(());
    }
    let block = u64::try_from(root.f_bsize).unwrap_or(0);
    let used = root
        .f_blocks
        .saturating_sub(root.f_bfree)
        .saturating_mul(block);
    let memory = sysinfo();
    let memory = memory.totalram.saturating_mul(memory.mem_unit.into());
    let size = used + memory / 100 * ROOT_PERCENT;
    Ok(mount_remount(
        "/",
        MountFlags::empty(),
        format!("size={size}"),
    )?)
}

fn mount_run() -> io::Result<()> {
    fs::create_dir_all("/run")?;
    Ok(mount("tmpfs", "/run", "tmpfs", FLAGS, Some(SHARED_SIZE))?)
}

fn show(directory: &str, at: &str) -> io::Result<()> {
    fs::create_dir_all(at)?;
    mount_bind(directory, at)?;
    Ok(mount_remount(at, MountFlags::BIND | FLAGS, c"")?)
}

fn make(directory: &str, mode: u32) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(mode))
}
