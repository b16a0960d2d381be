//! One command in a sandbox of its own, over a WebSocket: what `ironclaw run` asks for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use ironclaw_orchestrator::template::Template;
use ironclaw_orchestrator::vm::{
    ExecEvent, ExitStatus, GuestError, Launcher, Origin, Running, StdinWriter, Timings,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, interval_at};
use utoipa::ToSchema;

use super::api::{Api, MAX_BODY};
use super::ask::read;
use super::exec::{End, Exec, Size};
use super::problem::{Kind, Problem};
use super::shapes::Info;
use super::socket::{PING_INTERVAL, STDERR, STDOUT, Silence, first_message, output};
use crate::caller::Caller;
use crate::log::Happened;
use crate::new_sandbox::NewSandbox;
use crate::peer::{Connection, Peer};
use crate::sandbox::Sandbox;

/// Time until a sandbox ends whose daemon was killed meanwhile, or which nobody ends for another reason.
const LEASE: Duration = Duration::from_secs(60);

/// Time between two moves of its deadline.
const LEASE_INTERVAL: Duration = Duration::from_secs(20);

/// What is wrong with a run of which nobody says what to run.
const NO_COMMAND: &str = "neither the image nor the request says what to run";

/// Bytes of output that a client has not taken yet, before more wait in the guest: as many as the socket of a program
/// that is stopped holds, and over a network as many as are on their way.
const LOCAL_WINDOW: u64 = 64 * 1024;
const NETWORK_WINDOW: u64 = 1024 * 1024;

/// Messages to a client on their way.
const QUEUE: usize = 8;

/// A command to be run in a sandbox of its own.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// The name of a template, or of a checkpoint; empty for the daemon's default template.
    #[serde(default)]
    template: String,
    /// What the machine has to be like; the run is refused (`other_machine`) by a daemon with another one.
    #[serde(default)]
    machine: WantedMachine,
    /// The command. It runs as the image's user, or root, if it names none.
    command: Exec,
    /// Begin the command with the entrypoint of the template's image; without any words, take the image's command.
    #[serde(default)]
    of_image: bool,
}

/// What a machine has to be like.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WantedMachine {
    vcpus: Option<u8>,
    memory_mib: Option<u32>,
    disk_mib: Option<u32>,
    /// The hypervisor.
    #[schema(example = "firecracker")]
    backend: Option<String>,
}

impl WantedMachine {
    /// Refuses what a launcher's machines are not like.
    fn check(&self, launcher: &Launcher) -> Result<(), Problem> {
        let (has, kind) = (launcher.machine(), &launcher.vmm().kind);
        let other = |what: String| Err(Problem::new(Kind::OtherMachine, what));
        match self {
            Self { vcpus: Some(n), .. } if *n != has.vcpus => {
                other(format!("its VMs have {} processors, not {n}", has.vcpus))
            }
            Self {
                memory_mib: Some(n),
                ..
            } if *n != has.memory_mib => other(format!(
                "its VMs have {} MiB of memory, not {n}",
                has.memory_mib
            )),
            Self {
                disk_mib: Some(n), ..
            } if Some(*n) != has.disk_mib => {
                other(format!("its VMs have another disk than {n} MiB"))
            }
            Self {
                backend: Some(name),
                ..
            } if !kind.is(name) => other(format!("its VMs are those of {kind}, not of {name}")),
            _ => Ok(()),
        }
    }
}

/// A text that a client sends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Said {
    /// Signal the command: 1 to 31.
    Signal(i32),
    /// Give its terminal another size.
    Resize(Size),
    /// End its standard input.
    EndStdin(bool),
    /// So many more bytes of output were taken: the next ones may come.
    Taken(u64),
}

