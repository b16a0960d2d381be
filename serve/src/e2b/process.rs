//! The service `process.Process`: the commands of a sandbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use ironclaw_orchestrator::vm::{Command, TerminalSize, VmClient};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::access::{Entered, enter};
use super::api::{Api, MAX_BODY};
use super::envelope::{self, Unwrapper};
use super::failure::{Code, RpcFailure};
use super::{process_events, rpc};
use crate::process::{Described, Process};

/// The shell that SDKs run commands with.
const BASH: &str = "/bin/bash";

/// What takes its place in a template without it: it knows `-l` and `-c`, too.
const SH: &str = "/bin/sh";

/// Time that a killed command may take to end: its output until then has to be taken.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

pub(super) async fn call(
    State(api): State<Api>,
    Path(call): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let entered = match enter(&api, headers).await {
        Ok(entered) => entered,
        Err(refused) => return refused.into_response(),
    };
    match call.as_str() {
        "Start" | "Connect" => {
            let answered = stream(&call, &entered, headers, body).await;
            answered.unwrap_or_else(|failure| process_events::refuse(&failure))
        }
        "StreamInput" => match stream_input(&entered, headers, body).await {
            Ok(()) => rpc::stream([envelope::message(&json!({})), envelope::end(None)].concat()),
            Err(failure) => process_events::refuse(&failure),
        },
        _ => match unary(&call, &entered, headers, body).await {
            Ok(answer) => Json(answer).into_response(),
            Err(failure) => failure.into_response(),
        },
    }
}

