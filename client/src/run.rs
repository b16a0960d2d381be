//! One command in a sandbox of its own, which the daemon makes for it and ends with it.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use ironclaw_console::guest_io::{Ended, Sink, StdinReader};
use ironclaw_console::signals::{Effect, Forwarding, Interrupted, Signals, stop_ourselves};
use ironclaw_console::streams::Target;
use ironclaw_console::terminal::{self, RawMode};
use ironclaw_orchestrator::vm::{ExitStatus, Origin, Timings};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, Socket};
use crate::follow::Input;
use crate::refusal::{ClientError, CommandFailed, Refusal};
use crate::shapes::Exec;

/// Bytes that are read of what is typed, at a time.
const TYPED: usize = 4096;

/// Messages to the daemon on their way, beside input.
const QUEUE: usize = 16;

/// What begins a message with output: which stream it is of.
const STDERR: u8 = 2;

/// A command, and what its sandbox has to be like.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Run {
    /// The name of a template; empty for the daemon's default one.
    pub template: String,
    /// What the machine has to be like.
    pub machine: WantedMachine,
    /// The command.
    pub command: Exec,
    /// Whether the entrypoint of the template's image, or its command, is part of it.
    pub of_image: bool,
}

/// What a machine has to be like. The daemon makes no other machines than its settings say: it refuses the rest, by
/// the kind `other_machine`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WantedMachine {
    /// Its processors.
    pub vcpus: Option<u8>,
    /// Its memory.
    pub memory_mib: Option<u32>,
    /// Most that it may write to its disk.
    pub disk_mib: Option<u32>,
    /// The name of its hypervisor.
    pub backend: Option<String>,
}

/// The sandbox of a run.
#[derive(Debug, Clone, Deserialize)]
pub struct RunSandbox {
    /// Its id.
    pub id: String,
    /// Its memory.
    pub memory_mib: u32,
}

/// An event of a run.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Ran {
    Sandbox {
        sandbox: RunSandbox,
        origin: Option<Origin>,
        timings_ms: BTreeMap<String, f64>,
    },
    Stdin,
    End {
        exit_code: Option<u8>,
        signal: Option<i32>,
        out_of_memory: bool,
        unconfirmed: bool,
    },
    Lost {
        problem: Refusal,
    },
    /// Of a later daemon.
    #[serde(other)]
    Other,
}

/// A run that has begun.
#[derive(Debug)]
pub struct Begun {
    /// Its sandbox.
    pub sandbox: RunSandbox,
    /// The tier that served it.
    pub origin: Option<Origin>,
    /// How long its stages took.
    pub timings: Timings,
    socket: Socket,
    tty: bool,
    takes_input: bool,
}

impl Run {
    /// Asks a daemon for it, and waits until its sandbox is there. The daemon ends that with the command, and when
    /// what is returned is dropped.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn begin(&self, client: &Client, takes_input: bool) -> Result<Begun, ClientError> {
        let mut socket = client.socket("/v1/run").await?;
        let lost = |error: Box<dyn std::error::Error + Send + Sync>| ClientError::Lost {
            address: client.address().clone(),
            source: error,
        };
        let first = serde_json::to_string(self).map_err(|error| lost(error.into()))?;
        let sent = socket.send(Message::text(first)).await;
        sent.map_err(|error| lost(error.into()))?;
        loop {
            let message = match socket.next().await {
                Some(message) => message.map_err(|error| lost(error.into()))?,
                None => return Err(lost("it was closed".into())),
            };
            let Message::Text(text) = message else {
                continue;
            };
            let event = serde_json::from_str(text.as_str()).map_err(|error| lost(error.into()))?;
            match event {
                Ran::Sandbox {
                    sandbox,
                    origin,
                    timings_ms,
                } => {
                    return Ok(Begun {
                        sandbox,
                        origin,
                        timings: timings(&timings_ms),
                        socket,
                        tty: self.command.tty.is_some(),
                        takes_input,
                    });
                }
                Ran::Lost { problem } => return Err(problem.into()),
                Ran::Stdin | Ran::End { .. } | Ran::Other => {}
            }
        }
    }
}

/// Reads the times of a spawn's stages.
fn timings(all: &BTreeMap<String, f64>) -> Timings {
    let took = |name: &str| {
        let milliseconds = all.get(name).copied().unwrap_or_default();
        Duration::try_from_secs_f64(milliseconds / 1000.0).unwrap_or_default()
    };
    let mut timings = Timings::default();
    timings.queue = took("queue");
    timings.failed = took("failed");
    timings.start = took("start");
    timings.load = took("load");
    timings.resume = took("resume");
    timings.hello = took("hello");
    timings.total = took("spawn");
    timings
}

