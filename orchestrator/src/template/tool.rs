//! Running the distribution's programs, with a time limit and without a terminal.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::TemplateError;
use crate::sys;

/// Most of a program's output that is read, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;

/// Most of a program's complaint that goes into an error, in characters.
const MAX_MESSAGE: usize = 400;

/// What programs say of a full disk (strerror(3) of `ENOSPC`).
const FULL: &str = "No space left on device";

/// Runs `program` in `directory` and returns its standard output.
///
/// `name` is what the error calls it.
pub(super) fn run(
    name: &'static str,
    program: &Path,
    arguments: &[OsString],
    directory: &Path,
    limit: Duration,
) -> Result<String, TemplateError> {
    // Not on the disk: if that is full, it is here that the program says so.
    let capture = || -> std::io::Result<(File, File)> {
        let capture = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        Ok((capture.try_clone()?, capture))
    };
    let capture = || capture().map_err(TemplateError::io("capture the output of", program));
    let ((mut stdout, child_stdout), (mut stderr, child_stderr)) = (capture()?, capture()?);
    let mut child = Command::new(program);
    // This thread waits for its end.
    sys::bind_to_parent(&mut child);
    let child = child
        .args(arguments)
        .current_dir(directory)
        // Messages and field names are read by this program.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(child_stdout)
        .stderr(child_stderr)
        .spawn();
    let child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => TemplateError::ToolMissing { program: name },
        _ => TemplateError::io("run", program)(error),
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
        let message = message
            .trim()
            .chars()
            .skip(skip)
            .collect::<String>()
            .replace('\n', "; ")
            .replace(char::is_control, " ");
        return Err(TemplateError::ToolFailed {
            command,
            status: status.to_string(),
            message,
        });
    }
    contents(&mut stdout, program)
}

/// Ends a child that is not waited for in the regular way.
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
