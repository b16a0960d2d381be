//! Connects the standard streams with a command of a sandbox, over a WebSocket.

use std::pin::pin;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use ironclaw_console::guest_io::StdinReader;
use ironclaw_console::signals::{Effect, Forwarding, Interrupted, Signals, stop_ourselves};
use ironclaw_console::streams::{Target, Writer};
use ironclaw_console::terminal::{self, RawMode};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, Method, Socket};
use crate::shapes::{End, Exec, Told};

/// Bytes read from standard input at a time.
const READ: usize = 32 * 1024;

/// What begins a message with output: which stream it is of.
const STDERR: u8 = 2;

/// The input of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// None.
    None,
    /// Our standard input, to its end.
    Piped,
    /// What is typed on our terminal.
    Typed,
}

/// What is to be run, and how it is connected.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) client: &'a Client,
    /// The id of the sandbox.
    pub(crate) sandbox: &'a str,
    pub(crate) exec: &'a Exec,
    pub(crate) input: Input,
}

impl Asked<'_> {
    /// Runs the command, and forwards its output, our input and our signals until it ends.
    pub(crate) async fn follow(&self, mut socket: Socket, signals: &mut Signals) -> Result<End> {
        let _raw = match self.input {
            Input::Typed => RawMode::enter().context("can't prepare the terminal")?,
            Input::Piped | Input::None => None,
        };
        let first = serde_json::to_string(self.exec).context("can't write JSON")?;
        socket.send(Message::text(first)).await?;
        let (to_daemon, mut from_daemon) = socket.split();
        // Input goes on while output waits, and the other way round.
        let mut input = pin!(feed(self.input, to_daemon));
        let mut fed = self.input == Input::None;
        let mut writer = Writer::start()?;
        let mut forwarding = Forwarding::default();
        let mut pid = None;
        loop {
            tokio::select! {
                message = from_daemon.next(), if !writer.is_busy() => {
                    let Some(message) = message else { bail!("the daemon closed the connection") };
                    match message.context("the connection to the daemon is lost")? {
                        Message::Binary(bytes) => {
                            let Some((stream, output)) = bytes.split_first() else { continue };
                            let target = match *stream {
                                STDERR => Target::Stderr,
                                _ => Target::Stdout,
                            };
                            writer.begin(target, output.to_vec());
                        }
                        Message::Text(text) => match serde_json::from_str(text.as_str())? {
                            Told::Start { pid: started } => pid = Some(started),
                            Told::End(end) => return Ok(end),
                            Told::Lost { problem } => return Err(problem.into()),
                            Told::Other => {}
                        },
                        Message::Close(_) => bail!("the daemon closed the connection"),
                        _ => {}
                    }
                }
                written = writer.written(), if writer.is_busy() => written?,
                result = &mut input, if !fed => {
                    result?;
                    fed = true;
                }
                signal = signals.next() => {
                    if let Effect::Kill(first) = forwarding.receive(signal, Instant::now()) {
                        return Err(Interrupted(first).into());
                    }
                    self.signal(pid, signal).await;
                }
                not_ended = forwarding.timed_out() => return Err(not_ended.into()),
            }
        }
    }

    /// Passes a signal on, beside what the command reads.
    async fn signal(&self, pid: Option<u32>, signal: Signal) {
        let Some(pid) = pid else { return };
        let command = format!("/v1/sandboxes/{}/commands/{pid}", self.sandbox);
        let size = terminal::size();
        let (call, body) = match (self.exec.tty.is_some(), signal) {
            (true, Signal::WINCH) => (
                "resize",
                json!({ "columns": size.columns, "rows": size.rows }),
            ),
            _ => ("signal", json!({ "signal": signal.as_raw() })),
        };
        let path = format!("{command}/{call}");
        let body = body.to_string().into();
        // It may have ended; if the connection is lost, the output's side reports why.
        let _ = self.client.open(Method::POST, &path, body).await;
        if signal == Signal::TSTP && self.exec.tty.is_none() {
            stop_ourselves();
        }
    }
}

/// Forwards our standard input to its end.
async fn feed(input: Input, mut daemon: SplitSink<Socket, Message>) -> Result<()> {
    if input == Input::None {
        return Ok(());
    }
    let mut stdin = StdinReader::start()?;
    loop {
        let chunk = stdin.read(READ).await;
        let chunk = chunk.context("can't read standard input")?;
        let is_end = chunk.is_empty();
        let message = match (is_end, input) {
            (false, _) => Message::Binary(Bytes::from(chunk)),
            (true, Input::Piped) => Message::text(json!({ "end_stdin": true }).to_string()),
            (true, _) => return Ok(()),
        };
        // If the connection is lost, the output's side reports why.
        if daemon.send(message).await.is_err() || is_end {
            return Ok(());
        }
    }
}
