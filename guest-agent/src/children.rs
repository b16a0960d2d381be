//! The processes below the agent: its own children, and the orphans that PID 1 inherits.

use std::io;
use std::os::unix::net::UnixStream;

use ironclaw_protocol::message::CommandEnd;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait,
};

/// Limit of the processes reaped at a time: what commands leave behind may end as fast as it is
/// reaped, for ever.
const MAX_REAPED: usize = 64;

/// Opens a stream that becomes readable when a child has ended.
pub(crate) fn watch() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(Signal::CHILD.as_raw(), write)?;
    Ok(read)
}

/// Children that have ended.
#[derive(Debug, Default)]
pub(crate) struct Reaped {
    /// The PID and the outcome of each.
    pub(crate) ended: Vec<(Pid, CommandEnd)>,
    /// Whether there may be more.
    pub(crate) more: bool,
}

/// Reaps ended children, up to a limit.
///
/// The caller looks up the PIDs of its own children in the result. The agent has a single thread,
/// so the PID of an open request can't have been reused before.
pub(crate) fn reap() -> Reaped {
    let mut reaped = Reaped::default();
    for _ in 0..MAX_REAPED {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => reaped.ended.extend(end(status).map(|end| (pid, end))),
            Err(Errno::INTR) => {}
            // None has ended, or there are none.
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

/// Signals the process group of `leader`, which must not be reaped yet: the PID could be another's
/// afterwards.
pub(crate) fn signal_group(leader: Pid, signal: Signal) {
    // One that is about to take a terminal over has no group of its own yet. Else it fails only if no
    // process is left.
    if kill_process_group(leader, signal).is_err() {
        let _ = kill_process(leader, signal);
    }
}
