//! Connects the standard streams of the guest's command with this process's.

use std::io;
use std::pin::pin;

use crate::output::mebibytes;
use crate::signals::{Effect, Forwarding, Interrupted, Signals, stop_ourselves};
use crate::streams::{self, Target, Writer};
use crate::terminal::{self, RawMode};
use anyhow::{Context as _, Result, ensure};
use ironclaw_host::host_limits;
use ironclaw_orchestrator::vm::guest::MAX_COLLECTED;
use ironclaw_orchestrator::vm::{ExecEvent, ExitStatus, GuestError, Running, StdinWriter};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Bytes read from standard input at the command's first request: the request's own size is
/// unknown, and many programs read this much at a time.
const MIN_READ: usize = 4096;

/// Limit of the bytes read at a time.
const MAX_READ: usize = 256 * 1024;

/// The destination of a command's output.
#[derive(Debug)]
pub enum Sink {
    /// Our own streams, as output arrives.
    Streams(Writer),
    /// Memory: standard output, standard error.
    Memory(Vec<u8>, Vec<u8>),
}

impl Sink {
    /// Creates one that writes to our own streams.
    ///
    /// # Errors
    /// The thread that writes to them can't start.
    pub fn streams() -> Result<Self> {
        Ok(Self::Streams(Writer::start()?))
    }

    /// Creates one that collects output in memory.
    #[must_use]
    pub fn memory() -> Self {
        Self::Memory(Vec::new(), Vec::new())
    }

    /// Returns the output collected in memory, if any: standard output, standard error.
    #[must_use]
    pub fn collected(self) -> Option<(Vec<u8>, Vec<u8>)> {
        match self {
            Self::Streams(_) => None,
            Self::Memory(stdout, stderr) => Some((stdout, stderr)),
        }
    }

    /// Accepts output, unless it is [busy](Self::is_busy).
    ///
    /// # Errors
    /// If it collects more than it may.
    pub fn take(&mut self, target: Target, bytes: Vec<u8>) -> Result<()> {
        match (self, target) {
            (Self::Streams(writer), _) => {
                writer.begin(target, bytes);
                Ok(())
            }
            (Self::Memory(stdout, stderr), Target::Stdout) => collect(stdout, &bytes, stderr.len()),
            (Self::Memory(stdout, stderr), Target::Stderr) => collect(stderr, &bytes, stdout.len()),
        }
    }

    /// Returns whether it accepts no more for now.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Streams(writer) if writer.is_busy())
    }

    /// Resolves when it is no longer busy, or a write has failed.
    ///
    /// # Errors
    /// The stream's.
    pub async fn ready(&mut self) -> Result<()> {
        match self {
            Self::Streams(writer) => writer.written().await,
            Self::Memory(..) => Ok(()),
        }
    }
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

/// The end of the command.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Whether the guest ran out of memory and killed a process of the command for that.
    pub out_of_memory: bool,
    /// Whether the command's time was over without the guest confirming its end: the VM's end kills
    /// it.
    pub unconfirmed: bool,
}

/// The input of a command on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// None.
    None,
    /// Our standard input, as it comes.
    Typed,
}

/// Forwards the command's output until it ends, our standard input to it if it takes any, and the
/// signals that we receive.
///
/// # Errors
/// The guest's, those of our streams, and [`Interrupted`] after a second signal that ends.
pub async fn follow(mut running: Running, sink: &mut Sink, signals: &mut Signals) -> Result<Ended> {
    let input = feed(running.take_stdin());
    until_end(running, input, sink, signals, |running, signal| {
        // If the connection is closed, the output's side reports why.
        let _ = running.signal(signal.as_raw());
        if signal == Signal::TSTP {
            stop_ourselves();
        }
    })
    .await
}

/// Does the same for a command on a terminal, which gets the size of ours and each key that is
/// pressed. Ours is as it was before when this returns, or is dropped.
///
/// # Errors
/// As for [`follow`], and if our terminal can't be changed.
pub async fn follow_terminal(
    mut running: Running,
    input: Input,
    sink: &mut Sink,
    signals: &mut Signals,
) -> Result<Ended> {
    let _raw = match input {
        Input::Typed => RawMode::enter().context("can't prepare the terminal")?,
        Input::None => None,
    };
    let typed = feed_all(running.take_stdin());
    // It may have changed since the command was made.
    let _ = running.resize(terminal::size());
    until_end(running, typed, sink, signals, |running, signal| {
        let _ = match signal {
            Signal::WINCH => running.resize(terminal::size()),
            other => running.signal(other.as_raw()),
        };
    })
    .await
}

