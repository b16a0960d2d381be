//! The events of a command as a stream of messages.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use ironclaw_orchestrator::vm::{ExitStatus, GuestError};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep_until};

use super::envelope;
use super::failure::{Code, RpcFailure};
use super::rpc;
use crate::process::{Event, Process};
use crate::sandbox::{Sandbox, State};

/// Answers with the events of a command: that it has started, then what `listener` gets.
pub(super) fn answer(
    headers: &HeaderMap,
    sandbox: &Arc<Sandbox>,
    process: &Process,
    listener: Receiver<Event>,
    until: Option<Instant>,
) -> Response {
    let start = json!({ "event": { "start": { "pid": process.pid } } });
    let state = Answering {
        sandbox: Arc::clone(sandbox),
        listener,
        terminal: process.described.terminal,
        ping: rpc::ping(headers),
        until,
        first: Some(envelope::message(&start)),
        over: false,
    };
    let messages = stream::unfold(state, |mut state| async move {
        let message = state.next().await?;
        Some((message, state))
    });
    rpc::stream(Body::from_stream(messages))
}

/// Answers with a failure and nothing else: streams tell it in their last message.
pub(super) fn refuse(failure: &RpcFailure) -> Response {
    rpc::stream(envelope::end(Some(failure)))
}

/// The sandbox was killed, or its VM failed: the connection breaks off, by which SDKs know that they have
/// to look whether the sandbox is there.
#[derive(Debug, Error)]
#[error("the sandbox is gone")]
struct SandboxGone;

type Message = Result<Bytes, SandboxGone>;

struct Answering {
    sandbox: Arc<Sandbox>,
    listener: Receiver<Event>,
    terminal: bool,
    ping: tokio::time::Interval,
    until: Option<Instant>,
    first: Option<Bytes>,
    over: bool,
}

impl Answering {
    async fn next(&mut self) -> Option<Message> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        if self.over {
            return None;
        }
        let late = async {
            match self.until {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = self.listener.recv() => Some(self.event(event)),
            () = late => {
                self.over = true;
                let failure = RpcFailure::new(Code::DeadlineExceeded, "the call's time is over");
                Some(Ok(envelope::end(Some(&failure))))
            }
            _ = self.ping.tick() => {
                Some(Ok(envelope::message(&json!({ "event": { "keepalive": {} } }))))
            }
        }
    }

    fn event(&mut self, event: Option<Event>) -> Message {
        self.ping.reset();
        let data = |kind: &str, bytes: &Bytes| {
            let text = STANDARD.encode(bytes);
            envelope::message(&json!({ "event": { "data": { kind: text } } }))
        };
        Ok(match event {
            Some(Event::Stdout(bytes)) if self.terminal => data("pty", &bytes),
            Some(Event::Stdout(bytes)) => data("stdout", &bytes),
            Some(Event::Stderr(bytes)) => data("stderr", &bytes),
            Some(Event::Ended(Ok(ExitStatus::TimedOut))) => {
                self.over = true;
                let failure = RpcFailure::new(Code::DeadlineExceeded, "the command's time is over");
                envelope::end(Some(&failure))
            }
            Some(Event::Ended(Ok(status))) => {
                self.over = true;
                let end = json!({ "event": { "end": end(status) } });
                [envelope::message(&end), envelope::end(None)]
                    .concat()
                    .into()
            }
            Some(Event::Ended(Err(GuestError::Closed { .. })))
                if self.sandbox.status().state == State::Running =>
            {
                self.over = true;
                return Err(SandboxGone);
            }
            Some(Event::Ended(Err(error))) => {
                self.over = true;
                envelope::end(Some(&error.into()))
            }
            None => {
                self.over = true;
                let failure =
                    RpcFailure::new(Code::Unavailable, "the command is not followed any more");
                envelope::end(Some(&failure))
            }
        })
    }
}

/// The end of a command, in the words of Go's `os.ProcessState`, which clients know.
fn end(status: ExitStatus) -> Value {
    match status {
        ExitStatus::Signal(signal) => {
            let text = format!("signal: {}", signal_name(signal));
            json!({ "exitCode": -1, "exited": false, "status": text, "error": text })
        }
        other => {
            let code = other.code().unwrap_or_default();
            let text = format!("exit status {code}");
            match code {
                0 => json!({ "exitCode": 0, "exited": true, "status": text }),
                _ => json!({ "exitCode": code, "exited": true, "status": text, "error": text }),
            }
        }
    }
}

/// The name of a signal in Go's `syscall`, on Linux.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_the_words_that_clients_know() {
        let killed = end(ExitStatus::Signal(9));
        assert_eq!(killed["error"], "signal: killed");
        assert_eq!(
            (&killed["exitCode"], &killed["exited"]),
            (&json!(-1), &json!(false))
        );
        let failed = end(ExitStatus::Code(7));
        assert_eq!(
            (&failed["exitCode"], &failed["error"]),
            (&json!(7), &json!("exit status 7"))
        );
        assert_eq!(end(ExitStatus::Code(0)).get("error"), None);
    }
}
