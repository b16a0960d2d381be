//! A command to run in a guest, and what came of it.

use std::fmt;
use std::time::Duration;

use ironclaw_protocol::message::Exec;
use serde::Serialize;

/// A command to run in a guest.
///
/// ```
/// use ironclaw_orchestrator::vm::Command;
/// let command = Command::new("sort").arg("-r").env("LC_ALL", "C").stdin("b\na\n");
/// # let _ = command;
/// ```
#[derive(Debug, Clone)]
pub struct Command {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    cwd: Option<String>,
    timeout: Option<Duration>,
    pub(super) stdin: Stdin,
}

/// Where a command's standard input comes from.
#[derive(Debug, Clone)]
pub(super) enum Stdin {
    Empty,
    Bytes(Vec<u8>),
    Piped,
}

impl Command {
    /// Runs `program`: a path in the guest, or a name that is looked up on the guest's `PATH`.
    #[must_use]
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            argv: vec![program.into()],
            env: Vec::new(),
            cwd: None,
            timeout: None,
            stdin: Stdin::Empty,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.argv.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable on top of the guest's own.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Runs it in this directory of the guest, an absolute path.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<String>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// Kills it, with all its processes, after this time.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Gives it these bytes on standard input, which is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Gives it a standard input to be written while it runs, with
    /// [`Running::take_stdin`](super::Running::take_stdin).
    #[must_use]
    pub fn stdin_piped(mut self) -> Self {
        self.stdin = Stdin::Piped;
        self
    }

    pub(super) fn time_limit(&self) -> Option<Duration> {
        self.timeout
    }

    pub(super) fn to_exec(&self) -> Exec {
        Exec {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            stdin: !matches!(self.stdin, Stdin::Empty),
            // Rounded up, so that a short limit is never none.
            timeout_ms: self.timeout.map(|limit| {
                u64::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
            }),
        }
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Command {
    fn from(argv: [S; N]) -> Self {
        argv.into_iter()
            .map(Into::into)
            .collect::<Vec<String>>()
            .into()
    }
}

impl From<Vec<String>> for Command {
    fn from(argv: Vec<String>) -> Self {
        Self {
            argv,
            ..Self::new(String::new())
        }
    }
}

impl From<&[String]> for Command {
    fn from(argv: &[String]) -> Self {
        argv.to_vec().into()
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(u8),
    /// By this signal (Linux number).
    Signal(i32),
    /// It was killed because its time was over.
    TimedOut,
}

impl ExitStatus {
    /// Whether the code is 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}
