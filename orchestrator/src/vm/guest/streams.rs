//! The streams of a running command, as Tokio has them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};
use tokio::task::JoinHandle;

use super::command::ExitStatus;
use super::error::GuestError;
use super::running::{ExecEvent, Running, StdinWriter};
use crate::vm::exit_reason::ExitReason;

/// Bytes that a stream holds before the command has to wait, as a pipe does.
const PIPE_BYTES: usize = 64 * 1024;

/// A running command as `tokio::process::Child` is one: its streams implement `AsyncRead` and
/// `AsyncWrite`. Dropping this kills the command.
///
/// A command whose output nobody reads waits, as with pipes: read both streams, or drop the one that
/// does not matter.
#[derive(Debug)]
#[must_use = "a command is killed when its streams are dropped"]
pub struct Streams {
    /// Its standard input, if it was [piped](super::Command::stdin_piped): dropping it ends the input.
    pub stdin: Option<InputStream>,
    /// Its standard output.
    pub stdout: OutputStream,
    /// Its standard error.
    pub stderr: OutputStream,
    end: End,
}

/// The standard output or the standard error of a running command. Dropping it discards what else
/// comes of that.
pub struct OutputStream(DuplexStream);

/// The standard input of a running command. Dropping it, or its shutdown, ends the input.
pub struct InputStream(DuplexStream);

/// Without the bytes in it, which may be secret.
impl fmt::Debug for OutputStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutputStream")
    }
}

/// Without the bytes in it, which may be secret.
impl fmt::Debug for InputStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InputStream")
    }
}

impl AsyncRead for OutputStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(context, buffer)
    }
}

impl AsyncWrite for InputStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(context)
    }
}

#[derive(Debug)]
struct End {
    task: JoinHandle<Result<ExitStatus, GuestError>>,
    told: Option<Result<ExitStatus, GuestError>>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    /// Turns it into streams.
    ///
    /// # Panics
    /// Outside of a Tokio runtime: a task moves the bytes.
    pub fn into_streams(mut self) -> Streams {
        let stdin = self.take_stdin().map(|writer| {
            let (ours, theirs) = duplex(PIPE_BYTES);
            tokio::spawn(write(writer, theirs));
            InputStream(ours)
        });
        let (stdout, to_stdout) = duplex(PIPE_BYTES);
        let (stderr, to_stderr) = duplex(PIPE_BYTES);
        let end = End {
            task: tokio::spawn(read(self, to_stdout, to_stderr)),
            told: None,
        };
        Streams {
            stdin,
            stdout: OutputStream(stdout),
            stderr: OutputStream(stderr),
            end,
        }
    }
}

impl Streams {
    /// Waits for the end of the command; the same when it is called again. Output stays to be read. A
    /// command that prints more than a pipe holds does not end before it is. Cancel-safe.
    ///
    /// # Errors
    /// As for [`Running::next`].
    pub async fn wait(&mut self) -> Result<ExitStatus, GuestError> {
        if let Some(told) = &self.end.told {
            return told.clone();
        }
        let told = (&mut self.end.task).await.unwrap_or_else(|error| {
            let what = format!("the task of a command ended: {error}");
            Err(GuestError::closed(ExitReason::Host(what)))
        });
        self.end.told.insert(told).clone()
    }
}

/// Moves what the command prints; what nobody takes any more is discarded.
async fn read(
    mut running: Running,
    mut stdout: DuplexStream,
    mut stderr: DuplexStream,
) -> Result<ExitStatus, GuestError> {
    loop {
        match running.next().await? {
            ExecEvent::Stdout(bytes) => drop(stdout.write_all(&bytes).await),
            ExecEvent::Stderr(bytes) => drop(stderr.write_all(&bytes).await),
            ExecEvent::Ended(status) => return Ok(status),
        }
    }
}

/// Moves what is written to the command, until its end or that of its input.
async fn write(mut writer: StdinWriter, mut from: DuplexStream) -> Result<(), GuestError> {
    let mut buffer = vec![0; PIPE_BYTES];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => writer.write_all(&buffer[..count]).await?,
        }
    }
}