/// An event of a run.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Ran {
    /// The first one: the sandbox is there.
    Sandbox {
        sandbox: Box<Info>,
        /// The tier that served it.
        #[schema(value_type = String, example = "warm")]
        origin: Option<Origin>,
        /// How long each stage took, in milliseconds, and all of them (`spawn`).
        timings_ms: BTreeMap<&'static str, f64>,
    },
    /// The command waits for input, and has read what was sent.
    Stdin,
    /// The last one.
    End {
        #[serde(flatten)]
        end: End,
        /// Whether the guest ran out of memory and its kernel killed a process of the command for it.
        out_of_memory: bool,
        /// Whether its time was over and the guest did not end it: the end of its VM does.
        unconfirmed: bool,
    },
    /// The last one, if there is no end to be told.
    Lost { problem: Problem },
}

impl Ran {
    fn sandbox(sandbox: &Sandbox, spawned: Option<(Origin, Timings)>) -> Self {
        let (origin, timings) = spawned.unzip();
        let timings = timings.unwrap_or_default();
        let parts = timings.parts().into_iter();
        let all = parts.chain([("spawn", timings.total)]);
        Self::Sandbox {
            sandbox: Box::new(Info::of(sandbox)),
            origin,
            timings_ms: all
                .map(|(name, took)| (name, took.as_secs_f64() * 1000.0))
                .collect(),
        }
    }

    fn message(&self) -> Message {
        // Texts and numbers: they have a JSON.
        Message::text(serde_json::to_string(self).unwrap_or_default())
    }
}

/// Runs a command in a sandbox of its own, over a WebSocket.
///
/// The client's first message, a text, is the command (`Run`). Of the daemon, binary messages are output, behind a
/// byte that is 1 for standard output and 2 for standard error, and texts are events (`Ran`), the first of which has
/// the sandbox. Binary messages of the client are standard input, of which the command takes one for each event
/// `stdin`, so that the rest stays the client's; on a terminal it takes what comes. Texts are `Said`: about the
/// first 64 KiB of output come at once (1 MiB over TCP), and others when those were taken. The sandbox ends with its
/// command, and with the connection.
#[utoipa::path(
    get, path = "/v1/run", tag = "commands",
    responses(
        (status = 101, description = "The WebSocket is open.", body = Ran),
        Problem,
    )
)]
pub(super) async fn open(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    peer: Option<Extension<Peer>>,
    connection: Option<Extension<Connection>>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|error| Problem::invalid(error.body_text()))?;
    let upgrade = upgrade.max_message_size(MAX_BODY).max_frame_size(MAX_BODY);
    // The kernel tells the end of one of this machine, which may be stopped for as long as its user likes.
    let vanishes = !matches!(peer, Some(Extension(Peer::Local)));
    Ok(upgrade.on_upgrade(async move |socket| {
        // The connection counts as long as it is there.
        let _connection = connection;
        serve(socket, &api, &caller, vanishes).await;
    }))
}

/// Does what the first message asks for; what was made for it is gone afterwards.
async fn serve(mut socket: WebSocket, api: &Api, caller: &Caller, vanishes: bool) {
    let made = async {
        let Some(first) = first_message(&mut socket).await? else {
            return Ok(None);
        };
        let run: Run = read(first.as_bytes())?;
        let (sandbox, argv) = create(api, caller, &run).await?;
        Ok(Some((run.command, sandbox, argv)))
    };
    let (command, sandbox, argv) = match made.await {
        Ok(Some(made)) => made,
        // The client has gone.
        Ok(None) => return,
        Err(problem) => {
            // So may this one have.
            let _ = socket.send(Ran::Lost { problem }.message()).await;
            let _ = socket.send(Message::Close(None)).await;
            return;
        }
    };
    follow(socket, &sandbox, &command, &argv, vanishes).await;
    if let Err(error) = api.sandboxes().kill(&sandbox).await {
        tracing::warn!(sandbox = %sandbox.id, %error, "the sandbox of a run ends at its deadline");
    }
}

