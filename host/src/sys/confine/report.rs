//! The stages of a start, and the pipe by which its processes report them.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

/// The stage in which a confinement failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Entering new namespaces.
    Namespaces = 1,
    /// Mapping user and group into a user namespace.
    UserNamespace,
    /// Populating the root directory.
    Mounts,
    /// Changing to the root directory.
    Root,
    /// Setting resource limits.
    Limits,
    /// Changing to another user.
    User,
    /// Dropping capabilities.
    Capabilities,
    /// Setting the parent-death signal.
    Parent,
    /// Restricting access to files.
    Landlock,
    /// Restricting system calls.
    Filter,
    /// Installing the filter that lets us supply a file.
    Supply,
}

impl Stage {
    const ALL: [Self; 11] = [
        Self::Namespaces,
        Self::UserNamespace,
        Self::Mounts,
        Self::Root,
        Self::Limits,
        Self::User,
        Self::Capabilities,
        Self::Parent,
        Self::Landlock,
        Self::Filter,
        Self::Supply,
    ];

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Namespaces => "make its namespaces",
            Self::UserNamespace => "map its user into its user namespace",
            Self::Mounts => "make its root directory",
            Self::Root => "change to its root directory",
            Self::Limits => "set its limits",
            Self::User => "change to its user",
            Self::Capabilities => "give up its capabilities",
            Self::Parent => "tie it to this process",
            Self::Landlock => "restrict its files (Landlock)",
            Self::Filter => "filter its system calls (seccomp)",
            Self::Supply => "pass its memory (seccomp notification, Linux 5.14 or newer)",
        }
    }
}

/// The pipe by which the processes of a start report their progress: records of two numbers, each
/// written at once.
#[derive(Clone, Copy)]
pub(super) struct Report<'a>(pub(super) BorrowedFd<'a>);

/// The kind of a record with the PID of the program's process. Other kinds are those of [`Stage`].
const IS_PROCESS: u32 = 0;

impl Report<'_> {
    pub(super) fn process(self, pid: u32) {
        self.record(IS_PROCESS, pid);
    }

    pub(super) fn failed(self, stage: Stage) {
        self.record(stage as u32, 0);
    }

    fn record(self, kind: u32, number: u32) {
        let mut record = [0; 8];
        record[..4].copy_from_slice(&kind.to_ne_bytes());
        record[4..].copy_from_slice(&number.to_ne_bytes());
        // A write fails only if nobody reads, and then nobody cares.
        let _ = rustix::io::write(self.0, &record);
    }
}

/// Reads the report. All writers have executed or exited by now.
pub(super) fn read(report: io::PipeReader) -> io::Result<(Option<Pid>, Option<Stage>)> {
    let flags = rustix::fs::fcntl_getfl(&report)?;
    rustix::fs::fcntl_setfl(&report, flags | OFlags::NONBLOCK)?;
    let (mut process, mut failed) = (None, None);
    let mut record = [0; 8];
    while rustix::io::read(&report, &mut record) == Ok(record.len()) {
        let number = |part: &[u8]| u32::from_ne_bytes(part.try_into().unwrap_or_default());
        match number(&record[..4]) {
            IS_PROCESS => process = crate::sys::pid(number(&record[4..])),
            kind => failed = Stage::ALL.into_iter().find(|stage| *stage as u32 == kind),
        }
    }
    Ok((process, failed))
}

/// Ends this process when the thread that started it ends, even if that has ended already: the
/// report has no reader then. Comparing the parent's PID would not work in a PID namespace.
pub(super) fn end_with_parent(report: Report<'_>) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut reader = [PollFd::from_borrowed_fd(report.0, PollFlags::empty())];
    poll(&mut reader, Some(&now))?;
    if reader[0].revents().contains(PollFlags::ERR) {
        return Err(Errno::SRCH);
    }
    Ok(())
}
