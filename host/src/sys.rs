//! Wrappers of the few functions that the standard library and `rustix` offer only as `unsafe`.
//!
//! This module and those below it are the only ones of the crate in which `unsafe` is allowed.
#![allow(
    unsafe_code,
    reason = "the one place of all packages for it; every use gives its reason"
)]

pub mod confine;
pub mod program;
mod raw;
pub mod supply;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use rustix::io::FdFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Pid, Signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes the kernel kill the child of `command` when the *thread* that spawns it ends, for whatever
/// reason (`PR_SET_PDEATHSIG`, prctl(2)). The child must be in our PID namespace.
pub fn bind_to_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: it runs between fork and exec, where only async-signal-safe work is sound: it makes
    // system calls, and neither allocates nor locks.
    unsafe { command.pre_exec(move || end_with_parent(parent)) };
}

/// Makes the kernel kill this process when the thread of `parent` ends that started it.
fn end_with_parent(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // If the parent died before the line above, the signal will never come.
    if rustix::process::getppid() != Some(parent) {
        return Err(io::Error::from(rustix::io::Errno::SRCH));
    }
    Ok(())
}

/// Makes the child of `command` the leader of a session of its own.
pub fn lead_session(command: &mut Command) {
    let prepare = || -> io::Result<()> {
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Makes the kernel kill the whole process group that the child of `command` leads, as soon as the
/// last writing end of the pipe that `end` reads from is closed (`O_ASYNC`, `F_SETSIG`; fcntl(2)).
/// The child or one of its descendants has to keep `end` open.
///
/// This covers more than the parent-death signal, which reaches the child alone, and not even that
/// where the child gains privileges.
pub fn end_group_with(command: &mut Command, end: &OwnedFd) {
    let number = end.as_raw_fd();
    // SAFETY: between fork and exec it makes system calls, and neither allocates nor locks. The
    // caller keeps the descriptor open until the child was spawned, which has a copy of it.
    unsafe { command.pre_exec(move || signal_group_at_the_end_of(number)) };
}

/// Has SIGKILL sent to the process group that this process leads when the pipe that the descriptor
/// `number` reads from has no writer any more.
fn signal_group_at_the_end_of(number: RawFd) -> io::Result<()> {
    // Missing in `libc` (asm-generic/fcntl.h).
    const F_SETSIG: libc::c_int = 10;
    let group = -rustix::process::getpid().as_raw_nonzero().get();
    for (operation, argument) in [
        (libc::F_SETOWN, group),
        (F_SETSIG, libc::SIGKILL),
        (libc::F_SETFL, libc::O_ASYNC),
    ] {
        // SAFETY: a number that names no descriptor is an error; none of the three touches memory
        // of ours.
        if unsafe { libc::fcntl(number, operation, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Lets the child of `command` inherit no descriptors but standard input, output and error, and
/// `fds` under the numbers they have here. The program that started or embeds us may have opened
/// others without `O_CLOEXEC`.
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

/// Marks all descriptors but the first three as close-on-exec (close_range(2)). They stay open
/// until the exec: the standard library reports a failed exec through one of them.
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
    // The flag is missing before Linux 5.11.
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
/// survives the exec; prctl(2)): a child that touches a little in many places would get 2 MiB each.
pub fn refuse_huge_pages(command: &mut Command) {
    let prepare = || Ok(rustix::thread::disable_transparent_huge_pages(true)?);
    // SAFETY: between fork and exec it makes one system call, and neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// Starts the child of `command` in a network namespace.
pub fn join_network(command: &mut Command, namespace: Arc<OwnedFd>) {
    // SAFETY: between fork and exec it makes one system call, and neither allocates nor locks.
    unsafe { command.pre_exec(move || enter_network(namespace.as_fd())) };
}

/// Moves this thread to a network namespace.
fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(
        namespace,
        Some(LinkNameSpaceType::Network),
    )?)
}

/// Creates a new, empty network namespace, which ends with its last process and this handle.
pub fn new_network() -> io::Result<OwnedFd> {
    // A thread can't be moved back to where all others are: this one exists for nothing else.
    on_a_thread(|| {
        // SAFETY: no descriptor is touched by a new network namespace.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    })
}

/// Runs `work` on a thread whose descriptors are its own: it has none of this process, and no
/// program that another thread starts meanwhile has one of those that it opens. The kernel executes no
/// file that anybody has open for writing, so a program is written there.
pub fn with_own_descriptors<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_a_thread(|| {
        const FIRST: libc::c_uint = 3;
        // SAFETY: the descriptors that it closes are this thread's copies, of which nothing on its stack
        // is an owner: `work` has not begun.
        let done = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                FIRST,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_UNSHARE,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        work()
    })
}

/// Runs `work` on a thread that exists for nothing else.
fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work)?;
        let panicked = |_| io::Error::other("a thread panicked");
        thread.join().map_err(panicked)?
    })
}

/// Makes the processes that this thread starts from now on members of a new PID namespace.
pub fn new_pid_namespace() -> io::Result<()> {
    // SAFETY: no descriptor is touched by a new PID namespace.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?)
}

/// Starts the writeback of the dirty pages of `part` of `file`, without waiting for it
/// (`SYNC_FILE_RANGE_WRITE`, sync_file_range(2)). A hint: only a sync guarantees durability.
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

/// Returns how many bytes of `file` are in the page cache, in whole pages (mincore(2)). The kernel
/// reports all of the file if this user neither owns it nor may write to it.
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

/// Reads the processor's time-stamp counter.
#[cfg(target_arch = "x86_64")]
pub fn time_stamp_counter() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and touches no memory; where the kernel
    // forbids it (PR_SET_TSC) the process asked for that itself.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Converts a PID; `None` for 0 and numbers beyond `i32`, which name groups in kill(2).
pub fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_thread_with_descriptors_of_its_own_shares_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let is_open = |directory: &str| {
            let all = std::fs::read_dir(directory).unwrap();
            let targets = all.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
            targets.into_iter().any(|target| target == file.path())
        };
        let of_process = format!("/proc/{}/fd", std::process::id());
        assert!(is_open(&of_process));
        let of_thread = "/proc/thread-self/fd";
        let has_it = with_own_descriptors(|| {
            let before = is_open(of_thread);
            let other = tempfile::NamedTempFile::new()?;
            let is_shared = std::fs::read_dir(&of_process)?.any(|entry| {
                let target = entry.and_then(|entry| std::fs::read_link(entry.path()));
                target.is_ok_and(|target| target == other.path())
            });
            Ok((before, is_shared))
        });
        assert_eq!(has_it.unwrap(), (false, false));
        assert!(is_open(&of_process), "it stays open elsewhere");
    }

    #[test]
    fn written_pages_are_in_the_page_cache_and_holes_are_not() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(cached_bytes(&file).unwrap(), 0);
        file.write_all(&[1; 64 << 10]).unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(cached_bytes(&file).unwrap(), 64 << 10);
    }
}
