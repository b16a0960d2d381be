//! The processes below the agent: its own children, and the orphans that PID 1 inherits.

use std::io;
use std::os::unix::net::UnixStream;

use ironclaw_protocol::message::CommandEnd;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};

/// Most processes that are collected at a time: those that a guest's commands leave behind may end as
/// fast as they are collected, and for ever.
const MAX_REAPED: usize = 64;

/// Gives a stream that becomes readable when a child ended.
pub(crate) fn watch() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(Signal::CHILD.as_raw(), write)?;
    Ok(read)
}

/// Children that ended.
#[derive(Debug, Default)]
pub(crate) struct Reaped {
    /// How each of them did.
    pub(crate) ended: Vec<(Pid, CommandEnd)>,
    /// Whether there may be more.
    pub(crate) more: bool,
}

/// Collects children that ended, and how, up to a number.
///
/// Whoever started a child looks its number up in the result. The agent has one thread, so a
/// number that is in use by an open request can't have been given to another process before.
pub(crate) fn reap() -> Reaped {
    let mut reaped = Reaped::default();
    for _ in 0..MAX_REAPED {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => reaped.ended.extend(end(status).map(|end| (pid, end))),
            Err(Errno::INTR) => {}
            // None has ended, or there is none.
            Ok(None) | Err(_) => return reaped,
        }
    }
    reaped.more = true;
    reaped
}

fn end(status: WaitStatus) -> Option<CommandEnd> {
    if let Some(signal) = status.terminating_signal() {
        return Some(CommandEnd::Signaled(signal));
    }
    status
        .exit_status()
        .and_then(|code| u8::try_from(code).ok())
        .map(CommandEnd::Exited)
}

/// Signals the process group that `leader` leads. Only for a leader that is not yet reaped: the
/// number may belong to somebody else afterwards.
pub(crate) fn signal_group(leader: Pid, signal: Signal) {
    // The one possible error is that no process is left to be signalled.
    let _ = kill_process_group(leader, signal);
}
