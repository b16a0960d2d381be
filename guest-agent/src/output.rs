//! A command's output pipes.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ironclaw_protocol::message::{Stderr, Stream};
use rustix::fs::{Mode, fchmod};
use rustix::io::{ioctl_fionbio, ioctl_fionread};

/// The agent's end of an output pipe, non-blocking.
#[derive(Debug)]
struct Output {
    pipe: File,
    /// Whether to read without waiting: everything to be read is there already.
    ready: bool,
    /// Bytes still to be read from a pipe that is given up.
    left: Option<u64>,
}

/// The result of reading from a pipe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// A number of bytes.
    Bytes(usize),
    /// Nothing now, or at the end.
    Nothing,
}

/// The pipes that a command may write to.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    stdout: Option<Output>,
    stderr: Option<Output>,
}

/// The command's ends.
#[derive(Debug)]
pub(crate) struct CommandEnds {
    pub(crate) stdout: PipeWriter,
    pub(crate) stderr: PipeWriter,
}

/// Opens a pipe that its holders may open anew by /proc, as a command does that changed its user
/// and writes to /dev/stderr. Only processes that have it can reach it.
pub(crate) fn open_pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    fchmod(&writer, Mode::from_raw_mode(0o666))?;
    Ok((reader, writer))
}

/// Makes the agent's end of a pipe non-blocking, as the event loop needs it.
pub(crate) fn nonblocking(end: impl Into<OwnedFd>) -> io::Result<File> {
    let end = end.into();
    ioctl_fionbio(&end, true)?;
    Ok(end.into())
}

impl Output {
    fn new(reader: PipeReader) -> io::Result<Self> {
        Ok(Self {
            pipe: nonblocking(reader)?,
            ready: false,
            left: None,
        })
    }
}

impl Outputs {
    /// Opens the pipes: a single one if the streams are to stay in order.
    pub(crate) fn open(stderr: Stderr) -> io::Result<(Self, CommandEnds)> {
        let (reader, writer) = open_pipe()?;
        let stdout = Some(Output::new(reader)?);
        let (error_output, error_writer) = match stderr {
            Stderr::Apart => {
                let (reader, writer) = open_pipe()?;
                (Some(Output::new(reader)?), writer)
            }
            Stderr::ToStdout => (None, writer.try_clone()?),
        };
        let outputs = Self {
            stdout,
            stderr: error_output,
        };
        let ends = CommandEnds {
            stdout: writer,
            stderr: error_writer,
        };
        Ok((outputs, ends))
    }

    /// Reads from a terminal, which has a single output; the file is non-blocking.
    pub(crate) fn of_terminal(terminal: File) -> Self {
        let stdout = Some(Output {
            pipe: terminal,
            ready: false,
            left: None,
        });
        let stderr = None;
        Self { stdout, stderr }
    }

    fn get(&self, stream: Stream) -> Option<&Output> {
        match stream {
            Stream::Stdout => self.stdout.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
            Stream::File => None,
        }
    }

    fn slot(&mut self, stream: Stream) -> Option<&mut Option<Output>> {
        match stream {
            Stream::Stdout => Some(&mut self.stdout),
            Stream::Stderr => Some(&mut self.stderr),
            Stream::File => None,
        }
    }

    /// Returns the pipe of `stream` to wait for, while it is open.
    pub(crate) fn to_wait_for(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        let output = self.get(stream).filter(|output| !output.ready)?;
        Some(output.pipe.as_fd())
    }

    /// Returns whether to read `stream` without waiting.
    pub(crate) fn is_ready(&self, stream: Stream) -> bool {
        self.get(stream).is_some_and(|output| output.ready)
    }

    /// Returns whether all output has ended.
    pub(crate) fn are_over(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// Reads what is there, at most `allowed` bytes, into `buffer`.
    pub(crate) fn read(&mut self, stream: Stream, allowed: u64, buffer: &mut [u8]) -> Chunk {
        let Some(slot) = self.slot(stream) else {
            return Chunk::Nothing;
        };
        let Some(output) = slot else {
            return Chunk::Nothing;
        };
        let allowed = allowed.min(output.left.unwrap_or(u64::MAX));
        let longest = usize::try_from(allowed)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if longest == 0 {
            return Chunk::Nothing;
        }
        match output.pipe.read(&mut buffer[..longest]) {
            Ok(0) => *slot = None,
            Ok(count) => {
                if let Some(left) = &mut output.left {
                    *left -= count as u64;
                    if *left == 0 {
                        *slot = None;
                    }
                }
                return Chunk::Bytes(count);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && output.left.is_none() => {
                output.ready = false;
            }
            // Another holder of the pipe has read it, or it is unusable: no more output comes.
            Err(_) => *slot = None,
        }
        Chunk::Nothing
    }

    /// Reads without waiting from now on: the main process ended, so its output and most often the
    /// end are there.
    pub(crate) fn look_at_once(&mut self) {
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.ready = true;
        }
    }

    /// Limits the rest to what is in the pipes now.
    pub(crate) fn cut_off(&mut self) {
        for slot in [&mut self.stdout, &mut self.stderr] {
            let left = slot
                .as_ref()
                .map_or(0, |output| ioctl_fionread(&output.pipe).unwrap_or(0));
            match slot {
                Some(output) if left > 0 => {
                    output.left = Some(left);
                    output.ready = true;
                }
                _ => *slot = None,
            }
        }
    }
}