async fn stream(
    call: &str,
    entered: &Entered,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, RpcFailure> {
    rpc::check_content(headers, rpc::STREAM)?;
    let mut unwrapper = Unwrapper::new(MAX_BODY);
    unwrapper.push(&rpc::whole(body).await?);
    let message = unwrapper.next()?;
    let message = message.ok_or_else(|| RpcFailure::invalid("the request has no message"))?;
    match call {
        "Start" => start(entered, headers, &message).await,
        _ => connect(entered, headers, &message).await,
    }
}

#[derive(Debug, Deserialize)]
struct Start {
    process: Config,
    pty: Option<Pty>,
    tag: Option<String>,
    /// Older clients do not say, and write.
    stdin: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    cmd: String,
    args: Vec<String>,
    envs: BTreeMap<String, String>,
    cwd: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Pty {
    size: Size,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Size {
    #[serde(default)]
    cols: u16,
    #[serde(default)]
    rows: u16,
}

impl From<Size> for TerminalSize {
    fn from(Size { cols, rows }: Size) -> Self {
        Self {
            rows,
            columns: cols,
        }
    }
}

async fn start(
    entered: &Entered,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Response, RpcFailure> {
    let start: Start = rpc::read(message)?;
    let limit = rpc::time_limit(headers)?;
    let Entered { sandbox, live, .. } = entered;
    let user = entered.user().await?;
    let Config {
        cmd,
        args,
        envs,
        cwd,
    } = start.process;
    let program = match cmd.as_str() {
        BASH if !sandbox.template.has_bash(&live.vm).await? => SH,
        program => program,
    };
    let mut command = Command::new(program)
        .args(&args)
        .envs(&sandbox.record.env)
        .envs(&envs)
        .user(&user);
    if let Some(cwd) = &cwd {
        command = command.current_dir(rpc::path(entered, &user, cwd).await?);
    }
    if let Some(tag) = &start.tag {
        command = command.tag(tag);
    }
    if let Some(limit) = limit {
        command = command.timeout(limit);
    }
    if let Some(Pty { size }) = start.pty {
        command = command.pty(size.into());
    }
    if start.pty.is_some() || start.stdin.unwrap_or(true) {
        command = command.stdin_piped();
    }
    let described = Described {
        cmd,
        args,
        envs,
        cwd,
        tag: start.tag,
        terminal: start.pty.is_some(),
    };
    let started = live.processes.start(&live.vm, command, described).await;
    let (process, listener) = started?;
    Ok(process_events::answer(
        headers, sandbox, &process, listener, None,
    ))
}

#[derive(Debug, Deserialize)]
struct Selected {
    process: Selector,
}

#[derive(Debug, Deserialize)]
struct Selector {
    #[serde(default, deserialize_with = "optional_number")]
    pid: Option<u32>,
    tag: Option<String>,
}

fn optional_number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    rpc::number(from).map(Some)
}

async fn select(entered: &Entered, selector: &Selector) -> Result<Arc<Process>, RpcFailure> {
    let live = &entered.live;
    let (found, what) = match (selector.pid, &selector.tag) {
        (Some(pid), _) => (
            live.processes.find(&live.vm, pid).await?,
            format!("pid {pid}"),
        ),
        (None, Some(tag)) => (
            live.processes.find_tag(&live.vm, tag).await?,
            format!("tag {tag:?}"),
        ),
        (None, None) => return Err(RpcFailure::invalid("no process is selected")),
    };
    found.ok_or_else(|| RpcFailure::not_found(format!("process with {what} not found")))
}

async fn connect(
    entered: &Entered,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Response, RpcFailure> {
    let Selected { process } = rpc::read(message)?;
    let process = select(entered, &process).await?;
    let ended = || RpcFailure::not_found(format!("process with pid {} not found", process.pid));
    let listener = process.listen().ok_or_else(ended)?;
    let limit = rpc::time_limit(headers)?;
    let until = limit.and_then(|limit| Instant::now().checked_add(limit));
    Ok(process_events::answer(
        headers,
        &entered.sandbox,
        &process,
        listener,
        until,
    ))
}

#[derive(Debug, Deserialize)]
struct SendInput {
    process: Selector,
    input: Input,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Input {
    stdin: Option<String>,
    pty: Option<String>,
}

impl Input {
    fn bytes(&self) -> Result<Vec<u8>, RpcFailure> {
        let encoded = self.stdin.as_ref().or(self.pty.as_ref());
        let encoded = encoded.map(String::as_str).unwrap_or_default();
        let decoded = STANDARD.decode(encoded);
        decoded.map_err(|_| RpcFailure::invalid("the input is not base64"))
    }
}

async fn write(process: &Process, input: &Input) -> Result<(), RpcFailure> {
    match process.write(&input.bytes()?).await? {
        true => Ok(()),
        false => Err(RpcFailure::new(
            Code::FailedPrecondition,
            format!("process with pid {} takes no input", process.pid),
        )),
    }
}

#[derive(Debug, Deserialize)]
struct Update {
    process: Selector,
    pty: Option<Pty>,
}

#[derive(Debug, Deserialize)]
struct SendSignal {
    process: Selector,
    signal: Value,
}

/// Kills a command with everything that descends from it, and waits until it is over: who kills it
/// again then is told that there is none.
async fn kill(vm: &VmClient, process: &Process) -> Result<(), RpcFailure> {
    let listener = process.listen();
    vm.kill_command(process.id).await?;
    if let Some(mut listener) = listener {
        let ended = async { while listener.recv().await.is_some() {} };
        // Who listens, too, may be slow.
        let _ = timeout(KILL_TIMEOUT, ended).await;
    }
    Ok(())
}

/// Signals are written by name or number.
fn signal(value: &Value) -> Result<i32, RpcFailure> {
    match (value.as_str(), value.as_i64()) {
        (Some("SIGNAL_SIGKILL"), _) | (_, Some(9)) => Ok(SIGKILL),
        (Some("SIGNAL_SIGTERM"), _) | (_, Some(15)) => Ok(SIGTERM),
        _ => Err(RpcFailure::invalid(
            "the signal is SIGNAL_SIGKILL or SIGNAL_SIGTERM",
        )),
    }
}

async fn unary(
    call: &str,
    entered: &Entered,
    headers: &HeaderMap,
    body: Body,
) -> Result<Value, RpcFailure> {
    rpc::check_content(headers, rpc::UNARY)?;
    let message = rpc::whole(body).await?;
    let vm = &entered.live.vm;
    match call {
        "List" => {
            let all = entered.live.processes.list(vm).await?;
            let all: Vec<_> = all.iter().map(|process| shown(process)).collect();
            Ok(match all.is_empty() {
                true => json!({}),
                false => json!({ "processes": all }),
            })
        }
        "SendInput" => {
            let SendInput { process, input } = rpc::read(&message)?;
            write(&*select(entered, &process).await?, &input).await?;
            Ok(json!({}))
        }
        "CloseStdin" => {
            let Selected { process } = rpc::read(&message)?;
            select(entered, &process).await?.close_stdin().await;
            Ok(json!({}))
        }
        "SendSignal" => {
            let request: SendSignal = rpc::read(&message)?;
            let signal = signal(&request.signal)?;
            let process = select(entered, &request.process).await?;
            match signal {
                SIGKILL => kill(vm, &process).await?,
                signal => vm.signal_command(process.id, signal).await?,
            }
            Ok(json!({}))
        }
        "Update" => {
            let Update { process, pty } = rpc::read(&message)?;
            let process = select(entered, &process).await?;
            if let Some(Pty { size }) = pty {
                vm.resize_command(process.id, size.into()).await?;
            }
            Ok(json!({}))
        }
        _ => Err(RpcFailure::new(
            Code::Unimplemented,
            format!("process.Process has no call {call:?} here"),
        )),
    }
}

fn shown(process: &Process) -> Value {
    let Described {
        cmd,
        args,
        envs,
        cwd,
        tag,
        ..
    } = &process.described;
    let mut config = json!({ "cmd": cmd, "args": args, "envs": envs });
    if let Some(cwd) = cwd {
        config["cwd"] = json!(cwd);
    }
    let mut shown = json!({ "pid": process.pid, "config": config });
    if let Some(tag) = tag {
        shown["tag"] = json!(tag);
    }
    shown
}

/// A message of a stream of input.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Streamed {
    start: Option<Selected>,
    data: Option<StreamedData>,
}

#[derive(Debug, Deserialize)]
struct StreamedData {
    input: Input,
}

async fn stream_input(
    entered: &Entered,
    headers: &HeaderMap,
    body: Body,
) -> Result<(), RpcFailure> {
    rpc::check_content(headers, rpc::STREAM)?;
    let mut unwrapper = Unwrapper::new(MAX_BODY);
    let mut pieces = body.into_data_stream();
    let mut process = None;
    while let Some(piece) = pieces.next().await {
        unwrapper.push(&piece.map_err(rpc::unreadable)?);
        while let Some(message) = unwrapper.next()? {
            let Streamed { start, data } = rpc::read(&message)?;
            if let Some(Selected { process: selector }) = start {
                process = Some(select(entered, &selector).await?);
            }
            if let Some(StreamedData { input }) = data {
                let none = || RpcFailure::invalid("the stream begins without a process");
                write(&**process.as_ref().ok_or_else(none)?, &input).await?;
            }
        }
    }
    unwrapper.finish()
}
