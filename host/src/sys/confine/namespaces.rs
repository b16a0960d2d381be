//! The namespaces of a program, and the process that is the first in them.

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;

use super::report::Report;
use crate::sys::raw::last_errno;

/// The namespaces of a program: ours, or its own PID, mount, network, IPC and UTS namespaces.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// The namespaces of this process.
    #[default]
    Ours,
    /// Takes CAP_SYS_ADMIN.
    Own,
    /// Namespaces of its own inside a user namespace that maps a single user and group.
    OfUser {
        /// A line of `/proc/PID/uid_map` (user_namespaces(7)).
        uid_map: String,
        /// A line of `/proc/PID/gid_map`.
        gid_map: String,
    },
}

impl Namespaces {
    /// Returns namespaces that need no capability: `uid` and `gid` are this process's own.
    pub fn of_user(uid: Uid, gid: Gid) -> Self {
        let map = |id: u32| format!("{id} {id} 1");
        Self::OfUser {
            uid_map: map(uid.as_raw()),
            gid_map: map(gid.as_raw()),
        }
    }

    pub(super) fn flags(&self) -> u64 {
        let own = libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        u64::from(
            match self {
                Self::Ours => 0,
                Self::Own => own,
                Self::OfUser { .. } => own | libc::CLONE_NEWUSER,
            }
            .cast_unsigned(),
        )
    }
}

/// Continues as a new process in new namespaces, a child of this one's parent, and exits this one.
pub(super) fn fork_into(namespaces: u64, report: Report<'_>) -> Result<(), Errno> {
    // SAFETY: all of its fields are numbers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | u64::from(libc::CLONE_PARENT.cast_unsigned());
    let (args, size) = (&raw mut args, size_of::<libc::clone_args>());
    // SAFETY: without CLONE_VM it is a fork: the new process goes on here with a copy of all
    // memory. The arguments are valid for the call.
    match unsafe { libc::syscall(libc::SYS_clone3, args, size) } {
        0 => Ok(()),
        pid if pid > 0 => {
            report.process(u32::try_from(pid).unwrap_or_default());
            // SAFETY: it ends this process without running exit handlers, which belong to the
            // process that this one was forked from.
            unsafe { libc::_exit(0) }
        }
        _ => Err(last_errno()),
    }
}
