//! Programs whose output is read, with a limit on their time.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ironclaw_host::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Number of attempts to start a program whose file is open for writing, and the pause between them.
const BUSY_ATTEMPTS: usize = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// A program that runs until this is dropped, with all that it started; reads what it prints.
pub(super) struct Running {
    child: Child,
    stdout: Option<ChildStdout>,
    deadline: Instant,
}

impl Running {
    /// Starts a program, whose end has to come within `limit`.
    pub(super) fn start(command: &mut Command, limit: Duration) -> io::Result<Self> {
        // This thread waits for its end.
        sys::bind_to_parent(command);
        command.process_group(0).stdout(Stdio::piped());
        let mut child = spawn(command)?;
        Ok(Self {
            stdout: child.stdout.take(),
            child,
            deadline: Instant::now() + limit,
        })
    }

    /// Returns its standard input, if that is a pipe.
    #[cfg(feature = "registry")]
    pub(super) fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        // A program that still prints finds nobody who reads.
        self.stdout = None;
        let end = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        wait_for(&end, self.deadline)?;
        self.child.wait()
    }
}

impl Read for Running {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stdout) = &mut self.stdout else {
            return Ok(0);
        };
        wait_for(&*stdout, self.deadline)?;
        stdout.read(buffer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            // Gone already, or killed by this.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Starts a program. Retries ETXTBSY: a child of another thread may have inherited the file while it was
/// open for writing, and has it until its own exec, some microseconds later.
fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..BUSY_ATTEMPTS {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(BUSY_PAUSE);
            }
            spawned => return spawned,
        }
    }
    command.spawn()
}

fn wait_for(event: impl AsFd, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                let text = "it did not end in time";
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