async fn until_end(
    mut running: Running,
    input: impl Future<Output = Result<()>>,
    sink: &mut Sink,
    signals: &mut Signals,
    forward: impl Fn(&Running, Signal),
) -> Result<Ended> {
    let mut input = pin!(input);
    let mut fed = false;
    let mut forwarding = Forwarding::default();
    loop {
        tokio::select! {
            event = running.next(), if !sink.is_busy() => match event {
                Ok(ExecEvent::Stdout(bytes)) => sink.take(Target::Stdout, bytes)?,
                Ok(ExecEvent::Stderr(bytes)) => sink.take(Target::Stderr, bytes)?,
                Ok(ExecEvent::Ended(status)) => return Ok(Ended {
                    status,
                    out_of_memory: running.out_of_memory(),
                    unconfirmed: false,
                }),
                // Of a later release of the library: no output.
                Ok(_) => {}
                // A command's timeout is the only cause of this error.
                Err(GuestError::NoAnswer { .. }) => return Ok(Ended {
                    status: ExitStatus::TimedOut,
                    out_of_memory: running.out_of_memory(),
                    unconfirmed: true,
                }),
                Err(error) => return Err(error.into()),
            },
            result = sink.ready(), if sink.is_busy() => result?,
            result = &mut input, if !fed => {
                result?;
                fed = true;
            }
            signal = signals.next() => {
                if let Effect::Kill(first) = forwarding.receive(signal, Instant::now()) {
                    return Err(Interrupted(first).into());
                }
                forward(&running, signal);
            }
            not_ended = forwarding.timed_out() => return Err(not_ended.into()),
        }
    }
}

/// Forwards our standard input as it comes, to its end.
async fn feed_all(writer: Option<StdinWriter>) -> Result<()> {
    let Some(mut writer) = writer else {
        return Ok(());
    };
    let mut stdin = StdinReader::start()?;
    loop {
        let chunk = stdin
            .read(MIN_READ)
            .await
            .context("can't read standard input")?;
        // If the connection is closed, the output's side reports why.
        if chunk.is_empty() || writer.write_all(&chunk).await.is_err() {
            return Ok(());
        }
    }
}

/// Forwards our standard input as the command requests it, and no more: others who share it, like
/// the loop of a shell that started us, get what the command leaves.
async fn feed(writer: Option<StdinWriter>) -> Result<()> {
    let Some(mut writer) = writer else {
        return Ok(());
    };
    let mut stdin = StdinReader::start()?;
    // If the connection is closed, the output's side reports why.
    while writer.wanted().await.is_ok_and(|wanted| wanted) {
        let chunk = stdin
            .read_wanted()
            .await
            .context("can't read standard input")?;
        if chunk.is_empty() {
            return Ok(());
        }
        if writer.write_all(&chunk).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads standard input on a thread of its own: a read from a terminal can't be cancelled, and must
/// not delay the program's end.
#[derive(Debug)]
pub struct StdinReader {
    asks: std::sync::mpsc::Sender<usize>,
    chunks: mpsc::UnboundedReceiver<io::Result<Vec<u8>>>,
    /// Limit of the next read that a command has asked for.
    wanted: usize,
}

impl StdinReader {
    /// Starts the thread.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start() -> Result<Self> {
        let (asks, asked) = std::sync::mpsc::channel();
        let (sender, chunks) = mpsc::unbounded_channel();
        let read = move || {
            for most in asked {
                if sender.send(streams::read_stdin(most)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(read)
            .map_err(host_limits::of_start)
            .context("can't start a thread for standard input")?;
        Ok(Self {
            asks,
            chunks,
            wanted: MIN_READ,
        })
    }

    /// Reads up to `most` bytes; none at the end. Dropped before its end, it has asked for bytes that the next
    /// call gets.
    ///
    /// # Errors
    /// The stream's.
    pub async fn read(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let ended = || io::Error::other("its thread ended");
        self.asks.send(most).map_err(|_| ended())?;
        self.chunks.recv().await.ok_or_else(ended)?
    }

    /// Reads what a command has asked for, of which the size is not known.
    ///
    /// # Errors
    /// The stream's.
    pub async fn read_wanted(&mut self) -> io::Result<Vec<u8>> {
        let most = self.wanted;
        // A command that keeps requesting reads a lot: saves it round trips.
        self.wanted = (2 * most).min(MAX_READ);
        self.read(most).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collected_output_is_kept_apart_and_bounded_in_sum() {
        let mut sink = Sink::memory();
        sink.take(Target::Stdout, b"out".to_vec()).unwrap();
        sink.take(Target::Stderr, b"err".to_vec()).unwrap();
        let Sink::Memory(stdout, stderr) = &mut sink else {
            panic!("another sink")
        };
        assert_eq!(
            (stdout.as_slice(), stderr.as_slice()),
            (&b"out"[..], &b"err"[..])
        );

        stdout.resize(usize::try_from(MAX_COLLECTED).unwrap() - 3, 0);
        let error = sink.take(Target::Stderr, b"x".to_vec()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("64.0 MiB") && text.contains("without --json"));
    }
}
