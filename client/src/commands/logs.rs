//! Prints what the commands of a sandbox printed.

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use ironclaw_console::signals::until_first;
use ironclaw_console::streams::{Target, Writer};
use ironclaw_console::{output, progress};

use super::args::Logs as Args;
use super::which::{self, quoted};
use crate::client::{Client, Method};
use crate::shapes::Logged;

/// Bytes of a line of the daemon at most: 256 KiB of output as text, which JSON makes six times as long, and in
/// base64 besides.
const MAX_LINE: usize = 4 * 1024 * 1024;

pub(super) async fn logs(client: &Client, args: Args, json: bool) -> Result<()> {
    until_first(print(client, args, json)).await
}

async fn print(client: &Client, args: Args, json: bool) -> Result<()> {
    let id = which::id(client, &args.sandbox).await?;
    let mut path = format!("/v1/sandboxes/{}/logs?follow={}", quoted(&id), args.follow);
    if let Some(pid) = args.command {
        path = format!("{path}&pid={pid}");
    }
    let answer = client.open(Method::GET, &path, Bytes::new()).await?;
    let mut content = answer.into_body();
    let mut rest = BytesMut::new();
    let mut writer = Writer::start()?;
    let mut commands = Commands::default();
    while let Some(frame) = content.frame().await {
        let frame = frame.context("the connection to the daemon is lost")?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = rest.split_to(end + 1);
            if args.commands {
                commands.take(serde_json::from_slice(&line)?);
            } else if json {
                writer.begin(Target::Stdout, line.to_vec());
                writer.written().await?;
            } else {
                show(serde_json::from_slice(&line)?, &mut writer).await?;
            }
        }
        anyhow::ensure!(rest.len() <= MAX_LINE, "a line of the daemon's is too long");
    }
    match args.commands {
        true => commands.show(json),
        false => Ok(()),
    }
}

async fn show(logged: Logged, writer: &mut Writer) -> Result<()> {
    let (target, printed) = match logged {
        Logged::Stdout(printed) => (Target::Stdout, printed),
        Logged::Stderr(printed) => (Target::Stderr, printed),
        Logged::Missed { bytes } => {
            progress::note(&format!("{bytes} bytes of output are not kept any more"));
            return Ok(());
        }
        Logged::Start { .. } | Logged::End { .. } | Logged::Lost { .. } | Logged::Other => {
            return Ok(());
        }
    };
    writer.begin(target, printed.bytes()?);
    writer.written().await
}

/// The commands that a log knows.
#[derive(Debug, Default)]
struct Commands(Vec<Known>);

#[derive(Debug, serde::Serialize)]
struct Known {
    pid: Option<u32>,
    started: String,
    /// `running`, or how it ended.
    state: String,
    argv: Vec<String>,
}

impl Commands {
    fn take(&mut self, logged: Logged) {
        let (of, state) = match logged {
            Logged::Start { of, argv } => {
                self.0.push(Known {
                    pid: of.pid,
                    started: of.at,
                    state: "running".to_owned(),
                    argv,
                });
                return;
            }
            Logged::End { of, end } => (of, end.to_string()),
            Logged::Lost { of } => (of, "not listened to".to_owned()),
            _ => return,
        };
        let started = self.0.iter_mut().rev().find(|known| known.pid == of.pid);
        if let Some(known) = started {
            known.state = state;
        }
    }

    fn show(self, json: bool) -> Result<()> {
        if json {
            return output::json(&self.0);
        }
        let rows = self.0.into_iter().map(|known| {
            let pid = known
                .pid
                .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let command = known.argv.join(" ").escape_debug().to_string();
            [pid, known.started, known.state, command]
        });
        output::table(["PID", "STARTED", "STATE", "COMMAND"], rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::Printed;

    #[test]
    fn a_command_is_known_by_its_start_with_its_end() {
        let mut commands = Commands::default();
        for line in [
            r#"{"event":"start","at":"t","pid":7,"argv":["sh","-c"]}"#,
            r#"{"event":"stdout","at":"t","pid":7,"text":"x"}"#,
            r#"{"event":"start","at":"t","pid":8,"argv":["true"]}"#,
            r#"{"event":"end","at":"t","pid":7,"exit_code":3,"signal":null,"timed_out":false}"#,
            r#"{"event":"of a later daemon"}"#,
        ] {
            commands.take(serde_json::from_str(line).unwrap());
        }
        let known: Vec<_> = commands
            .0
            .iter()
            .map(|it| (it.pid, it.state.as_str()))
            .collect();
        assert_eq!(known, [(Some(7), "exit code 3"), (Some(8), "running")]);
    }

    #[test]
    fn bytes_are_those_of_the_command() {
        let of = |text: &str| {
            serde_json::from_str::<Printed>(text)
                .unwrap()
                .bytes()
                .unwrap()
        };
        assert_eq!(of(r#"{"text":"a"}"#), b"a");
        assert_eq!(of(r#"{"text":"?","base64":"/w=="}"#), b"\xff");
    }
}
