//! Runs a command in a sandbox.

use anyhow::Result;
use ironclaw_console::signals::Signals;
use ironclaw_console::{output, streams, terminal};

use super::args::Exec as Args;
use super::which::{self, quoted};
use crate::client::{Client, Method};
use crate::follow::{Asked, Input};
use crate::shapes::{Done, End, Exec, Size};

/// The exit code of `timeout`, for a command that was killed at its time limit.
const TIMED_OUT: u8 = 124;

/// Returns the exit code for a command's end, as in shells; 255 for a signal that does not exist.
fn code(end: End) -> u8 {
    match end {
        End {
            timed_out: true, ..
        } => TIMED_OUT,
        End {
            exit_code: Some(code),
            ..
        } => code,
        End { signal, .. } => signal
            .and_then(|signal| u8::try_from(signal).ok())
            .and_then(|signal| signal.checked_add(128))
            .unwrap_or(u8::MAX),
    }
}

pub(super) async fn exec(client: &Client, args: Args, json: bool) -> Result<u8> {
    let mut signals = Signals::terminating()?;
    let id = signals
        .until_first(which::id(client, &args.sandbox))
        .await?;
    let size = terminal::size();
    let mut env: std::collections::BTreeMap<_, _> = args.env.into_iter().collect();
    if args.tty
        && let Ok(kind) = std::env::var("TERM")
    {
        env.entry("TERM".to_owned()).or_insert(kind);
    }
    let exec = Exec {
        argv: args.command,
        env,
        cwd: args.cwd,
        user: args.user,
        timeout_ms: args
            .timeout
            .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)),
        open_stdin: args.stdin && !args.tty,
        tty: args.tty.then_some(Size {
            columns: size.columns,
            rows: size.rows,
        }),
        stderr_to_stdout: !args.tty && !json && streams::go_to_one_place(),
    };
    if json && !args.stdin {
        let path = format!("/v1/sandboxes/{}/exec", quoted(&id));
        let asked = async {
            Ok(client
                .call::<Done>(Method::POST, &path, Some(&exec))
                .await?)
        };
        let done = signals.until_first(asked).await?;
        output::json(&done)?;
        return Ok(code(End {
            exit_code: done.exit_code,
            signal: done.signal,
            timed_out: done.timed_out,
        }));
    }
    let path = format!("/v1/sandboxes/{}/socket", quoted(&id));
    let opened = async { Ok(client.socket(&path).await?) };
    let socket = signals.until_first(opened).await?;
    signals.add_forwarded()?;
    let input = match (args.tty, args.stdin) {
        (true, true) => Input::Typed,
        (false, true) => Input::Piped,
        (_, false) => Input::None,
    };
    let asked = Asked {
        client,
        sandbox: &id,
        exec: &exec,
        input,
    };
    let end = asked.follow(socket, &mut signals).await?;
    Ok(code(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        let of = |exit_code, signal, timed_out| {
            code(End {
                exit_code,
                signal,
                timed_out,
            })
        };
        assert_eq!(of(Some(3), None, false), 3);
        assert_eq!(of(None, Some(9), false), 137);
        assert_eq!(of(None, None, true), TIMED_OUT);
        assert_eq!(of(None, Some(1000), false), 255);
    }
}
