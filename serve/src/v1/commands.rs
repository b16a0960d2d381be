//! The commands of a sandbox.

use std::sync::Arc;

use axum::Json;
use axum::body::Body as Content;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Receiver;
use utoipa::{IntoParams, ToSchema};

use super::api::Api;
use super::ask::{Asked, Body, Named};
use super::events::{EVENTS, line};
use super::exec::{Done, End, Exec, Size, told};
use super::problem::{Kind, Problem};
use crate::process::{Event, Process};
use crate::sandbox::Live;

/// Signals of Linux that have a name.
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=31;

type Answer<T> = Result<T, Problem>;

/// Runs a command to its end, and returns its output.
///
/// A client that goes away kills it.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/exec", tag = "commands",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = Exec,
    responses(
        (status = 200, body = Done, description = "However it ended: a code that is not 0 is no failure of the call."),
        Problem,
    )
)]
pub(super) async fn exec(
    State(api): State<Api>,
    Named(id): Named<String>,
    Body(exec): Body<Exec>,
) -> Answer<Json<Done>> {
    exec.check_buffered()?;
    let (sandbox, live) = api.live(&id).await?;
    let command = exec.command(&sandbox, &live).await?;
    let output = live.vm.exec(command).await?;
    sandbox.log.add_run(&exec.argv, &output);
    Ok(Json(output.into()))
}

/// How a command is started.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    /// Return when it is started, and do not listen to it.
    #[serde(default)]
    detach: bool,
}

/// An event of a command.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Told {
    /// The first one.
    Start { pid: u32 },
    /// Output on standard output.
    Stdout(Text),
    /// Output on standard error.
    Stderr(Text),
    /// The last one.
    End(End),
    /// The last one, if the end is not known.
    Lost { problem: Problem },
}

/// Output.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Text {
    text: String,
    /// The same in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl From<Bytes> for Text {
    fn from(bytes: Bytes) -> Self {
        let (text, base64) = told(bytes.into());
        Self { text, base64 }
    }
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        match event {
            Event::Stdout(bytes) => Self::Stdout(bytes.into()),
            Event::Stderr(bytes) => Self::Stderr(bytes.into()),
            Event::Ended(Ok(status)) => Self::End(status.into()),
            Event::Ended(Err(error)) => Self::Lost {
                problem: error.into(),
            },
        }
    }
}

/// Answers with the events of a command.
fn events(process: &Process, listener: Receiver<Event>, status: StatusCode) -> Response {
    let start = line(&Told::Start { pid: process.pid });
    let events = stream::unfold((Some(start), listener), |(start, mut listener)| async {
        let event = match start {
            Some(start) => start,
            None => line(&Told::from(listener.recv().await?)),
        };
        Some((Ok::<_, std::convert::Infallible>(event), (None, listener)))
    });
    let content = Content::from_stream(events);
    (status, [(header::CONTENT_TYPE, EVENTS)], content).into_response()
}

/// Starts a command, which goes on when its client goes away.
///
/// The answer is a stream of its events, a JSON object a line, the first of which has its PID.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/commands", tag = "commands",
    params(("id" = String, Path, description = "The sandbox's id"), Start),
    request_body = Exec,
    responses(
        (status = 201, body = Told, content_type = "application/x-ndjson"),
        Problem,
    )
)]
pub(super) async fn start(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(asked): Asked<Start>,
    Body(exec): Body<Exec>,
) -> Answer<Response> {
    let (sandbox, live) = api.live(&id).await?;
    let command = exec.command(&sandbox, &live).await?;
    let started = live.processes.start(&live.vm, command, exec.described());
    let (process, listener) = started.await?;
    if asked.detach {
        let start = Told::Start { pid: process.pid };
        return Ok((StatusCode::CREATED, Json(start)).into_response());
    }
    Ok(events(&process, listener, StatusCode::CREATED))
}

/// A command that runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Known {
    pid: u32,
    argv: Vec<String>,
    cwd: Option<String>,
    tag: Option<String>,
    /// Whether it runs on a terminal.
    tty: bool,
}

