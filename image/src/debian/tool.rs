//! Runs the distribution's programs, with a timeout and without a terminal.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ironclaw_host::{host_limits, untrusted};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::TemplateError;
use ironclaw_host::sys;

/// Limit of the bytes read of a program's output.
const MAX_OUTPUT: u64 = 1 << 20;

/// Limit of the characters of a program's message in an error.
const MAX_MESSAGE: usize = 400;

/// Number of attempts to start a program whose file is open for writing, and the pause between
/// them.
const BUSY_ATTEMPTS: usize = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// The text of programs about a full disk (strerror(3) of `ENOSPC`).
const FULL: &str = "No space left on device";

/// A program in memory, which runs even if the file system of its file is mounted `noexec`.
pub(super) struct Loaded {
    program: File,
}

impl Loaded {
    /// # Errors
    /// If there is no memory for it, or the host lets nothing be executed there (`vm.memfd_noexec`).
    pub(super) fn new(name: &str, bytes: &[u8]) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC;
        let file = match memfd_create(name, flags | MemfdFlags::EXEC) {
            // Before Linux 6.3 every such file is executable, and the flag is unknown.
            Err(Errno::INVAL) => memfd_create(name, flags),
            created => created,
        }?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        // A file that is open for writing can't be executed.
        let program = File::open(path_of(&file))?;
        Ok(Self { program })
    }

    pub(super) fn path(&self) -> PathBuf {
        path_of(&self.program)
    }
}

/// Returns a path to the same file for holders of the descriptor: us, and a child until its exec.
fn path_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Starts a program. Retries ETXTBSY: a child of another thread may have inherited the file while
/// it was open for writing, and has it until its own exec, some microseconds later.
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

/// Runs `program` in `directory` and returns its standard output.
///
/// `name` is its name in errors.
pub(super) fn run(
    name: &'static str,
    program: &Path,
    arguments: &[OsString],
    directory: &Path,
    limit: Duration,
) -> Result<String, TemplateError> {
    // In memory, not on the disk: if that is full, the program's message about it still fits.
    let capture = || -> io::Result<(File, File)> {
        let capture = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        Ok((capture.try_clone()?, capture))
    };
    let capture = || capture().map_err(TemplateError::io("capture the output of", program));
    let ((mut stdout, child_stdout), (mut stderr, child_stderr)) = (capture()?, capture()?);
    let mut child = Command::new(program);
    // This thread waits for the child's end.
    sys::bind_to_parent(&mut child);
    sys::inherit_only(&mut child, &[]);
    child
        // A multi-call program looks at its name.
        .arg0(name)
        .args(arguments)
        .current_dir(directory)
        // This program parses messages and field names.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(child_stdout)
        .stderr(child_stderr);
    let child = spawn(&mut child).map_err(|error| match error.kind() {
        ErrorKind::NotFound => TemplateError::ToolMissing { program: name },
        _ => TemplateError::io("run", program)(host_limits::of_start(error)),
    })?;
    let mut child = KillOnDrop(child);

    let arguments: Vec<_> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy())
        .collect();
    let command = format!("{name} {}", arguments.join(" "));
    if !ended_within(&child.0, limit)
        .map_err(|error| TemplateError::io("wait for", program)(error.into()))?
    {
        return Err(TemplateError::ToolTimedOut {
            command,
            seconds: limit.as_secs(),
        });
    }
    let status = child
        .0
        .wait()
        .map_err(TemplateError::io("wait for", program))?;
    if !status.success() {
        let message = contents(&mut stderr, program)?;
        if message.contains(FULL) {
            return Err(TemplateError::io("write in", directory)(
                ErrorKind::StorageFull.into(),
            ));
        }
        let skip = message.trim().chars().count().saturating_sub(MAX_MESSAGE);
        let end: String = message.trim().chars().skip(skip).collect();
        let message = untrusted::line(&end.replace('\n', "; "));
        return Err(TemplateError::ToolFailed {
            command,
            status: status.to_string(),
            message,
        });
    }
    contents(&mut stdout, program)
}

/// Ends a child on an early return.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // After a successful `wait` both do nothing.
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            tracing::warn!(%error, "a child process could not be ended");
        }
    }
}

fn ended_within(child: &Child, limit: Duration) -> Result<bool, Errno> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let mut events = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut events, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn contents(file: &mut File, program: &Path) -> Result<String, TemplateError> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.take(MAX_OUTPUT).read_to_end(&mut bytes))
        .map_err(TemplateError::io("read the output of", program))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
