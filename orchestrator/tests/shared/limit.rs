//! An end for waits on other processes.

use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Far longer than anything takes that works, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Kills a process that takes too long, so that whoever reads from it or waits for it sees its
/// end. Over when it is dropped.
#[must_use]
pub(crate) struct Limit(#[expect(dead_code, reason = "its end is what counts")] Sender<()>);

impl Limit {
    pub(crate) fn of(process: &Child) -> Self {
        let pid = Pid::from_child(process);
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let (over, is_over) = channel();
        std::thread::spawn(move || {
            if is_over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // It may have ended by itself in this moment.
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        });
        Self(over)
    }
}
