//! Commands over a WebSocket: what a terminal needs, in both directions over one connection.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use ironclaw_orchestrator::vm::GuestError;
use serde::Deserialize;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, interval_at, timeout};
use utoipa::{IntoParams, ToSchema};

use super::api::{Api, MAX_BODY};
use super::ask::{Asked, Named, read};
use super::commands::Told;
use super::exec::{Exec, Size};
use super::problem::Problem;
use crate::peer::Connection;
use crate::process::{Event, Process};
use crate::sandbox::{Live, Sandbox};

/// Time that a client has to say what is to be run.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two pings.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Pings without an answer after which a client is given up.
const MAX_PINGS: u32 = 3;

/// What begins a message with output: which stream it is of.
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;

/// What a socket is for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Purpose {
    /// Listen to the command with this PID, from now on; without it, the first message is the command to
    /// start.
    pid: Option<u32>,
    /// Let the command go on when the socket closes; otherwise it is killed then.
    #[serde(default)]
    keep: bool,
}

/// A text that a client sends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Control {
    /// Signal the command: 1 to 31.
    Signal(i32),
    /// Give its terminal another size.
    Resize(Size),
    /// End its standard input.
    EndStdin(bool),
}

/// Runs a command over a WebSocket, on a terminal or not.
///
/// The client's first message, a text, is the command (`Exec`), unless `pid` names one. Then binary messages
/// of the client are standard input, and its texts are `Control`. Of the daemon, binary messages are output,
/// behind a byte that is 1 for standard output and 2 for standard error, and texts are events (`Told`): `start`,
/// and `end` or `lost`, after which the socket is closed.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/socket", tag = "commands",
    params(("id" = String, Path, description = "The sandbox's id"), Purpose),
    responses(
        (status = 101, description = "The WebSocket is open.", body = Control),
        Problem,
    )
)]
pub(super) async fn open(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(purpose): Asked<Purpose>,
    connection: Option<axum::Extension<Connection>>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|error| Problem::invalid(error.body_text()))?;
    let (sandbox, live) = api.live(&id).await?;
    let attached = match purpose.pid {
        Some(pid) => {
            let found = live.processes.find(&live.vm, pid).await?;
            let none = || Problem::not_found(format!("there is no command with PID {pid}"));
            let process = found.ok_or_else(none)?;
            let listener = process.listen().ok_or_else(none)?;
            Some((process, listener))
        }
        None => None,
    };
    let upgrade = upgrade.max_message_size(MAX_BODY).max_frame_size(MAX_BODY);
    Ok(upgrade.on_upgrade(async move |mut socket| {
        // The connection counts as long as it is there.
        let _connection = connection;
        let begun = match attached {
            Some(attached) => Ok(Some(attached)),
            None => start(&mut socket, &sandbox, &live).await,
        };
        match begun {
            Ok(Some((process, listener))) => {
                follow(socket, &live, &process, listener, purpose.keep).await;
            }
            // The client has gone.
            Ok(None) => {}
            Err(problem) => {
                // So may this one have.
                let _ = socket.send(text(&Told::Lost { problem })).await;
                let _ = socket.send(Message::Close(None)).await;
            }
        }
    }))
}

fn text(told: &Told) -> Message {
    // Texts and numbers: they have a JSON.
    Message::text(serde_json::to_string(told).unwrap_or_default())
}

/// Starts what the first message asks for; `None` if the client goes away.
async fn start(
    socket: &mut WebSocket,
    sandbox: &Arc<Sandbox>,
    live: &Live,
) -> Result<Option<(Arc<Process>, Receiver<Event>)>, Problem> {
    let Some(first) = first_message(socket).await? else {
        return Ok(None);
    };
    let exec: Exec = read(first.as_bytes())?;
    let command = exec.command(sandbox, live).await?;
    let started = live.processes.start(&live.vm, command, exec.described());
    Ok(Some(started.await?))
}

