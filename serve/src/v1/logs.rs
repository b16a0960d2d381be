//! What the commands of a sandbox printed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body as Content;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::api::Api;
use super::ask::{Asked, Named};
use super::commands::Text;
use super::events::{EVENTS, line};
use super::exec::End;
use super::problem::Problem;
use super::shapes::rfc3339;
use crate::log::{Batch, Happened, Log, Reader, Record};

/// What of a log is read.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    /// Of the command with this PID alone.
    pid: Option<u32>,
    /// Wait for what comes, until the command with `pid` has ended; without one, until the sandbox has.
    #[serde(default)]
    follow: bool,
}

/// A line of a log.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Logged {
    /// A command was started, or is listened to again.
    Start {
        #[serde(flatten)]
        of: Of,
        /// The program and its arguments, without what is too long.
        argv: Vec<String>,
    },
    /// Output on standard output.
    Stdout {
        #[serde(flatten)]
        of: Of,
        #[serde(flatten)]
        text: Text,
    },
    /// Output on standard error.
    Stderr {
        #[serde(flatten)]
        of: Of,
        #[serde(flatten)]
        text: Text,
    },
    /// A command has ended.
    End {
        #[serde(flatten)]
        of: Of,
        #[serde(flatten)]
        end: End,
    },
    /// A command is not listened to any more, as when its sandbox is paused.
    Lost {
        #[serde(flatten)]
        of: Of,
    },
    /// Output of any command that is not kept any more, or that its reader was too slow for.
    Missed { bytes: u64 },
}

/// When, and of which command.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Of {
    /// When it came (RFC 3339).
    at: String,
    /// The PID of the command; none of one that `POST .../exec` ran.
    pid: Option<u32>,
}

impl From<Record> for Logged {
    fn from(record: Record) -> Self {
        let Record { at, pid, .. } = record;
        let of = Of {
            at: rfc3339(at),
            pid,
        };
        match record.happened {
            Happened::Start(argv) => Self::Start { of, argv },
            Happened::Stdout(bytes) => Self::Stdout {
                of,
                text: bytes.into(),
            },
            Happened::Stderr(bytes) => Self::Stderr {
                of,
                text: bytes.into(),
            },
            Happened::End(status) => Self::End {
                of,
                end: status.into(),
            },
            Happened::Lost => Self::Lost { of },
        }
    }
}

/// Reads what the commands of a sandbox printed last, a JSON object a line.
///
/// The daemon keeps the last 256 KiB of a sandbox as long as it runs itself, also of commands that have ended and
/// while the sandbox is paused; reading resumes none. What a command prints on one stream within a second is one
/// record, up to 4 KiB; of more than 4,096 records the oldest ones go, too.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/logs", tag = "commands",
    params(("id" = String, Path, description = "The sandbox's id"), Range),
    responses(
        (status = 200, body = Logged, content_type = "application/x-ndjson"),
        Problem,
    )
)]
pub(super) async fn read(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(range): Asked<Range>,
) -> Result<Response, Problem> {
    let sandbox = api.sandbox(&id)?;
    if let Ok(live) = sandbox.live().await {
        // Finds those that go on since it was resumed.
        live.processes.list(&live.vm).await?;
    }
    if let Some(pid) = range.pid
        && !sandbox.log.has(pid)
    {
        return Err(Problem::not_found(format!(
            "nothing is kept of a command with PID {pid}"
        )));
    }
    let lines = Lines {
        log: Arc::clone(&sandbox.log),
        reader: sandbox.log.reader(),
        range,
        ready: VecDeque::new(),
        is_over: false,
    };
    let lines = stream::unfold(lines, |mut lines: Lines| async move {
        let line = lines.next().await?;
        Some((Ok::<_, Infallible>(line), lines))
    });
    let content = Content::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, EVENTS)], content).into_response())
}

/// The lines of an answer.
struct Lines {
    log: Arc<Log>,
    reader: Reader,
    range: Range,
    ready: VecDeque<Logged>,
    /// Whether the command that is asked for has ended.
    is_over: bool,
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(logged) = self.ready.pop_front() {
                return Some(line(&logged));
            }
            match self.reader.next(&self.log) {
                Some(batch) => self.take(batch),
                None if !self.range.follow || self.is_over || !self.reader.wait().await => {
                    return None;
                }
                None => {}
            }
        }
    }

    fn take(&mut self, Batch { missed, records }: Batch) {
        if missed > 0 {
            self.ready.push_back(Logged::Missed { bytes: missed });
        }
        let asked = self.range.pid;
        for record in records {
            if asked.is_some_and(|pid| record.pid != Some(pid)) {
                continue;
            }
            self.is_over = asked.is_some() && matches!(record.happened, Happened::End(_));
            self.ready.push_back(record.into());
        }
    }
}