/// Lists the commands that run.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/commands", tag = "commands",
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, body = Vec<Known>),
        Problem,
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Named(id): Named<String>,
) -> Answer<Json<Vec<Known>>> {
    let (_, live) = api.live(&id).await?;
    let all = live.processes.list(&live.vm).await?;
    let known = all.iter().map(|process| {
        let described = &process.described;
        let argv = std::iter::once(&described.cmd).chain(&described.args);
        Known {
            pid: process.pid,
            argv: argv.cloned().collect(),
            cwd: described.cwd.clone(),
            tag: described.tag.clone(),
            tty: described.terminal,
        }
    });
    Ok(Json(known.collect()))
}

async fn find(live: &Live, pid: u32) -> Answer<Arc<Process>> {
    let found = live.processes.find(&live.vm, pid).await?;
    found.ok_or_else(|| Problem::not_found(format!("there is no command with PID {pid}")))
}

/// Listens to a command from now on. Others who listen, too, miss nothing.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/commands/{pid}", tag = "commands",
    params(
        ("id" = String, Path, description = "The sandbox's id"),
        ("pid" = u32, Path, description = "The command's PID"),
    ),
    responses(
        (status = 200, body = Told, content_type = "application/x-ndjson"),
        Problem,
    )
)]
pub(super) async fn attach(
    State(api): State<Api>,
    Named((id, pid)): Named<(String, u32)>,
) -> Answer<Response> {
    let (_, live) = api.live(&id).await?;
    let process = find(&live, pid).await?;
    let over = || Problem::not_found(format!("the command with PID {pid} has ended"));
    let listener = process.listen().ok_or_else(over)?;
    Ok(events(&process, listener, StatusCode::OK))
}

/// A signal.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Signal {
    /// Its number in Linux: 15 asks a command to end, 9 kills it with all that it started.
    #[schema(minimum = 1, maximum = 31)]
    signal: i32,
}

/// Signals a command.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/commands/{pid}/signal", tag = "commands",
    params(
        ("id" = String, Path, description = "The sandbox's id"),
        ("pid" = u32, Path, description = "The command's PID"),
    ),
    request_body = Signal,
    responses(
        (status = 204),
        Problem,
    )
)]
pub(super) async fn signal(
    State(api): State<Api>,
    Named((id, pid)): Named<(String, u32)>,
    Body(Signal { signal }): Body<Signal>,
) -> Answer<StatusCode> {
    if !SIGNALS.contains(&signal) {
        return Err(Problem::invalid(format!(
            "{signal} is no signal of 1 to 31"
        )));
    }
    let (_, live) = api.live(&id).await?;
    let process = find(&live, pid).await?;
    match signal {
        9 => live.vm.kill_command(process.id).await?,
        signal => live.vm.signal_command(process.id, signal).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Gives the terminal of a command another size.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/commands/{pid}/resize", tag = "commands",
    params(
        ("id" = String, Path, description = "The sandbox's id"),
        ("pid" = u32, Path, description = "The command's PID"),
    ),
    request_body = Size,
    responses(
        (status = 204),
        Problem,
    )
)]
pub(super) async fn resize(
    State(api): State<Api>,
    Named((id, pid)): Named<(String, u32)>,
    Body(size): Body<Size>,
) -> Answer<StatusCode> {
    let (_, live) = api.live(&id).await?;
    let process = find(&live, pid).await?;
    live.vm.resize_command(process.id, size.into()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How standard input goes on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Goes {
    /// End standard input after these bytes.
    #[serde(default)]
    end: bool,
}

/// Writes to the standard input of a command that was started with `open_stdin`, or on a terminal.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/commands/{pid}/stdin", tag = "commands",
    params(
        ("id" = String, Path, description = "The sandbox's id"),
        ("pid" = u32, Path, description = "The command's PID"),
        Goes,
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 204),
        Problem,
    )
)]
pub(super) async fn stdin(
    State(api): State<Api>,
    Named((id, pid)): Named<(String, u32)>,
    Asked(goes): Asked<Goes>,
    bytes: Bytes,
) -> Answer<StatusCode> {
    let (_, live) = api.live(&id).await?;
    let process = find(&live, pid).await?;
    if !bytes.is_empty() && !process.write(&bytes).await? {
        let text = format!("the command with PID {pid} takes no input");
        return Err(Problem::new(Kind::Conflict, text));
    }
    if goes.end {
        process.close_stdin().await;
    }
    Ok(StatusCode::NO_CONTENT)
}
