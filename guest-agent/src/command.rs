//! A command that the host asked for, from start to the answer.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Spawn, Stdio};
use std::time::{Duration, Instant};

use ironclaw_protocol::limits::{MAX_CHUNK, WINDOW};
use ironclaw_protocol::message::{Exec, FailureKind, Outcome, RequestId, Stream, ToHost};
use rustix::io::{ioctl_fionbio, ioctl_fionread};
use rustix::process::{Pid, Signal};

use crate::children::signal_group;
use crate::failure::{failed, refused};
use crate::outgoing::Outgoing;
use crate::program::Surroundings;
use crate::stdin::Stdin;

/// An open `Exec`.
///
/// Its end has two halves: the main process was reaped, and what was in its pipes at that time
/// is sent. A background process that keeps the pipes open is not waited for.
///
/// Dropping it before the process was reaped kills the process group.
#[derive(Debug)]
pub(crate) struct Command {
    id: RequestId,
    leader: Pid,
    stdin: Option<Stdin>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    /// Bytes of output that the host still takes.
    credit: u64,
    deadline: Option<Instant>,
    /// What to answer instead of how the process ended, which the agent itself killed.
    verdict: Option<Outcome>,
    end: Option<Outcome>,
}

/// One of the command's output pipes.
#[derive(Debug)]
struct Output {
    pipe: File,
    /// Once the command ended: how much of what is in the pipe it can have written.
    left: Option<u64>,
}