impl Begun {
    /// Forwards the command's output until it ends, our standard input to it as far as it asks for any, and the
    /// signals that we receive.
    ///
    /// # Errors
    /// [`CommandFailed`], those of our streams and of the connection, and [`Interrupted`] after a second signal that
    /// ends.
    pub async fn follow(self, sink: &mut Sink, signals: &mut Signals) -> Result<Ended> {
        let input = match (self.tty, self.takes_input) {
            (_, false) => Input::None,
            (true, true) => Input::Typed,
            (false, true) => Input::Piped,
        };
        let _raw = match input {
            Input::Typed => RawMode::enter().context("can't prepare the terminal")?,
            Input::Piped | Input::None => None,
        };
        let (to_daemon, from_daemon) = self.socket.split();
        let (say, said) = channel(QUEUE);
        let (give, given) = channel(1);
        let (want, wanted) = channel(1);
        if self.tty {
            // It may have changed since the command was made.
            let _ = say.try_send(resized());
        }
        let output = Output {
            sink,
            waiting: VecDeque::new(),
            taken: 0,
        };
        let following = Following {
            say,
            want,
            tty: self.tty,
        };
        let mut speaking = pin!(speak(to_daemon, said, given));
        let mut input = pin!(feed(input, wanted, give));
        let mut ended = pin!(following.until_end(from_daemon, output, signals));
        let (mut spoken, mut fed) = (false, false);
        loop {
            tokio::select! {
                ended = &mut ended => return ended,
                result = &mut input, if !fed => {
                    result?;
                    fed = true;
                }
                // If the connection is lost, the output's side reports why.
                () = &mut speaking, if !spoken => spoken = true,
            }
        }
    }
}

/// The size that our terminal has now.
fn resized() -> Message {
    let size = terminal::size();
    Message::text(json!({ "resize": { "columns": size.columns, "rows": size.rows } }).to_string())
}

/// Output on its way to our streams, as much as the daemon sends before it is told that some is taken.
struct Output<'a> {
    sink: &'a mut Sink,
    waiting: VecDeque<(Target, Vec<u8>)>,
    /// Bytes that the sink has.
    taken: usize,
}

impl Output<'_> {
    /// Gives the sink what it takes; returns how many bytes the daemon may send for it.
    fn pass_on(&mut self) -> Result<usize> {
        let mut done = 0;
        while !self.sink.is_busy() {
            done += std::mem::take(&mut self.taken);
            let Some((target, bytes)) = self.waiting.pop_front() else {
                break;
            };
            self.taken = bytes.len();
            self.sink.take(target, bytes)?;
        }
        Ok(done)
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.sink.is_busy()
    }
}

struct Following {
    say: Sender<Message>,
    want: Sender<()>,
    tty: bool,
}

impl Following {
    async fn until_end(
        self,
        mut daemon: SplitStream<Socket>,
        mut output: Output<'_>,
        signals: &mut Signals,
    ) -> Result<Ended> {
        let mut forwarding = Forwarding::default();
        let mut end = None;
        loop {
            let taken = output.pass_on()?;
            if taken > 0 {
                let text = json!({ "taken": taken }).to_string();
                // There is room: as many are sent as messages come. If the connection is lost, this shows below.
                let _ = self.say.send(Message::text(text)).await;
            }
            if let (true, Some(end)) = (output.is_idle(), end) {
                return Ok(end);
            }
            tokio::select! {
                message = daemon.next(), if end.is_none() => {
                    let Some(message) = message else { bail!("the daemon closed the connection") };
                    match message.context("the connection to the daemon is lost")? {
                        Message::Binary(bytes) => {
                            let Some((stream, bytes)) = bytes.split_first() else { continue };
                            let target = match *stream {
                                STDERR => Target::Stderr,
                                _ => Target::Stdout,
                            };
                            output.waiting.push_back((target, bytes.to_vec()));
                        }
                        Message::Text(text) => match serde_json::from_str(text.as_str())? {
                            // One that is not taken yet is enough.
                            Ran::Stdin => drop(self.want.try_send(())),
                            Ran::End { exit_code, signal, out_of_memory, unconfirmed } => {
                                end = Some(Ended {
                                    status: status(exit_code, signal),
                                    out_of_memory,
                                    unconfirmed,
                                });
                            }
                            Ran::Lost { problem } => return Err(CommandFailed(problem).into()),
                            Ran::Sandbox { .. } | Ran::Other => {}
                        },
                        Message::Close(_) => bail!("the daemon closed the connection"),
                        _ => {}
                    }
                }
                ready = output.sink.ready(), if output.sink.is_busy() => ready?,
                signal = signals.next() => {
                    if let Effect::Kill(first) = forwarding.receive(signal, Instant::now()) {
                        return Err(Interrupted(first).into());
                    }
                    self.forward(signal);
                }
                not_ended = forwarding.timed_out() => return Err(not_ended.into()),
            }
        }
    }

