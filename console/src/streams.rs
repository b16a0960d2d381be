//! The standard streams, robust against what others did to them: a program that makes a terminal or
//! a pipe non-blocking does so for everybody who shares it (open(2), "open file description").

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use anyhow::{Context as _, Result};
use ironclaw_host::host_limits;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

use crate::output_closed;

/// Standard output, unbuffered.
#[derive(Debug, Clone, Copy)]
pub struct Stdout;

/// Standard error, unbuffered.
#[derive(Debug, Clone, Copy)]
pub struct Stderr;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(io::stdout(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(io::stderr(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes as much as `stream` takes; waits until it takes some, as a blocking stream would.
fn write(stream: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match rustix::io::write(&stream, bytes) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(&stream, PollFlags::OUT)?,
            written => return Ok(written?),
        }
    }
}

/// Returns whether standard output and standard error are the same terminal, file or pipe, where
/// the order between them is visible.
pub fn go_to_one_place() -> bool {
    let place = |stream: &dyn AsFd| -> io::Result<(u64, u64)> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        let found = file.metadata()?;
        Ok((found.dev(), found.ino()))
    };
    matches!(
        (place(&io::stdout()), place(&io::stderr())),
        (Ok(stdout), Ok(stderr)) if stdout == stderr
    )
}

/// Waits until a non-blocking stream is ready or closed.
fn wait_for(stream: impl AsFd, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(&stream, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads up to `most` bytes of standard input; waits for at least one, and returns none at the end.
/// Reads nothing ahead.
pub fn read_stdin(most: usize) -> io::Result<Vec<u8>> {
    let stdin = io::stdin();
    let mut bytes = vec![0; most];
    loop {
        match rustix::io::read(&stdin, &mut bytes) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(&stdin, PollFlags::IN)?,
            read => {
                bytes.truncate(read?);
                return Ok(bytes);
            }
        }
    }
}

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Writes to both on a thread of its own, because a blocking write can't be cancelled: neither
/// signals nor the end of the program wait for it.
#[derive(Debug)]
pub struct Writer {
    chunks: mpsc::UnboundedSender<Chunk>,
    written: Option<oneshot::Receiver<io::Result<()>>>,
}

type Chunk = (Target, Vec<u8>, oneshot::Sender<io::Result<()>>);

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start() -> Result<Self> {
        let (chunks, mut arriving) = mpsc::unbounded_channel::<Chunk>();
        let write_all = move || {
            while let Some((target, bytes, told)) = arriving.blocking_recv() {
                let result = match target {
                    Target::Stdout => Stdout.write_all(&bytes),
                    Target::Stderr => Stderr.write_all(&bytes),
                };
                // Fails only if the program is ending.
                let _ = told.send(result);
            }
        };
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(write_all)
            .map_err(host_limits::of_start)
            .context("can't start a thread for the output")?;
        Ok(Self {
            chunks,
            written: None,
        })
    }

    /// Starts to write `bytes`. Call it again only after [`Self::written`] has returned.
    pub fn begin(&mut self, target: Target, bytes: Vec<u8>) {
        let (told, written) = oneshot::channel();
        // If the thread is gone, `written` reports it.
        let _ = self.chunks.send((target, bytes, told));
        self.written = Some(written);
    }

    /// Returns whether a write is in progress.
    pub fn is_busy(&self) -> bool {
        self.written.is_some()
    }

    /// Waits for the end of the write in progress, if any. Cancel-safe.
    pub async fn written(&mut self) -> Result<()> {
        let Some(written) = &mut self.written else {
            return Ok(());
        };
        let result = written.await;
        self.written = None;
        result
            .context("the thread for the output ended")?
            .map_err(output_closed::written)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use rustix::io::ioctl_fionbio;

    use super::*;

    #[test]
    fn a_non_blocking_pipe_is_waited_for_until_its_reader_has_taken_some() {
        let (mut reader, writer) = io::pipe().unwrap();
        ioctl_fionbio(&writer, true).unwrap();
        // More than the buffer of a pipe.
        let all = vec![7; 1 << 20];
        let expected = all.len();
        let writing = thread::spawn(move || {
            let mut left = &all[..];
            while !left.is_empty() {
                let count = write(&writer, left).unwrap();
                left = &left[count..];
            }
        });
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writing.join().unwrap();
        assert_eq!(read.len(), expected);
    }

    #[test]
    fn a_reader_that_has_gone_is_a_closed_pipe_also_while_it_is_waited_for() {
        let (reader, writer) = io::pipe().unwrap();
        ioctl_fionbio(&writer, true).unwrap();
        write(&writer, &vec![0; 1 << 20]).unwrap();
        let writing = thread::spawn(move || write(&writer, b"more"));
        drop(reader);
        let error = writing.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
