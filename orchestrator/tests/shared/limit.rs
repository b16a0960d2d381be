//! A timeout of waits for other processes.

use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Far longer than anything takes that works, on any machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Kills a process that takes too long, so that everybody who reads from it or waits for it sees
/// its end. Ends on drop.
#[must_use]
pub(crate) struct Limit(#[expect(dead_code, reason = "its end is what counts")] Sender<()>);

impl Limit {
    pub(crate) fn new(process: &Child) -> Self {
        let pid = Pid::from_child(process);
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let (over, is_over) = channel();
        std::thread::spawn(move || {
            if is_over.recv_timeout(TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                // May have ended by itself at this moment.
                let _ = pidfd_send_signal(&process, Signal::KILL);
            }
        });
        Self(over)
    }
}