/// Makes the sandbox of a run; returns it with the words of the command.
async fn create(
    api: &Api,
    caller: &Caller,
    run: &Run,
) -> Result<(Arc<Sandbox>, Vec<String>), Problem> {
    let sandboxes = api.sandboxes();
    let template = match sandboxes.checkpoints().find(&run.template) {
        Some(checkpoint) => Arc::clone(&checkpoint.template),
        None => sandboxes.templates().named(&run.template).await?,
    };
    let launcher = template.pool.launcher();
    run.machine.check(launcher)?;
    let argv = argv(run, launcher.template());
    if argv.is_empty() {
        return Err(Problem::new(Kind::NoCommand, NO_COMMAND));
    }
    let new = NewSandbox::of(run.template.clone(), LEASE);
    Ok((sandboxes.create(new, &caller.0).await?, argv))
}

/// Starts the command of a run.
async fn start(sandbox: &Sandbox, exec: &Exec, argv: &[String]) -> Result<Running, Problem> {
    let live = sandbox.live().await?;
    let command = exec.command_of(argv, &sandbox.record.env, exec.user.as_deref())?;
    sandbox.log.add(None, Happened::start(argv));
    Ok(live.vm.start(command).await?)
}

/// Returns the words of a command, with those of the template's image that it asks for.
fn argv(run: &Run, template: &Template) -> Vec<String> {
    let words = run.command.argv.clone();
    match &template.manifest().root_origin {
        Some(origin) if run.of_image => {
            let words = words.into_iter().map(OsString::from).collect();
            let argv = origin.config.argv(None, words).into_iter();
            // Made of strings.
            argv.map(|word| word.to_string_lossy().into_owned())
                .collect()
        }
        _ => words,
    }
}

/// Tells a client what its sandbox and its command do, until either has ended.
async fn follow(
    socket: WebSocket,
    sandbox: &Sandbox,
    exec: &Exec,
    argv: &[String],
    vanishes: bool,
) {
    let silence = Silence::default();
    let window = match vanishes {
        true => NETWORK_WINDOW,
        false => LOCAL_WINDOW,
    };
    let (to_client, from_client) = socket.split();
    let (told, telling) = channel(QUEUE);
    // A client that sends more than is wanted has to wait.
    let (typed, input) = channel(1);
    let (asked, asking) = channel(QUEUE);
    let mut speaking = pin!(speak(to_client, telling, &silence, vanishes));
    let command = async {
        let lost = |problem: Problem| Ran::Lost { problem };
        let event = Ran::sandbox(sandbox, sandbox.spawned().await);
        // Before its command begins: a client forwards ports as soon as it knows the sandbox.
        let _ = told.send(event.message()).await;
        let last = match start(sandbox, exec, argv).await {
            Ok(mut running) => {
                let stdin = running.take_stdin();
                let fed = feed(stdin, exec.tty.is_some(), input, told.clone());
                tokio::select! {
                    ended = until_end(running, sandbox, &told, asking, window) => {
                        ended.unwrap_or_else(lost)
                    }
                    never = fed => match never {},
                }
            }
            Err(problem) => lost(problem),
        };
        let _ = told.send(last.message()).await;
        let _ = told.send(Message::Close(None)).await;
        drop(told);
    };
    tokio::select! {
        () = &mut speaking => return,
        () = hear(from_client, typed, asked, &silence) => return,
        () = command => {}
    }
    speaking.await;
}