/// The agent's ends of a process's pipes, non-blocking.
struct Pipes {
    stdin: Option<Stdin>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

impl Pipes {
    fn take(id: RequestId, child: &mut Child) -> io::Result<Self> {
        let ready = |pipe: OwnedFd| -> io::Result<File> {
            ioctl_fionbio(&pipe, true)?;
            Ok(pipe.into())
        };
        let stdin = child
            .stdin
            .take()
            .map(|pipe| ready(pipe.into()))
            .transpose()?;
        let stdout = child
            .stdout
            .take()
            .map(|pipe| ready(pipe.into()))
            .transpose()?;
        let stderr = child
            .stderr
            .take()
            .map(|pipe| ready(pipe.into()))
            .transpose()?;
        let output = |pipe| Output { pipe, left: None };
        Ok(Self {
            stdin: stdin.map(|pipe| Stdin::new(id, pipe)),
            stdout: stdout.map(output),
            stderr: stderr.map(output),
        })
    }
}

impl Command {
    /// Starts what `exec` says.
    pub(crate) fn start(
        id: RequestId,
        exec: &Exec,
        surroundings: &Surroundings,
    ) -> Result<Self, Outcome> {
        let directory = surroundings.directory(exec)?;
        let program = surroundings.program(exec, &directory)?;
        let piped_or_empty = if exec.stdin {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let name = exec.argv.first().map_or("", String::as_str);
        let started = Instant::now();
        let mut child = Spawn::new(program)
            .arg0(name)
            .args(exec.argv.iter().skip(1))
            .env_clear()
            .envs(surroundings.env.iter().map(|(name, value)| (name, value)))
            .envs(exec.env.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            .process_group(0)
            .stdin(piped_or_empty)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            // The file was found before, so what is missing is the interpreter it names.
            .map_err(|error| refused(format_args!("run {name}"), &error, FailureKind::NotFound))?;
        let pipes = Pipes::take(id, &mut child);
        let mut command = Self {
            id,
            leader: Pid::from_child(&child),
            stdin: None,
            stdout: None,
            stderr: None,
            credit: WINDOW.into(),
            deadline: exec
                .timeout_ms
                .and_then(|ms| started.checked_add(Duration::from_millis(ms))),
            verdict: None,
            end: None,
        };
        // From here on the process belongs to a `Command`, which kills it if this fails.
        let pipes = pipes.map_err(|error| {
            refused(
                format_args!("set up the pipes of {name}"),
                &error,
                FailureKind::Io,
            )
        })?;
        (command.stdin, command.stdout, command.stderr) = (pipes.stdin, pipes.stdout, pipes.stderr);
        Ok(command)
    }

    /// The number of its main process.
    pub(crate) fn leader(&self) -> Pid {
        self.leader
    }

    /// Standard input, if the host said that it sends some.
    pub(crate) fn stdin(&mut self) -> Option<&mut Stdin> {
        self.stdin.as_mut()
    }

    /// The pipe to standard input, if there is something to write.
    pub(crate) fn stdin_to_write(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().and_then(Stdin::to_write)
    }

    /// The pipe of `stream`, if there may be something to read that the host has credit for.
    pub(crate) fn to_read(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        let output = match stream {
            Stream::Stdout => self.stdout.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
            Stream::File => None,
        };
        output
            .filter(|_| self.credit > 0)
            .map(|output| output.pipe.as_fd())
    }

    /// Whether the main process ended, so that what can be read is there already.
    pub(crate) fn is_draining(&self) -> bool {
        self.end.is_some()
    }

    /// The host took `bytes` bytes of output.
    pub(crate) fn grant(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes.into());
    }

    /// Sends one chunk of `stream`, if there is one.
    pub(crate) fn send(&mut self, stream: Stream, buffer: &mut [u8], out: &mut Outgoing) {
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::File => return,
        };
        let Some(output) = slot else { return };
        let allowed = self.credit.min(output.left.unwrap_or(u64::MAX));
        let longest = usize::try_from(allowed)
            .unwrap_or(usize::MAX)
            .min(MAX_CHUNK)
            .min(buffer.len());
        if longest == 0 {
            return;
        }
        match output.pipe.read(&mut buffer[..longest]) {
            Ok(0) => *slot = None,
            Ok(count) => {
                out.push(&ToHost::Data {
                    id: self.id,
                    stream,
                    bytes: buffer[..count].to_vec(),
                });
                self.credit -= count as u64;
                if let Some(left) = &mut output.left {
                    *left -= count as u64;
                    if *left == 0 {
                        *slot = None;
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && output.left.is_none() => {}
            // Somebody else who has the pipe read it, or it is unusable: nothing more comes.
            Err(_) => *slot = None,
        }
    }

    /// The main process was reaped.
    pub(crate) fn ended(&mut self, end: Outcome, out: &mut Outgoing) {
        self.end = Some(end);
        self.deadline = None;
        if let Some(stdin) = &mut self.stdin {
            stdin.abandon(out);
        }
        for slot in [&mut self.stdout, &mut self.stderr] {
            let left = slot
                .as_ref()
                .map_or(0, |output| ioctl_fionread(&output.pipe).unwrap_or(0));
            match slot {
                Some(output) if left > 0 => output.left = Some(left),
                _ => *slot = None,
            }
        }
    }

    /// The answer, when the process ended and its output is sent.
    pub(crate) fn answer(&mut self) -> Option<Outcome> {
        if self.stdout.is_some() || self.stderr.is_some() {
            return None;
        }
        let end = self.end.clone()?;
        Some(self.verdict.take().unwrap_or(end))
    }

    /// Sends a signal to the process group, while there is one.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.end.is_none() {
            signal_group(self.leader, signal);
        }
    }

    /// Kills the process group; its output is of no interest any more.
    pub(crate) fn cancel(&mut self, out: &mut Outgoing) {
        self.signal(Signal::KILL);
        self.verdict = Some(failed(
            FailureKind::Cancelled,
            "the host cancelled the command",
        ));
        self.deadline = None;
        self.stdout = None;
        self.stderr = None;
        if let Some(stdin) = &mut self.stdin {
            stdin.abandon(out);
        }
    }

    /// When the command's time is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Kills the process group if its time is over; what it wrote until then is still sent.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.verdict = Some(Outcome::TimedOut);
            self.signal(Signal::KILL);
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
