//! The few things that the standard library and `rustix` offer only as `unsafe`.
//!
//! This is the one module of the crate in which `unsafe` is allowed, with those below it.
#![allow(
    unsafe_code,
    reason = "the one place of all packages for it; every use gives its reason"
)]

pub mod confine;
mod raw;
pub mod supply;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Pid, Signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes the child of `command` be killed when the *thread* that spawns it ends, however that
/// happens (`PR_SET_PDEATHSIG`, prctl(2)). It must be of our PID namespace.
pub fn bind_to_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above: then no signal will ever come.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        Ok(())
    };
    // SAFETY: `prepare` runs between fork and exec, where only async-signal-safe work is sound:
    // it makes system calls, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Makes the child of `command` lead a session of its own.
pub fn lead_session(command: &mut Command) {
    let prepare = || -> io::Result<()> {
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Has the kernel kill all of the process group that the child of `command` leads, as soon as nobody
/// has the writing end any more of the pipe that `end` reads from (`O_ASYNC`, `F_SETSIG`; fcntl(2)).
/// The child, or one of its own, has to keep `end` open.
///
/// The parent-death signal reaches the child alone, and not even that where it gains privileges.
pub fn end_group_with(command: &mut Command, end: &OwnedFd) {
    // Which `libc` lacks (asm-generic/fcntl.h).
    const F_SETSIG: libc::c_int = 10;
    let number = end.as_raw_fd();
    let prepare = move || -> io::Result<()> {
        let group = -rustix::process::getpid().as_raw_nonzero().get();
        for (operation, argument) in [
            (libc::F_SETOWN, group),
            (F_SETSIG, libc::SIGKILL),
            (libc::F_SETFL, libc::O_ASYNC),
        ] {
            // SAFETY: the caller keeps the descriptor open until the child was spawned, which has a
            // copy of it; none of the three touches memory of ours.
            if unsafe { libc::fcntl(number, operation, argument) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Leaves the child of `command` none of our descriptors beside its standard input, output and
/// error, but `fds` under the numbers they have here: whoever started us, or embeds us, may have
/// others open without `O_CLOEXEC`.
pub fn inherit_only(command: &mut Command, fds: &[OwnedFd]) {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || -> io::Result<()> {
        close_others_on_exec()?;
        for number in &numbers {
            // SAFETY: the caller keeps the descriptors open until the child was spawned, and the
            // child has a copy of every one of them.
            let fd = unsafe { BorrowedFd::borrow_raw(*number) };
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: `prepare` runs between fork and exec, where only async-signal-safe work is sound:
    // it makes system calls and reads a vector filled before, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Marks all descriptors but the first three, so that an exec closes them (close_range(2)). They
/// stay open until then: by one of them the standard library tells whether the exec failed.
fn close_others_on_exec() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: it marks descriptors, and touches no memory of ours.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Before Linux 5.11.
    if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) {
        return Err(error);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let end = limit
        .current
        .and_then(|limit| libc::c_int::try_from(limit).ok());
    for number in 3..end.unwrap_or(libc::c_int::MAX) {
        // SAFETY: as above; a number that names no descriptor is an error that changes nothing.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Keeps the kernel from giving the child of `command` huge pages (`PR_SET_THP_DISABLE`, which
/// survives the exec; prctl(2)): one that touches a little of many places would get 2 MiB each.
pub fn refuse_huge_pages(command: &mut Command) {
    let prepare = || Ok(rustix::thread::disable_transparent_huge_pages(true)?);
    // SAFETY: between fork and exec it makes one system call, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Gives the child of `command` a network namespace of its own, with nothing in it.
pub fn leave_network(command: &mut Command) {
    let prepare = || -> io::Result<()> {
        // SAFETY: no descriptor is touched by a new network namespace.
        Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
    };
    // SAFETY: between fork and exec it makes one system call, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Lets the processes that this thread starts from now on be in a new PID namespace.
pub fn new_pid_namespace() -> io::Result<()> {
    // SAFETY: no descriptor is touched by a new PID namespace.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?)
}

/// Lets the kernel begin to write the dirty pages of `part` of `file` to the disk, without waiting
/// (`SYNC_FILE_RANGE_WRITE`, sync_file_range(2)). A hint: only a sync tells whether they arrived.
pub fn start_writing(file: &File, part: &Range<u64>) {
    let (Ok(start), Ok(len)) = (
        i64::try_from(part.start),
        i64::try_from(part.end - part.start),
    ) else {
        return;
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call touches no
    // memory of ours.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Bytes of `file` that are in the page cache, in whole pages (mincore(2)). For a file that neither
/// belongs to this user nor may be written by it, the kernel says that all of it is.
pub fn cached_bytes(file: &File) -> io::Result<u64> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if length == 0 {
        return Ok(0);
    }
    let page = rustix::param::page_size();
    let mut pages = vec![0_u8; length.div_ceil(page)];
    let (read, shared) = (ProtFlags::READ, MapFlags::SHARED);
    // SAFETY: it is a new mapping at a place of the kernel's choice, and nothing reads through it.
    let mapping = unsafe { mmap(std::ptr::null_mut(), length, read, shared, file, 0) }?;
    // SAFETY: the range is the mapping made above, and the vector has one byte for each page of it.
    let failed = unsafe { libc::mincore(mapping, length, pages.as_mut_ptr()) } != 0;
    let error = io::Error::last_os_error();
    // SAFETY: the mapping was made above, is unmapped once, and nothing points into it.
    unsafe { munmap(mapping, length) }?;
    if failed {
        return Err(error);
    }
    let resident = pages.iter().filter(|page| *page & 1 == 1).count();
    Ok((resident as u64).saturating_mul(page as u64))
}

/// Registers a descriptor with the runtime, for reading.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and it lives
    // in the returned value.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// The processor's time-stamp counter.
#[cfg(target_arch = "x86_64")]
pub fn time_stamp_counter() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and touches no memory; where the kernel
    // forbids it (PR_SET_TSC) the process asked for that itself.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The process that `pid` names, if it is one: 0 and negative numbers name groups.
pub fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_written_just_now_is_in_the_page_cache_and_a_hole_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(cached_bytes(&file).unwrap(), 0);
        file.write_all(&[1; 64 << 10]).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(cached_bytes(&file).unwrap(), 64 << 10);
    }
}