    fn forward(&self, signal: Signal) {
        let message = match (self.tty, signal) {
            (true, Signal::WINCH) => resized(),
            _ => Message::text(json!({ "signal": signal.as_raw() }).to_string()),
        };
        // A daemon that takes none of so many takes none at all.
        let _ = self.say.try_send(message);
        if signal == Signal::TSTP && !self.tty {
            stop_ourselves();
        }
    }
}

/// Returns how a command ended.
fn status(exit_code: Option<u8>, signal: Option<i32>) -> ExitStatus {
    match (exit_code, signal) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        (None, None) => ExitStatus::TimedOut,
    }
}

/// Sends what is said, and input when nothing else is to be said.
async fn speak(
    mut daemon: SplitSink<Socket, Message>,
    mut said: Receiver<Message>,
    mut given: Receiver<Message>,
) {
    loop {
        let message = tokio::select! {
            biased;
            Some(message) = said.recv() => message,
            Some(message) = given.recv() => message,
            else => return,
        };
        if daemon.send(message).await.is_err() {
            return;
        }
    }
}

/// Forwards our standard input: what is typed as it comes, and otherwise what the command asks for and no more, so
/// that others who share it get what the command leaves.
async fn feed(input: Input, mut wanted: Receiver<()>, give: Sender<Message>) -> Result<()> {
    if input == Input::None {
        return Ok(());
    }
    let mut stdin = StdinReader::start()?;
    loop {
        let chunk = match input {
            Input::Typed => stdin.read(TYPED).await,
            _ => match wanted.recv().await {
                Some(()) => stdin.read_wanted().await,
                None => return Ok(()),
            },
        };
        let chunk = chunk.context("can't read standard input")?;
        let is_end = chunk.is_empty();
        let message = match is_end {
            false => Message::Binary(Bytes::from(chunk)),
            true => Message::text(json!({ "end_stdin": true }).to_string()),
        };
        if give.send(message).await.is_err() || is_end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_that_of_the_command() {
        let of = |text: &str| match serde_json::from_str(text).unwrap() {
            Ran::End {
                exit_code, signal, ..
            } => status(exit_code, signal),
            other => panic!("{other:?}"),
        };
        let end = |how: &str| {
            format!(
                r#"{{"event":"end",{how},"timed_out":false,"out_of_memory":false,"unconfirmed":false}}"#
            )
        };
        assert_eq!(
            of(&end(r#""exit_code":3,"signal":null"#)),
            ExitStatus::Code(3)
        );
        assert_eq!(
            of(&end(r#""exit_code":null,"signal":9"#)),
            ExitStatus::Signal(9)
        );
        assert_eq!(
            of(&end(r#""exit_code":null,"signal":null"#)),
            ExitStatus::TimedOut
        );
    }

    #[test]
    fn the_daemon_may_send_as_much_as_the_sink_has_taken() {
        let mut sink = Sink::memory();
        let mut output = Output {
            sink: &mut sink,
            waiting: VecDeque::from([
                (Target::Stdout, vec![b'a'; 3]),
                (Target::Stderr, vec![b'b'; 4]),
            ]),
            taken: 0,
        };
        assert_eq!(output.pass_on().unwrap(), 7);
        assert!(output.is_idle());
        assert_eq!(output.pass_on().unwrap(), 0);
        assert_eq!(
            sink.collected().unwrap(),
            (b"aaa".to_vec(), b"bbbb".to_vec())
        );
    }

    #[test]
    fn stages_are_read_from_milliseconds() {
        let all = BTreeMap::from([("spawn".to_owned(), 2.5), ("hello".to_owned(), 2.0)]);
        let read = timings(&all);
        assert_eq!(read.total, Duration::from_micros(2500));
        assert_eq!(
            (read.hello, read.load),
            (Duration::from_millis(2), Duration::ZERO)
        );
        let hostile = BTreeMap::from([("spawn".to_owned(), -1.0)]);
        assert_eq!(timings(&hostile).total, Duration::ZERO);
    }
}
