//! What flows between the guest's command and this process's standard streams.

use std::io;
use std::pin::pin;

use anyhow::{Context as _, Result, ensure};
use ironclaw_console::output::mebibytes;
use ironclaw_console::signals::{Effect, Forwarding, Interrupted, Signals, stop_ourselves};
use ironclaw_console::streams::{self, Target, Writer};
use ironclaw_host::host_limits;
use ironclaw_orchestrator::vm::guest::MAX_COLLECTED;
use ironclaw_orchestrator::vm::{ExecEvent, ExitStatus, GuestError, Running, StdinWriter};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Bytes that are read of standard input when the command asks for the first time: what it asks for
/// itself is not known, and this is the most that many programs read at a time.
const LEAST: usize = 4096;

/// The most that are read of it at a time.
const MOST: usize = 256 * 1024;

/// Where a command's output goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// To our own streams, as it comes.
    Streams(Writer),
    /// Into memory: standard output, standard error.
    Memory(Vec<u8>, Vec<u8>),
}

impl Sink {
    pub(crate) fn streams() -> Result<Self> {
        Ok(Self::Streams(Writer::start()?))
    }

    pub(crate) fn memory() -> Self {
        Self::Memory(Vec::new(), Vec::new())
    }

    /// What was collected, if it was: standard output, standard error.
    pub(crate) fn collected(self) -> Option<(Vec<u8>, Vec<u8>)> {
        match self {
            Self::Streams(_) => None,
            Self::Memory(stdout, stderr) => Some((stdout, stderr)),
        }
    }

    /// Takes in what was printed, if it is not [busy](Self::is_busy).
    fn take(&mut self, target: Target, bytes: Vec<u8>) -> Result<()> {
        match (self, target) {
            (Self::Streams(writer), _) => {
                writer.begin(target, bytes);
                Ok(())
            }
            (Self::Memory(stdout, stderr), Target::Stdout) => collect(stdout, &bytes, stderr.len()),
            (Self::Memory(stdout, stderr), Target::Stderr) => collect(stderr, &bytes, stdout.len()),
        }
    }

    /// Whether it takes no more for now.
    fn is_busy(&self) -> bool {
        matches!(self, Self::Streams(writer) if writer.is_busy())
    }

    /// Resolves when it is busy no more, or can't take what it was given.
    async fn ready(&mut self) -> Result<()> {
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

/// How the command ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The guest ran out of memory, and a process of the command was killed for it.
    pub(crate) out_of_memory: bool,
    /// Its time was over, and the guest did not say that it ended it: that is left to the VM's end.
    pub(crate) unconfirmed: bool,
}

/// Passes the command's output on until it ends, and our standard input to it if it takes any, and
/// the signals that come for us.
pub(crate) async fn follow(
    mut running: Running,
    sink: &mut Sink,
    signals: &mut Signals,
) -> Result<Ended> {
    let mut input = pin!(feed(running.take_stdin()));
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
                // The only thing that a command is given a time for.
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
                // On a closed line the output's side says why it is.
                let _ = running.signal(signal.as_raw());
                if signal == Signal::TSTP {
                    stop_ourselves();
                }
            }
            not_ended = forwarding.timed_out() => return Err(not_ended.into()),
        }
    }
}

/// Passes our standard input on, as the command asks for it: whoever has it open beside us, as the
/// loop of a shell that started us, finds there what the command left.
async fn feed(writer: Option<StdinWriter>) -> Result<()> {
    let Some(mut writer) = writer else {
        return Ok(());
    };
    let mut stdin = StdinReader::start()?;
    let mut most = LEAST;
    // The output's side of the line says why it is closed.
    while writer.wanted().await.is_ok_and(|wanted| wanted) {
        let chunk = stdin
            .read(most)
            .await
            .context("can't read standard input")?;
        // One that goes on asking reads a lot: it is spared the questions.
        most = (2 * most).min(MOST);
        if chunk.is_empty() {
            return Ok(());
        }
        if writer.write_all(&chunk).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads standard input on a thread of its own: a read of a terminal can't be called off, and the
/// end of the program must not wait for it.
#[derive(Debug)]
struct StdinReader {
    asks: std::sync::mpsc::Sender<usize>,
    chunks: mpsc::UnboundedReceiver<io::Result<Vec<u8>>>,
}

impl StdinReader {
    fn start() -> Result<Self> {
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
        Ok(Self { asks, chunks })
    }

    /// What comes next, up to so many bytes; nothing at the end.
    async fn read(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let ended = || io::Error::other("its thread ended");
        self.asks.send(most).map_err(|_| ended())?;
        self.chunks.recv().await.ok_or_else(ended)?
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
