//! The root directory of a program.

use std::ffi::{CStr, CString};

use rustix::fs::{CWD, Dev, FileType, Gid, Mode, Uid, mkdirat, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change,
    unmount,
};

use crate::sys::raw::last_errno;

/// A root directory: a tmpfs populated by these steps, then made read-only.
#[derive(Debug)]
pub struct Root {
    /// The mount point of the tmpfs, which hides what is below it: nothing there can be bound.
    pub over: CString,
    /// The steps, in this order.
    pub steps: Vec<Step>,
}

/// A step in populating a root directory. All `at` are below [`Root::over`].
#[derive(Debug)]
pub enum Step {
    /// An empty directory.
    Directory {
        /// Its path in the new root.
        at: CString,
    },
    /// An empty file, as the target of a bind mount.
    File {
        /// Its path in the new root.
        at: CString,
    },
    /// A symbolic link.
    Link {
        /// Its path in the new root.
        at: CString,
        /// The target of the link.
        target: CString,
    },
    /// A read-only bind mount of a file or directory of the host, with everything below it.
    Bind {
        /// Its path on the host.
        from: CString,
        /// Its path in the new root.
        at: CString,
    },
    /// A bind mount of a device of the host, with its permissions.
    BindDevice {
        /// Its path on the host.
        from: CString,
        /// Its path in the new root.
        at: CString,
    },
    /// A character device, owned by the program's user. Needs CAP_MKNOD.
    Device {
        /// Its path in the new root.
        at: CString,
        /// Its major and minor number.
        device: Dev,
    },
}

impl Root {
    pub(super) fn make(&self, user: Option<(Uid, Gid)>) -> Result<(), Errno> {
        // Mounts made here do not propagate to the host, nor the host's to here.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(c"/", private)?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount(
            c"ironclaw",
            &*self.over,
            c"tmpfs",
            flags,
            c"mode=755,size=1m",
        )?;
        let umask = rustix::process::umask(Mode::empty());
        for step in &self.steps {
            step.take(user)?;
        }
        rustix::process::umask(umask);
        Ok(())
    }

    pub(super) fn enter(&self) -> Result<(), Errno> {
        rustix::process::chdir(&*self.over)?;
        // Stacks the old root on top of the new one, so that it can be unmounted there
        // (pivot_root(2)).
        rustix::process::pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")?;
        set_attributes(c"/", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, false)
    }
}

impl Step {
    fn take(&self, user: Option<(Uid, Gid)>) -> Result<(), Errno> {
        match self {
            Self::Directory { at } => match mkdirat(CWD, &**at, Mode::from(0o755)) {
                Err(Errno::EXIST) => Ok(()),
                made => made,
            },
            Self::File { at } => mknodat(CWD, &**at, FileType::RegularFile, Mode::from(0o444), 0),
            Self::Link { at, target } => symlinkat(&**target, CWD, &**at),
            Self::Bind { from, at } => {
                mount_bind_recursive(&**from, &**at)?;
                let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
                set_attributes(at, attributes, true)
            }
            Self::BindDevice { from, at } => {
                mount_bind_recursive(&**from, &**at)?;
                set_attributes(at, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, false)
            }
            Self::Device { at, device } => {
                mknodat(
                    CWD,
                    &**at,
                    FileType::CharacterDevice,
                    Mode::from(0o600),
                    *device,
                )?;
                match user {
                    Some((uid, gid)) => rustix::fs::chown(&**at, Some(uid), Some(gid)),
                    None => Ok(()),
                }
            }
        }
    }
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;

/// Calls mount_setattr(2).
fn set_attributes(at: &CStr, set: u64, all_below: bool) -> Result<(), Errno> {
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = Attributes {
        set,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let flags = if all_below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path and the attributes are valid for the call, which reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            at.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}
