//! The streams of a running command, as Tokio has them.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
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
    pub stdin: Option<DuplexStream>,
    /// Its standard output.
    pub stdout: DuplexStream,
    /// Its standard error.
    pub stderr: DuplexStream,
    end: End,
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
            ours
        });
        let (stdout, to_stdout) = duplex(PIPE_BYTES);
        let (stderr, to_stderr) = duplex(PIPE_BYTES);
        let end = End {
            task: tokio::spawn(read(self, to_stdout, to_stderr)),
            told: None,
        };
        Streams {
            stdin,
            stdout,
            stderr,
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
