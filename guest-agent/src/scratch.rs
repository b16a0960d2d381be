//! Where programs write what need not last: memory, and so bounded in sum.
//!
//! A file system in memory takes half of the guest's memory by itself, and two that are filled take all
//! of it: the kernel then kills a program where it should have said that there is no space. So /tmp,
//! /run and /dev/shm share one, and a root in memory gets what is left beside it: together less than
//! half, and programs the rest.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
use rustix::system::sysinfo;

use crate::console::say;

/// Of linux/magic.h.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Of the file system that /run, /tmp and /dev/shm share.
const SHARED_SIZE: &std::ffi::CStr = c"mode=0755,size=30%";
/// What may be added to a root in memory, in hundredths of the guest's memory.
const ROOT_PERCENT: u64 = 15;
/// Of /dev, which holds nodes and links, and is in memory, too.
const DEV_SIZE: &std::ffi::CStr = c"mode=0755,size=1m";

const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Directories below /run, and where else they show.
const SHARED: [(&str, &str); 2] = [("/run/tmp", "/tmp"), ("/run/shm", "/dev/shm")];

/// Mounts them. What fails is reported on the console, and the next is tried.
pub(crate) fn mount_all() {
    let dev = mount_remount("/dev", MountFlags::NOSUID, DEV_SIZE);
    report("bound the size of /dev", dev.map_err(Into::into));
    report("bound the size of /", bound_root());
    report("mount /run", mount_run());
    for (directory, at) in SHARED {
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
        // On a disk, which has a size of its own.
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
