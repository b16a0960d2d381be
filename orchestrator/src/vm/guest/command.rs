//! Commands for a guest, and their results.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use ironclaw_protocol::message::{Exec, ExecId, Stderr};
use ironclaw_protocol::os_bytes::OsBytes;
use serde::Serialize;

/// A command to run in a guest.
///
/// Its arguments, variables and directory are bytes, as everywhere on Linux. Linux's limits apply:
/// 128 KiB each, and 2 MiB in all.
///
/// ```
/// use ironclaw_orchestrator::vm::Command;
/// let command = Command::new("sort").arg("-r").env("LC_ALL", "C").stdin("b\na\n");
/// # let _ = command;
/// ```
#[derive(Debug, Clone)]
pub struct Command {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
    stderr: Stderr,
    timeout: Option<Duration>,
    keep: bool,
    pub(super) stdin: Stdin,
}

/// The source of a command's standard input.
#[derive(Debug, Clone)]
pub(super) enum Stdin {
    Empty,
    Bytes(Vec<u8>),
    Piped,
}

impl Command {
    /// Runs `program`: a path in the guest, or a name that is looked up on the guest's `PATH`.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            argv: vec![program.into()],
            env: Vec::new(),
            cwd: None,
            stderr: Stderr::Apart,
            timeout: None,
            keep: false,
            stdin: Stdin::Empty,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.argv.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable in addition to the guest's own.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Runs it in this directory of the guest, an absolute path.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// Uses one pipe for standard output and standard error, like `2>&1`: all output comes as
    /// standard output, in the order in which it was written.
    #[must_use]
    pub fn stderr_to_stdout(mut self) -> Self {
        self.stderr = Stderr::ToStdout;
        self
    }

    /// Kills it after this time, with all its descendants.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the content of standard input, which is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Pipes standard input, to be written while the command runs, with
    /// [`Running::take_stdin`](super::Running::take_stdin).
    #[must_use]
    pub fn stdin_piped(mut self) -> Self {
        self.stdin = Stdin::Piped;
        self
    }

    /// Lets it continue without a listener: when its [`Running`](super::Running) is dropped, and
    /// when the connection to the guest is lost for long. The guest keeps the last 64 KiB of each
    /// output stream meanwhile. [`Guest::list`](super::Guest::list) and
    /// [`Guest::attach`](super::Guest::attach) find it again. It ends by itself, by its [time
    /// limit](Self::timeout), or by [`Guest::kill`](super::Guest::kill).
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    pub(super) fn is_kept(&self) -> bool {
        self.keep
    }

    pub(super) fn time_limit(&self) -> Option<Duration> {
        self.timeout
    }

    pub(super) fn to_exec(&self, id: ExecId) -> Exec {
        Exec {
            id,
            keep: self.keep,
            argv: self.argv.iter().map(bytes).collect(),
            env: self
                .env
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
            cwd: self.cwd.as_deref().map(bytes),
            stderr: self.stderr,
            stdin: !matches!(self.stdin, Stdin::Empty),
            // Rounded up, so that a short limit never becomes none.
            timeout_ms: self.timeout.map(|limit| {
                u64::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
            }),
        }
    }
}

/// Converts a string of the operating system for the protocol.
pub(super) fn bytes(text: impl AsRef<OsStr>) -> OsBytes {
    text.as_ref().as_bytes().into()
}

impl<S: Into<OsString>, const N: usize> From<[S; N]> for Command {
    fn from(argv: [S; N]) -> Self {
        argv.into_iter()
            .map(Into::into)
            .collect::<Vec<OsString>>()
            .into()
    }
}

impl<S: Into<OsString>> From<Vec<S>> for Command {
    fn from(argv: Vec<S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            ..Self::new(OsString::new())
        }
    }
}

impl<S: Clone + Into<OsString>> From<&[S]> for Command {
    fn from(argv: &[S]) -> Self {
        argv.to_vec().into()
    }
}

/// The end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// It was terminated by this signal (Linux number).
    Signal(i32),
    /// It reached its time limit and was killed.
    TimedOut,
}

impl ExitStatus {
    /// Returns whether the code is 0.
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

/// The output and the end of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The end.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Whether the guest ran out of memory and its kernel killed a process of the command for it.
    /// The command may have survived that.
    pub out_of_memory: bool,
}
