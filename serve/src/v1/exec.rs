//! What a client asks to run, and how its end is told.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ironclaw_orchestrator::vm::guest::MAX_COLLECTED;
use ironclaw_orchestrator::vm::{Command, ExitStatus, Output, TerminalSize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;
use crate::new_sandbox::check_env;
use crate::process::Described;
use crate::sandbox::{Live, Sandbox};

/// A command.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    /// The program and its arguments; no shell reads them.
    #[schema(example = json!(["sh", "-c", "echo hello"]))]
    pub(super) argv: Vec<String>,
    /// Variables, beside those of the sandbox.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// The working directory, an absolute path; by default the image's or the user's home.
    cwd: Option<String>,
    /// The user; by default the sandbox's.
    pub(super) user: Option<String>,
    /// Kill it after so many milliseconds.
    timeout_ms: Option<u64>,
    /// What it reads on standard input, as text. Otherwise that is empty.
    stdin: Option<String>,
    /// The same in base64.
    stdin_base64: Option<String>,
    /// Leave standard input open, for `POST .../stdin` or a WebSocket.
    #[serde(default)]
    open_stdin: bool,
    /// Run it on a terminal of this size.
    pub(super) tty: Option<Size>,
    /// Send standard error with standard output, in order.
    #[serde(default)]
    stderr_to_stdout: bool,
    /// Most bytes of output that are collected: 64 MiB at most and by default.
    max_output_bytes: Option<u64>,
    /// A text to find it by in the list.
    tag: Option<String>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Size {
    columns: u16,
    rows: u16,
}

impl From<Size> for TerminalSize {
    fn from(Size { columns, rows }: Size) -> Self {
        Self { rows, columns }
    }
}

impl Exec {
    /// Returns the command, to be started in a sandbox.
    pub(super) async fn command(&self, sandbox: &Sandbox, live: &Live) -> Result<Command, Problem> {
        let user = match &self.user {
            Some(user) => Some(user.clone()),
            None => sandbox.command_user(&live.vm).await?,
        };
        self.command_of(&self.argv, &sandbox.record.env, user.as_deref())
    }

    /// Returns the command with another argv, with these variables below its own, as a user if one is named.
    pub(super) fn command_of(
        &self,
        argv: &[String],
        env: &BTreeMap<String, String>,
        user: Option<&str>,
    ) -> Result<Command, Problem> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(Problem::invalid("argv has at least the program"));
        };
        check_env(&self.env)?;
        let limit = self.max_output_bytes.unwrap_or(MAX_COLLECTED);
        let mut command = Command::new(program)
            .args(arguments)
            .envs(env)
            .envs(&self.env)
            .max_output(limit.min(MAX_COLLECTED));
        if let Some(user) = user {
            command = command.user(user);
        }
        if let Some(cwd) = &self.cwd {
            command = command.current_dir(absolute(cwd)?);
        }
        match self.timeout_ms {
            Some(0) => return Err(Problem::invalid("timeout_ms is at least 1")),
            Some(limit) => command = command.timeout(Duration::from_millis(limit)),
            None => {}
        }
        if let Some(tag) = &self.tag {
            command = command.tag(tag);
        }
        if self.stderr_to_stdout {
            command = command.stderr_to_stdout();
        }
        if let Some(size) = self.tty {
            command = command.pty(size.into());
        }
        Ok(
            match (self.input()?, self.open_stdin || self.tty.is_some()) {
                (Some(_), true) => {
                    return Err(Problem::invalid(
                        "stdin is given as a whole, or left open for more, but not both",
                    ));
                }
                (Some(input), false) => command.stdin(input),
                (None, true) => command.stdin_piped(),
                (None, false) => command,
            },
        )
    }

    fn input(&self) -> Result<Option<Vec<u8>>, Problem> {
        match (&self.stdin, &self.stdin_base64) {
            (Some(_), Some(_)) => Err(Problem::invalid("stdin is given twice")),
            (Some(text), None) => Ok(Some(text.clone().into_bytes())),
            (None, Some(text)) => match STANDARD.decode(text) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(_) => Err(Problem::invalid("stdin_base64 is not base64")),
            },
            (None, None) => Ok(None),
        }
    }

    /// Refuses what needs somebody who goes on listening.
    pub(super) fn check_buffered(&self) -> Result<(), Problem> {
        match self.tty.is_some() || self.open_stdin {
            true => Err(Problem::invalid(
                "a terminal and an open standard input need POST .../commands or a WebSocket",
            )),
            false => Ok(()),
        }
    }

    /// Returns what others are told of it.
    pub(super) fn described(&self) -> Described {
        let (program, arguments) = self.argv.split_first().unzip();
        Described {
            cmd: program.cloned().unwrap_or_default(),
            args: arguments.unwrap_or_default().to_vec(),
            envs: self.env.clone(),
            cwd: self.cwd.clone(),
            tag: self.tag.clone(),
            terminal: self.tty.is_some(),
        }
    }
}

