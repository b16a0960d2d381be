//! What flows between the guest's command and this process's standard streams.

use std::io::Read as _;
use std::pin::pin;

use anyhow::{Context as _, Result, ensure};
use ironclaw_orchestrator::vm::guest::MAX_COLLECTED;
use ironclaw_orchestrator::vm::host_limits;
use ironclaw_orchestrator::vm::{ExecEvent, ExitStatus, Running, StdinWriter};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, Stderr, Stdout};
use tokio::sync::mpsc;

use crate::exit;
use crate::output::mebibytes;

/// Bytes that are read from standard input at a time.
const CHUNK: usize = 32 * 1024;

/// Chunks of standard input that wait for the guest.
const WAITING: usize = 4;

/// Where a command's output goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// To our own streams, as it comes.
    Streams(Stdout, Stderr),
    /// Into memory: standard output, standard error.
    Memory(Vec<u8>, Vec<u8>),
}

impl Sink {
    pub(crate) fn streams() -> Self {
        Self::Streams(tokio::io::stdout(), tokio::io::stderr())
    }

    pub(crate) fn memory() -> Self {
        Self::Memory(Vec::new(), Vec::new())
    }

    async fn stdout(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Streams(stdout, _) => write(stdout, bytes).await,
            Self::Memory(stdout, stderr) => collect(stdout, bytes, stderr.len()),
        }
    }

    async fn stderr(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Streams(_, stderr) => write(stderr, bytes).await,
            Self::Memory(stdout, stderr) => collect(stderr, bytes, stdout.len()),
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).await.map_err(exit::written)?;
    stream.flush().await.map_err(exit::written)
}

fn collect(into: &mut Vec<u8>, bytes: &[u8], others: usize) -> Result<()> {
    into.extend_from_slice(bytes);
    ensure!(
        (into.len() + others) as u64 <= MAX_COLLECTED,
        "the command printed more than {}, which is the most that --json collects; run it without \
         --json, which passes output on as it comes",
        mebibytes(MAX_COLLECTED)
    );
    Ok(())
}

/// Passes the command's output on until it ends, and our standard input to it if it takes any.
pub(crate) async fn follow(mut running: Running, sink: &mut Sink) -> Result<ExitStatus> {
    let mut input = pin!(feed(running.take_stdin()));
    let mut fed = false;
    loop {
        tokio::select! {
            event = running.next() => match event? {
                ExecEvent::Stdout(bytes) => sink.stdout(&bytes).await?,
                ExecEvent::Stderr(bytes) => sink.stderr(&bytes).await?,
                ExecEvent::Ended(status) => return Ok(status),
            },
            result = &mut input, if !fed => {
                result?;
                fed = true;
            }
        }
    }
}

async fn feed(writer: Option<StdinWriter>) -> Result<()> {
    let Some(mut writer) = writer else {
        return Ok(());
    };
    let mut chunks = read_stdin()?;
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.context("can't read standard input")?;
        if writer.write_all(&chunk).await.is_err() {
            // The output's side of the line says why it is closed.
            return Ok(());
        }
    }
    Ok(())
}

/// Reads standard input on a thread of its own: a read of a terminal can't be called off, and the
/// end of the program must not wait for it.
fn read_stdin() -> Result<mpsc::Receiver<std::io::Result<Vec<u8>>>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let read = move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            let chunk = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(buffer[..length].to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(read)
        .map_err(host_limits::of_start)
        .context("can't start a thread for standard input")?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn collected_output_is_kept_apart_and_bounded_in_sum() {
        let mut sink = Sink::memory();
        sink.stdout(b"out").await.unwrap();
        sink.stderr(b"err").await.unwrap();
        let Sink::Memory(stdout, stderr) = &mut sink else {
            panic!("another sink")
        };
        assert_eq!(
            (stdout.as_slice(), stderr.as_slice()),
            (&b"out"[..], &b"err"[..])
        );

        stdout.resize(usize::try_from(MAX_COLLECTED).unwrap() - 3, 0);
        let error = sink.stderr(b"x").await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("64.0 MiB") && text.contains("without --json"));
    }
}
