//! Answers a program's open of a path with a file of our choice.
//!
//! QEMU opens the file of a guest's RAM for reading and writing, even where it maps it
//! copy-on-write (an option against that exists only since 8.2), and keeps the descriptor: a guest
//! that takes QEMU over could write to memory that all clones share. So we answer that open, with a
//! read-only descriptor. A seccomp filter makes the kernel ask us (seccomp_unotify(2)); all other
//! calls proceed without us.

#![expect(
    clippy::cast_possible_truncation,
    reason = "constants of the kernel, small enough, of other types in the C library"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::raw::own;

/// AUDIT_ARCH_X86_64: 64 bits, little endian, EM_X86_64.
const ARCH: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
/// The lower half of the third argument.
const FLAGS_AT: u32 = 16 + 2 * 8;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn load(at: u32) -> libc::sock_filter {
    statement(LOAD, at, 0)
}

/// Continues if the loaded value is `value`; skips `skipped` statements otherwise.
const fn unless_equal_skip(value: u32, skipped: u8) -> libc::sock_filter {
    statement(IF_EQUAL, value, skipped)
}

const fn statement(code: u16, k: u32, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf, k }
}

/// The filter: notifies us of `openat(…, O_RDWR)`. QEMU opens all other files that it writes with
/// O_CLOEXEC, too.
static FILTER: [libc::sock_filter; 8] = [
    load(ARCH_AT),
    unless_equal_skip(ARCH, 5),
    load(NUMBER_AT),
    unless_equal_skip(libc::SYS_openat as u32, 3),
    load(FLAGS_AT),
    unless_equal_skip(libc::O_RDWR as u32, 1),
    statement(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0),
    statement(RETURN, libc::SECCOMP_RET_ALLOW, 0),
];

/// Runs in the child, between fork and exec: installs the filter, and sends its listener through
/// `handoff`.
pub(super) fn install(handoff: BorrowedFd<'_>) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: FILTER.len() as u16,
        filter: FILTER.as_ptr().cast_mut(),
    };
    // SAFETY: the program is valid for the call, which reads it.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let listener = own(listener)?;
    let fds = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        handoff,
        &[IoSlice::new(b".")],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
}

/// The listener for the requests of one process.
#[derive(Debug)]
pub struct Requests(OwnedFd);

impl Requests {
    /// Receives the listener of a process that called [`install`] and has executed since.
    pub(super) fn receive(handoff: BorrowedFd<'_>) -> io::Result<Self> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        // Sent before the exec: it is there already.
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        recvmsg(
            handoff,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            flags,
        )?;
        let mut received = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let missing = || io::Error::other("the process passed no descriptor");
        received.next().map(Self).ok_or_else(missing)
    }

    /// Waits for the first request and answers it with `file`; later ones fail. Stops waiting when
    /// the process, given as a pidfd, has ended.
    pub fn answer(self, file: BorrowedFd<'_>, process: &OwnedFd) -> io::Result<()> {
        let mut polled = [
            PollFd::new(&self.0, PollFlags::IN),
            PollFd::new(process, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
        if !polled[0].revents().contains(PollFlags::IN) {
            return Ok(());
        }
        // SAFETY: all of its fields are numbers, and the kernel wants them to be zero.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request is valid for the call, which writes one of this type.
        let received = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut request,
            )
        };
        if received < 0 {
            return ended_or(io::Error::last_os_error());
        }
        let answer = libc::seccomp_notif_addfd {
            id: request.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: file.as_raw_fd().cast_unsigned(),
            newfd: 0,
            newfd_flags: libc::O_CLOEXEC.cast_unsigned(),
        };
        // SAFETY: the answer is valid for the call, which reads it; the descriptor that it names
        // is open for as long as `file` is borrowed.
        let answered = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ADDFD,
                &raw const answer,
            )
        };
        if answered < 0 {
            return ended_or(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Ignores the error of a request whose process was killed while it asked.
fn ended_or(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Ok(()),
        _ => Err(error),
    }
}