/// Refuses a path that depends on where one stands.
pub(super) fn absolute(path: &str) -> Result<&str, Problem> {
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(path),
        false => Err(Problem::invalid(format!(
            "{path:?} is no absolute path of the guest"
        ))),
    }
}

/// Bytes as text. JSON has text only: if they are not UTF-8, the text has U+FFFD in place of invalid
/// bytes, and the bytes are added in base64.
pub(super) fn told(bytes: Vec<u8>) -> (String, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let bytes = error.as_bytes();
            let text = String::from_utf8_lossy(bytes).into_owned();
            (text, Some(STANDARD.encode(bytes)))
        }
    }
}

/// The end of a command.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct End {
    /// The code that it exited with.
    exit_code: Option<i32>,
    /// The signal that ended it (Linux number).
    signal: Option<i32>,
    /// Whether it was killed at its time limit.
    timed_out: bool,
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        Self {
            exit_code: status.code(),
            signal: status.signal(),
            timed_out: status == ExitStatus::TimedOut,
        }
    }
}

/// The end of a command with its output.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    #[serde(flatten)]
    end: End,
    /// Whether the guest ran out of memory and its kernel killed a process of the command for it.
    out_of_memory: bool,
    stdout: String,
    /// The same in base64, if it is not UTF-8.
    stdout_base64: Option<String>,
    stderr: String,
    /// The same in base64, if it is not UTF-8.
    stderr_base64: Option<String>,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let (stdout, stdout_base64) = told(output.stdout);
        let (stderr, stderr_base64) = told(output.stderr);
        Self {
            end: output.status.into(),
            out_of_memory: output.out_of_memory,
            stdout,
            stdout_base64,
            stderr,
            stderr_base64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_text_or_base64_and_not_both() {
        let of = |json: &str| serde_json::from_str::<Exec>(json).unwrap().input();
        assert_eq!(of(r#"{"argv":["a"]}"#).unwrap(), None);
        let text = of(r#"{"argv":["a"],"stdin":"x"}"#).unwrap();
        assert_eq!(text.as_deref(), Some(&b"x"[..]));
        let bytes = of(r#"{"argv":["a"],"stdin_base64":"/w=="}"#).unwrap();
        assert_eq!(bytes.as_deref(), Some(&b"\xff"[..]));
        assert!(of(r#"{"argv":["a"],"stdin":"x","stdin_base64":"/w=="}"#).is_err());
        assert!(of(r#"{"argv":["a"],"stdin_base64":"!"}"#).is_err());
    }

    #[test]
    fn what_needs_a_listener_is_not_buffered() {
        let of = |json: &str| serde_json::from_str::<Exec>(json).unwrap().check_buffered();
        assert!(of(r#"{"argv":["a"],"tty":{"columns":80,"rows":24}}"#).is_err());
        assert!(of(r#"{"argv":["a"],"open_stdin":true}"#).is_err());
        assert!(of(r#"{"argv":["a"]}"#).is_ok());
    }
}