/// Passes on what a command prints and is asked to, until its end.
async fn until_end(
    mut running: Running,
    sandbox: &Sandbox,
    client: &Sender<Message>,
    mut asking: Receiver<Said>,
    window: u64,
) -> Result<Ran, Problem> {
    let mut untaken = 0;
    let mut lease = interval_at(Instant::now() + LEASE_INTERVAL, LEASE_INTERVAL);
    loop {
        let next = async {
            // Output is taken when there is room for it, and waits in the guest otherwise.
            let room = client.reserve().await;
            (room, running.next().await)
        };
        let (room, event) = tokio::select! {
            next = next, if untaken < window => next,
            Some(said) = asking.recv() => {
                // A connection that is closed shows above.
                let _ = match said {
                    Said::Signal(signal) => running.signal(signal),
                    Said::Resize(size) => running.resize(size.into()),
                    Said::Taken(bytes) => {
                        untaken = untaken.saturating_sub(bytes);
                        Ok(())
                    }
                    // Input's.
                    Said::EndStdin(_) => Ok(()),
                };
                continue;
            }
            _ = lease.tick() => {
                sandbox.extend(LEASE).await?;
                continue;
            }
        };
        let (stream, bytes) = match event {
            Ok(ExecEvent::Stdout(bytes)) => (STDOUT, bytes),
            Ok(ExecEvent::Stderr(bytes)) => (STDERR, bytes),
            Ok(ExecEvent::Ended(status)) => {
                sandbox.log.add(None, Happened::End(status));
                return Ok(Ran::End {
                    end: status.into(),
                    out_of_memory: running.out_of_memory(),
                    unconfirmed: false,
                });
            }
            // Of a later release of the library: no output.
            Ok(_) => continue,
            // A command's time limit is the only cause of this error.
            Err(GuestError::NoAnswer { .. }) => {
                sandbox.log.add(None, Happened::End(ExitStatus::TimedOut));
                return Ok(Ran::End {
                    end: ExitStatus::TimedOut.into(),
                    out_of_memory: running.out_of_memory(),
                    unconfirmed: true,
                });
            }
            Err(error) => {
                sandbox.log.add(None, Happened::Lost);
                return Err(error.into());
            }
        };
        let bytes = Bytes::from(bytes);
        untaken += bytes.len() as u64;
        if let Ok(room) = room {
            room.send(output(stream, &bytes));
        }
        sandbox.log.add(
            None,
            match stream {
                STDOUT => Happened::Stdout(bytes),
                _ => Happened::Stderr(bytes),
            },
        );
    }
}

/// Passes input on, which a command that has no terminal is asked for first. Goes on as long as the command does.
async fn feed(
    stdin: Option<StdinWriter>,
    tty: bool,
    mut input: Receiver<Bytes>,
    client: Sender<Message>,
) -> Infallible {
    if let Some(mut stdin) = stdin {
        loop {
            if !tty {
                match stdin.wanted().await {
                    Ok(true) => {}
                    // The command takes none any more, or is lost.
                    Ok(false) | Err(_) => break,
                }
                if client.send(Ran::Stdin.message()).await.is_err() {
                    break;
                }
            }
            match input.recv().await {
                Some(bytes) if !bytes.is_empty() => {
                    if stdin.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                // Its end.
                _ => break,
            }
        }
    }
    // Nobody takes it any more: who sends it goes on to be heard.
    while input.recv().await.is_some() {}
    pending().await
}

/// Sends messages to a client, until there are no more or it has gone.
async fn speak(
    mut client: SplitSink<WebSocket, Message>,
    mut messages: Receiver<Message>,
    silence: &Silence,
    vanishes: bool,
) {
    let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    loop {
        let message = tokio::select! {
            message = messages.recv() => match message {
                Some(message) => message,
                None => return,
            },
            _ = pings.tick(), if vanishes => match silence.is_too_long() {
                true => return,
                false => Message::Ping(Bytes::new()),
            },
        };
        if client.send(message).await.is_err() {
            return;
        }
    }
}

/// Takes what a client says, until it goes away.
async fn hear(
    mut client: SplitStream<WebSocket>,
    input: Sender<Bytes>,
    said: Sender<Said>,
    silence: &Silence,
) {
    while let Some(Ok(message)) = client.next().await {
        silence.heard();
        silence.wait(true);
        let taken = match message {
            Message::Binary(bytes) if bytes.is_empty() => true,
            Message::Binary(bytes) => input.send(bytes).await.is_ok(),
            Message::Text(text) => match serde_json::from_str(text.as_str()) {
                Ok(Said::EndStdin(false)) => true,
                Ok(Said::EndStdin(true)) => input.send(Bytes::new()).await.is_ok(),
                Ok(other) => said.send(other).await.is_ok(),
                Err(error) => {
                    tracing::debug!(%error, "a client says what nobody understands");
                    return;
                }
            },
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => true,
        };
        silence.wait(false);
        if !taken {
            // The command has ended, and the client is told so.
            return pending().await;
        }
    }
}
