//! Does a piece of work as another user: its files are opened with that user's permissions, and the
//! commands started in it are that user's.
//!
//! The agent takes the user's ids and returns to its own, as it does with a command's control
//! group. That needs no code in the child, and the kernel itself decides what the user may. Being
//! a single thread, the agent does nothing else meanwhile. Only PID 1 does this for others' users,
//! which no signal of theirs can reach; and the saved uid stays root's, so none of them may trace it.

use std::io;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::account::Account;
use crate::console::say;

/// Calls `work` as `account`, or as the agent itself.
///
/// # Errors
/// The kernel's, if the agent may not become this user.
pub(crate) fn as_user<T>(account: Option<&Account>, work: impl FnOnce() -> T) -> io::Result<T> {
    let (uid, gid) = (geteuid(), getegid());
    let Some(account) = account.filter(|of| (of.uid, of.gid) != (uid.as_raw(), gid.as_raw()))
    else {
        return Ok(work());
    };
    let groups = getgroups()?;
    let taken = take(account, uid, gid);
    let done = taken.map(|()| work());
    // Without its own ids again the agent could serve nobody.
    let back = set_thread_res_uid(uid, uid, uid)
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| match done {
            // It may not have been allowed to change them.
            Err(_) => set_thread_groups(&groups).or(Ok(())),
            Ok(_) => set_thread_groups(&groups),
        });
    if let Err(error) = back {
        say(format_args!(
            "return from the user {}: {error}",
            account.uid
        ));
        std::process::abort();
    }
    Ok(done?)
}

fn take(account: &Account, uid: Uid, gid: Gid) -> Result<(), Errno> {
    let groups: Vec<_> = account.groups.iter().copied().map(Gid::from_raw).collect();
    let (to_uid, to_gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(to_gid, to_gid, gid)?;
    set_thread_res_uid(to_uid, to_uid, uid)
}