/// Waits for the text that tells what is to be run; `None` if the client goes away.
pub(super) async fn first_message(socket: &mut WebSocket) -> Result<Option<Utf8Bytes>, Problem> {
    let first = async {
        loop {
            match socket.recv().await {
                Some(Ok(Message::Text(text))) => return Some(text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return None,
            }
        }
    };
    let first = timeout(FIRST_MESSAGE_TIMEOUT, first).await;
    first.map_err(|_| Problem::invalid("no command came in time"))
}

/// Passes on what a command and its client say; returns whether the command has ended.
///
/// Each direction goes on while the other has to wait: a command may print before it reads.
async fn follow(
    socket: WebSocket,
    live: &Live,
    process: &Process,
    listener: Receiver<Event>,
    keep: bool,
) {
    let (mut to_client, from_client) = socket.split();
    let silence = Silence::default();
    let ended = tokio::select! {
        ended = tell(&mut to_client, process, listener, &silence) => ended,
        () = listen(from_client, live, process, &silence) => false,
    };
    if !ended && !keep {
        // It may have ended meanwhile, with its guest.
        let _ = live.vm.kill_command(process.id).await;
    }
    // A client that has gone takes no goodbye.
    let _ = to_client.send(Message::Close(None)).await;
}

/// For how long a client has said nothing.
#[derive(Debug, Default)]
pub(super) struct Silence {
    pings: AtomicU32,
    /// Whether it could not have been heard: its last message waits for the command.
    deaf: AtomicBool,
}

impl Silence {
    pub(super) fn heard(&self) {
        self.pings.store(0, Relaxed);
    }

    /// Begins or ends to wait for what takes the last message.
    pub(super) fn wait(&self, waits: bool) {
        self.deaf.store(waits, Relaxed);
    }

    /// Counts a ping; returns whether the client is given up.
    pub(super) fn is_too_long(&self) -> bool {
        match self.deaf.load(Relaxed) {
            true => false,
            false => self.pings.fetch_add(1, Relaxed) >= MAX_PINGS,
        }
    }
}

/// Tells a client what a command does; returns whether the command has ended.
async fn tell(
    client: &mut SplitSink<WebSocket, Message>,
    process: &Process,
    mut listener: Receiver<Event>,
    silence: &Silence,
) -> bool {
    let start = Told::Start { pid: process.pid };
    if client.send(text(&start)).await.is_err() {
        return false;
    }
    let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    loop {
        tokio::select! {
            event = listener.recv() => {
                let Some(event) = event else { return true };
                let (message, is_end) = match event {
                    Event::Stdout(bytes) => (output(STDOUT, &bytes), false),
                    Event::Stderr(bytes) => (output(STDERR, &bytes), false),
                    end => (text(&end.into()), true),
                };
                if client.send(message).await.is_err() || is_end {
                    return is_end;
                }
            }
            _ = pings.tick() => {
                let ping = Message::Ping(Bytes::new());
                if silence.is_too_long() || client.send(ping).await.is_err() {
                    return false;
                }
            }
        }
    }
}

/// Does what a client says, until it goes away.
async fn listen(
    mut client: SplitStream<WebSocket>,
    live: &Live,
    process: &Process,
    silence: &Silence,
) {
    while let Some(Ok(message)) = client.next().await {
        silence.heard();
        silence.wait(true);
        let done = match message {
            Message::Binary(bytes) => process.write(&bytes).await.map(drop),
            Message::Text(control) => match serde_json::from_str(control.as_str()) {
                Ok(control) => obey(live, process, control).await,
                Err(error) => {
                    tracing::debug!(%error, "a client says what nobody understands");
                    return;
                }
            },
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => Ok(()),
        };
        silence.wait(false);
        if let Err(error) = done {
            tracing::debug!(%error, "a message to a command has no effect");
        }
    }
}

pub(super) fn output(stream: u8, bytes: &Bytes) -> Message {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(stream);
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

async fn obey(live: &Live, process: &Process, control: Control) -> Result<(), GuestError> {
    match control {
        Control::Signal(signal) => live.vm.signal_command(process.id, signal).await,
        Control::Resize(size) => live.vm.resize_command(process.id, size.into()).await,
        Control::EndStdin(end) => {
            if end {
                process.close_stdin().await;
            }
            Ok(())
        }
    }
}
