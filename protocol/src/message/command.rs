//! Messages about commands.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::bounds::{OutOfBounds, check, check_path, check_user};
use crate::limits::{
    ARGUMENT_OVERHEAD, MAX_ARGUMENT, MAX_ARGUMENTS, MAX_PROGRAM, MAX_SIGNAL, MAX_TAG,
};
use crate::os_bytes::OsBytes;

/// The id of a command, which the host chooses at random when it starts it. It identifies the
/// command in all sessions of the guest's life; a host that lost its session before an answer finds
/// out by it whether the guest got the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExecId(pub u64);

/// A command.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The command's id in all sessions.
    pub id: ExecId,
    /// The program's name and arguments, as it gets them.
    pub argv: Vec<OsBytes>,
    /// The program to run, if not the one that is the first of `argv`. One without a slash is looked
    /// up on `PATH`.
    pub program: Option<OsBytes>,
    /// Variables in addition to those that are inherited.
    pub env: Vec<(OsBytes, OsBytes)>,
    /// The variables of the guest's own environment, and of a login, that it gets.
    pub inherited: Inherited,
    /// The working directory, if not the agent's default.
    pub cwd: Option<OsBytes>,
    /// Whether standard input follows as `Data`; otherwise it is empty.
    pub stdin: bool,
    /// The destination of standard error.
    pub stderr: Stderr,
    /// Milliseconds after which all processes of the command are killed.
    pub timeout_ms: Option<u64>,
    /// Whether it continues without a session until the guest's end, and not just for some time
    /// ([`UNATTENDED_TICKS`](crate::limits::UNATTENDED_TICKS)).
    pub keep: bool,
    /// The user to run as: a name in the guest's `/etc/passwd`, or a uid, either with `:` and a
    /// group's name or gid. Otherwise the agent's own.
    pub user: Option<OsBytes>,
    /// A text of the host's, at most [`MAX_TAG`] bytes, to find the command by in a list.
    pub tag: OsBytes,
    /// The size of the terminal that the command runs on, in a session of its own. Its output is
    /// all [`Stream::Stdout`](super::Stream::Stdout); its input, if it has any, is what is typed.
    pub terminal: Option<TerminalSize>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// The number of lines.
    pub rows: u16,
    /// The number of characters in a line.
    pub columns: u16,
}

/// The variables that a command gets without naming them.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Inherited {
    /// All that there are.
    #[default]
    All,
    /// All but those of these names.
    Except(Vec<OsBytes>),
    /// None.
    Nothing,
}

/// The destination of a command's standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Stderr {
    /// A pipe of its own: sent as [`Stream::Stderr`](super::Stream::Stderr).
    #[default]
    Apart,
    /// The pipe of standard output, which preserves the order of writes to both.
    ToStdout,
}

/// The command to attach to, and the offsets to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The command.
    pub exec: ExecId,
    /// The offset in standard output that the host has. The guest begins there, or with the oldest
    /// output that it has.
    pub stdout: u64,
    /// The offset in standard error that the host has.
    pub stderr: u64,
}

/// The state of a command's standard input, as offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdinAt {
    /// The end of what the guest has received.
    pub received: u64,
    /// The end of what the command has taken.
    pub taken: u64,
}

/// A command in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandInfo {
    /// The id of the command.
    pub exec: ExecId,
    /// The PID of its main process in the guest; 0 if it is no process.
    pub pid: u32,
    /// The first [`MAX_PROGRAM`] bytes of its program's name.
    pub program: OsBytes,
    /// The host's text for it.
    pub tag: OsBytes,
    /// Whether it continues when its session is lost.
    pub keep: bool,
    /// Whether a session listens to it.
    pub attached: bool,
    /// The end of the command, if it has ended.
    pub end: Option<CommandEnd>,
    /// The part of its standard output that the guest has.
    pub stdout: Kept,
    /// The part of its standard error that the guest has.
    pub stderr: Kept,
}

/// The end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandEnd {
    /// It exited with this status.
    Exited(u8),
    /// It was terminated by this signal.
    Signaled(i32),
    /// It reached its time limit and was killed.
    TimedOut,
    /// The host cancelled it.
    Cancelled,
}

/// The part of a stream that the guest has, as offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The oldest byte that it has.
    pub from: u64,
    /// The end of what was written.
    pub to: u64,
}

pub(super) fn check_signal(signal: i32) -> Result<(), OutOfBounds> {
    check(
        (1..=MAX_SIGNAL).contains(&signal),
        "a signal is a number from 1 to 31",
    )
}

fn check_tag(tag: &OsBytes) -> Result<(), OutOfBounds> {
    check(
        tag.as_bytes().len() <= MAX_TAG,
        "a command's tag is longer than 128 bytes",
    )
}

/// Checked here, because the guest's kernel would only report "too long".
fn check_arguments(exec: &Exec) -> Result<(), OutOfBounds> {
    let is_named = exec
        .program()
        .is_some_and(|name| !name.as_bytes().is_empty());
    check(is_named && !exec.argv.is_empty(), "no program to run")?;
    let removed = exec.inherited.removed();
    let texts = exec.argv.iter().chain(&exec.program).chain(removed);
    let arguments = texts.map(|argument| argument.as_bytes().len());
    let variables = exec
        .env
        .iter()
        .map(|(name, value)| name.as_bytes().len() + 1 + value.as_bytes().len());
    let mut total = 0_usize;
    for length in arguments.chain(variables) {
        check(
            length <= MAX_ARGUMENT,
            "an argument or environment variable is longer than 131071 bytes, which is the most \
             that Linux takes",
        )?;
        total = total.saturating_add(length + ARGUMENT_OVERHEAD);
    }
    check(
        total <= MAX_ARGUMENTS,
        "the arguments and the environment take more than 2 MiB, which is the most that Linux \
         takes (each counts with its bytes and 9 more)",
    )?;
    let mut strings = exec
        .argv
        .iter()
        .chain(&exec.program)
        .chain(removed)
        .chain(exec.env.iter().flat_map(|(name, value)| [name, value]));
    check(
        strings.all(|text| !text.as_bytes().contains(&0)),
        "an argument or environment variable holds a NUL byte",
    )?;
    let set = exec.env.iter().map(|(name, _)| name);
    check(
        set.chain(removed)
            .all(|name| !name.as_bytes().is_empty() && !name.as_bytes().contains(&b'=')),
        "the name of an environment variable is empty or holds '='",
    )
}

impl Exec {
    /// Returns the name of the program to run, if there is one.
    #[must_use]
    pub fn program(&self) -> Option<&OsBytes> {
        self.program.as_ref().or(self.argv.first())
    }

    pub(super) fn validate(&self) -> Result<(), OutOfBounds> {
        check_arguments(self)?;
        check_tag(&self.tag)?;
        self.user.as_ref().map_or(Ok(()), check_user)?;
        self.cwd.as_ref().map_or(Ok(()), check_path)
    }
}

impl Inherited {
    /// Returns the names of the variables that are left out, unless all are.
    #[must_use]
    pub fn removed(&self) -> &[OsBytes] {
        match self {
            Self::Except(names) => names,
            Self::All | Self::Nothing => &[],
        }
    }
}

impl CommandInfo {
    pub(super) fn validate(&self) -> Result<(), OutOfBounds> {
        check(
            self.program.as_bytes().len() <= MAX_PROGRAM,
            "a program's name is too long",
        )?;
        check_tag(&self.tag)?;
        let ordered = |kept: &Kept| kept.from <= kept.to;
        check(
            ordered(&self.stdout) && ordered(&self.stderr),
            "a stream that ends before it begins",
        )
    }
}
