//! The messages, which postcard encodes into the payloads of frames.
//!
//! Variants are identified by their position: new ones are added at the end, and any other change
//! raises [`VERSION`](crate::VERSION).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

pub use crate::bounds::OutOfBounds;
use crate::bounds::{check, check_mode, check_path, check_user};
use crate::file::{FileInfo, FileRequest, check_attributes};
use crate::limits::{
    ARGUMENT_OVERHEAD, MAX_ARGUMENT, MAX_ARGUMENTS, MAX_CHUNK, MAX_HOSTNAME, MAX_LISTED,
    MAX_PROGRAM, MAX_SIGNAL, MAX_TAG, MAX_TEXT, OUTPUT_WINDOW, TAKEN_PORTION, WINDOW,
};
use crate::os_bytes::OsBytes;

/// The id of a request, chosen by the host, unique among the open ones of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u32);

/// The id of a command, which the host chooses at random when it starts it. It identifies the
/// command in all sessions of the guest's life; a host that lost its session before an answer finds
/// out by it whether the guest got the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExecId(pub u64);

/// A message from the host.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// The first frame of a session.
    Hello {
        /// The host's [`VERSION`](crate::VERSION).
        version: u16,
        /// A number that the guest repeats, so that the host can tell this session's answer from
        /// leftovers of an older one.
        session: u64,
    },
    /// Opens a request.
    Request {
        /// The id of the request.
        id: RequestId,
        /// The request.
        request: Request,
    },
    /// Sends content for a request: standard input, or a file's bytes. Uses the guest's credit.
    Data {
        /// The request.
        id: RequestId,
        /// 1 to [`MAX_CHUNK`] bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Ends the content of a request.
    Eof {
        /// The request.
        id: RequestId,
    },
    /// Reports that the host took a stream of a request's output up to `offset`: the guest need not
    /// keep that any longer, and may send a window beyond it.
    Taken {
        /// The request.
        id: RequestId,
        /// The stream.
        stream: Stream,
        /// The offset in bytes.
        offset: u64,
    },
    /// Signals the process group of a running `Exec`.
    Signal {
        /// The request.
        id: RequestId,
        /// The Linux signal number, 1 to [`MAX_SIGNAL`].
        signal: i32,
    },
    /// Cancels a request: all its processes are killed, its unfinished file is removed. The guest
    /// still answers `Done`.
    Cancel {
        /// The request.
        id: RequestId,
    },
    /// Asks to be told when a command waits for its standard input.
    AwaitReader {
        /// The request.
        id: RequestId,
    },
    /// Detaches from a command, which continues. The guest answers `Done` with
    /// [`Outcome::Detached`].
    Detach {
        /// The request.
        id: RequestId,
    },
    /// Reports that the host has the end of a command, which the guest can forget.
    Acknowledge {
        /// The command.
        exec: ExecId,
    },
    /// Gives the terminal of a command another size.
    Resize {
        /// The request.
        id: RequestId,
        /// The size.
        size: TerminalSize,
    },
}

/// A message from the guest.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// Answers the host's `Hello`.
    Hello {
        /// The agent's [`VERSION`](crate::VERSION).
        version: u16,
        /// The number from the host's `Hello`.
        session: u64,
        /// The agent's name and release, for people.
        agent: String,
    },
    /// Sends output of a request. Uses the host's credit.
    Data {
        /// The request.
        id: RequestId,
        /// The stream.
        stream: Stream,
        /// 1 to [`MAX_CHUNK`] bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Grants credit after the guest took that many bytes of a request's content.
    Credit {
        /// The request.
        id: RequestId,
        /// The bytes that the host may send in addition, 1 to [`WINDOW`].
        bytes: u32,
    },
    /// Ends a request; its id may be reused.
    Done {
        /// The request.
        id: RequestId,
        /// The outcome.
        outcome: Outcome,
    },
    /// Reports a protocol violation of the host; the session is over.
    Fault {
        /// The violation, for people.
        reason: String,
    },
    /// Reports that the guest ran out of memory, and its kernel killed a process of this `Exec`.
    /// Comes before `Done`.
    OutOfMemory {
        /// The request.
        id: RequestId,
    },
    /// Answers `AwaitReader` when a command waits for its standard input and has read everything
    /// that was sent; never, if the request ends before.
    ReaderWaits {
        /// The request.
        id: RequestId,
    },
    /// Answers an `Attach`, before any output.
    Attached {
        /// The request.
        id: RequestId,
        /// The offset from which the guest has the command's standard output.
        stdout: u64,
        /// The offset from which the guest has the command's standard error.
        stderr: u64,
        /// The state of its standard input, if it has one that is open.
        stdin: Option<StdinAt>,
        /// Whether it continues when its session is lost.
        keep: bool,
    },
    /// A `Connect` is connected, or a `Watch` watches: before any content.
    Opened {
        /// The request.
        id: RequestId,
    },
    /// Ends the content of a request whose host may still send some: the program at the other end of
    /// a `Connect` writes no more.
    Eof {
        /// The request.
        id: RequestId,
    },
}

/// The state of a command's standard input, as offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdinAt {
    /// The end of what the guest has received.
    pub received: u64,
    /// The end of what the command has taken.
    pub taken: u64,
}

/// A stream of a request's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output of a command.
    Stdout,
    /// Standard error of a command.
    Stderr,
    /// The content of a file, or whatever else a request brings that is no command.
    File,
}

/// A request of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Asks for an answer.
    Ping,
    /// Gives a clone of a snapshot its own identity.
    SetIdentity(SetIdentity),
    /// Runs a command.
    Exec(Exec),
    /// Writes a file; its bytes follow as `Data` and `Eof`. The file gets its name only when
    /// complete.
    PutFile(PutFile),
    /// Reads a regular file.
    GetFile(GetFile),
    /// Powers off.
    Shutdown,
    /// Lists the commands that the guest knows.
    List,
    /// Attaches to a command started by another session, or by this one before it was lost. An
    /// earlier listener gets [`Outcome::Detached`].
    Attach(Attach),
    /// Signals the process group of a command, whoever listens to it.
    Signal {
        /// The command.
        exec: ExecId,
        /// The Linux signal number, 1 to [`MAX_SIGNAL`].
        signal: i32,
    },
    /// Kills a command with all its descendants, whoever listens to it.
    Kill {
        /// The command.
        exec: ExecId,
    },
    /// Looks at files, or changes them.
    File(FileRequest),
    /// Gives the terminal of a command another size, whoever listens to it.
    Resize {
        /// The command.
        exec: ExecId,
        /// The size.
        size: TerminalSize,
    },
    /// Connects to a TCP port of the guest's own loopback address. [`ToHost::Opened`] says that it is
    /// connected; then bytes go both ways as `Data`, each way until its `Eof`.
    Connect {
        /// The port, 1 to 65535.
        port: u16,
    },
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

/// The properties that differ between clones: see "A clone is not a copy" in the guide.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetIdentity {
    /// Fresh bytes of the host's random generator, credited in full.
    pub entropy: [u8; crate::limits::ENTROPY],
    /// The time at which the host sent this.
    pub unix_time: UnixTime,
    /// The clone's new identity.
    pub identity: Identity,
}

/// A time since 1970-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnixTime {
    /// Whole seconds.
    pub seconds: u64,
    /// Nanoseconds of the current second, below 1,000,000,000.
    pub nanos: u32,
}

/// The names of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The content of `/etc/machine-id`.
    pub machine_id: [u8; 16],
    /// The content of `/proc/sys/kernel/random/boot_id`.
    pub boot_id: [u8; 16],
    /// The host name, at most [`MAX_HOSTNAME`] bytes.
    pub hostname: String,
}

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
    /// all [`Stream::Stdout`]; its input, if it has any, is what is typed.
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
    /// A pipe of its own: sent as [`Stream::Stderr`].
    #[default]
    Apart,
    /// The pipe of standard output, which preserves the order of writes to both.
    ToStdout,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutFile {
    /// The absolute path in the guest.
    pub path: OsBytes,
    /// The permission bits; a file that is overwritten keeps its own.
    pub mode: u32,
    /// What to do with an existing file.
    pub existing: Existing,
    /// The user whose permissions count and whose file it is, as for [`Exec::user`].
    pub user: Option<OsBytes>,
    /// Whether to make the directories that are missing.
    pub parents: bool,
}

/// What to do with an existing file of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Existing {
    /// Replace it by the new file when that is complete.
    #[default]
    Replaced,
    /// Overwrite its content: it keeps its owner, mode and other names.
    Overwritten,
    /// Write into it from this offset on, and keep the rest of it.
    WrittenAt(u64),
    /// Write behind its end.
    Appended,
}

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetFile {
    /// The absolute path in the guest.
    pub path: OsBytes,
    /// The offset to begin at.
    pub from: u64,
    /// The number of bytes to read at most, if not up to its end.
    pub length: Option<u64>,
    /// The user whose permissions count, as for [`Exec::user`].
    pub user: Option<OsBytes>,
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Answers `Ping`.
    Pong,
    /// Entropy, clock and identity are in force.
    IdentitySet,
    /// The command exited with this status.
    Exited(u8),
    /// The command was terminated by this signal.
    Signaled(i32),
    /// The command reached its time limit and was killed.
    TimedOut,
    /// The file is written.
    FileWritten {
        /// The size of the file.
        bytes: u64,
    },
    /// The file was sent completely.
    FileRead {
        /// The permission bits of the file.
        mode: u32,
        /// The size of the file.
        bytes: u64,
    },
    /// The guest powers off.
    ShuttingDown,
    /// The request failed.
    Failed(Failure),
    /// The commands that the guest knows, in the order of their start.
    Commands(Vec<CommandInfo>),
    /// The signal was sent; the command may have ended before.
    Delivered,
    /// The request is detached; the command continues.
    Detached,
    /// A file's properties.
    FileInfo(Box<FileInfo>),
    /// The files were listed, as [records](crate::records) in the content.
    Listed {
        /// The number of files.
        files: u64,
        /// The number of directories that could not be read.
        unread: u64,
    },
    /// The change is made.
    Changed {
        /// The number of files that were made or removed.
        files: u64,
    },
    /// A file's extended attributes, by name.
    Attributes(Vec<(OsBytes, OsBytes)>),
    /// The archive was sent completely.
    Archived {
        /// The number of entries.
        files: u64,
        /// The number of files that it does not have: they can't be read, or no archive holds them.
        omitted: u64,
    },
    /// The connection is closed in both directions.
    Disconnected,
    /// What was watched is gone.
    Unwatched,
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

/// The reason why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind, for programs.
    pub kind: FailureKind,
    /// The attempt and its object, for people. At most [`MAX_TEXT`] bytes.
    pub message: String,
}

/// The kinds of failure that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// The program of an `Exec`, or the file of a `GetFile`, does not exist.
    NotFound,
    /// The working directory of an `Exec`, or the directory of a `PutFile`, does not exist.
    NoSuchDirectory,
    /// The guest's kernel denied access.
    PermissionDenied,
    /// The agent does not support it: an empty argv, a relative path, a directory to read.
    Invalid,
    /// The guest has no space left.
    NoSpace,
    /// The guest has reached its limit of requests or processes.
    TooMany,
    /// The host cancelled it.
    Cancelled,
    /// Any other error of the guest's kernel.
    Io,
    /// The command of an `Attach` has ended and was forgotten, because nobody asked for its end.
    Forgotten,
    /// The guest has no such user or group.
    NoSuchUser,
    /// This guest can't do it.
    Unsupported,
    /// There is something of that name.
    Exists,
    /// The directory is not empty.
    NotEmpty,
    /// Nothing listens on the port.
    Refused,
}

/// An empty chunk uses no credit, so it could be sent without end.
fn check_chunk(bytes: &[u8]) -> Result<(), OutOfBounds> {
    check(!bytes.is_empty(), "an empty chunk")?;
    check(bytes.len() <= MAX_CHUNK, "a chunk is too long")
}

fn check_credit(bytes: u32) -> Result<(), OutOfBounds> {
    check(
        (1..=WINDOW).contains(&bytes),
        "a credit of nothing, or of more than the window",
    )
}

fn check_signal(signal: i32) -> Result<(), OutOfBounds> {
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

impl ToGuest {
    /// Checks that the message is within [`limits`](crate::limits). The host calls it before it
    /// sends, the guest after it received.
    ///
    /// # Errors
    /// The part that is not.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        match self {
            Self::Data { bytes, .. } => check_chunk(bytes),
            Self::Request { request, .. } => request.validate(),
            Self::Signal { signal, .. } => check_signal(*signal),
            _ => Ok(()),
        }
    }
}

impl Request {
    /// Checks the request; see [`ToGuest::validate`].
    ///
    /// # Errors
    /// The part that is beyond the limits.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        match self {
            Self::Ping
            | Self::Shutdown
            | Self::List
            | Self::Attach(_)
            | Self::Kill { .. }
            | Self::Resize { .. } => Ok(()),
            Self::Connect { port } => check(*port != 0, "no program listens on port 0"),
            Self::Signal { signal, .. } => check_signal(*signal),
            Self::SetIdentity(new) => {
                let name = &new.identity.hostname;
                check(
                    new.unix_time.nanos < 1_000_000_000,
                    "nanoseconds of a full second",
                )?;
                check(!name.is_empty(), "an empty host name")?;
                check(name.len() <= MAX_HOSTNAME, "a host name is too long")?;
                check(
                    name.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.'),
                    "a host name holds other than letters, digits, '-' and '.'",
                )
            }
            Self::Exec(exec) => {
                check_arguments(exec)?;
                check_tag(&exec.tag)?;
                exec.user.as_ref().map_or(Ok(()), check_user)?;
                exec.cwd.as_ref().map_or(Ok(()), check_path)
            }
            Self::PutFile(put) => {
                check_mode(put.mode)?;
                put.user.as_ref().map_or(Ok(()), check_user)?;
                check_path(&put.path)
            }
            Self::GetFile(get) => {
                get.user.as_ref().map_or(Ok(()), check_user)?;
                check_path(&get.path)
            }
            Self::File(request) => request.validate(),
        }
    }
}

impl CommandInfo {
    fn validate(&self) -> Result<(), OutOfBounds> {
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

impl CommandEnd {
    /// Converts it to the outcome of a request.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Exited(code) => Outcome::Exited(code),
            Self::Signaled(signal) => Outcome::Signaled(signal),
            Self::TimedOut => Outcome::TimedOut,
            Self::Cancelled => Outcome::Failed(Failure {
                kind: FailureKind::Cancelled,
                message: "the host cancelled the command".into(),
            }),
        }
    }
}

impl Stream {
    /// Returns the bytes that a sender may have under way beyond what the host took.
    #[must_use]
    pub fn window(self) -> u32 {
        match self {
            Self::Stdout | Self::Stderr => OUTPUT_WINDOW,
            Self::File => WINDOW,
        }
    }

    /// Bytes of it after which a receiver says that it took them, to save frames.
    #[must_use]
    pub fn portion(self) -> u32 {
        match self {
            Self::Stdout | Self::Stderr => TAKEN_PORTION,
            Self::File => WINDOW / 4,
        }
    }
}

impl ToHost {
    /// Checks that the message is within [`limits`](crate::limits): a guest is hostile, so the host
    /// calls it before it uses anything.
    ///
    /// # Errors
    /// The part that is not.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        match self {
            Self::Hello { agent, .. } => {
                check(agent.len() <= MAX_TEXT, "an agent's name is too long")
            }
            Self::Data { bytes, .. } => check_chunk(bytes),
            Self::Credit { bytes, .. } => check_credit(*bytes),
            Self::Done {
                outcome: Outcome::Failed(failure),
                ..
            } => check(
                failure.message.len() <= MAX_TEXT,
                "a failure's text is too long",
            ),
            Self::Done {
                outcome: Outcome::Commands(commands),
                ..
            } => {
                check(commands.len() <= MAX_LISTED, "a list of too many commands")?;
                commands.iter().try_for_each(CommandInfo::validate)
            }
            Self::Done {
                outcome: Outcome::FileInfo(info),
                ..
            } => info.validate(),
            Self::Done {
                outcome: Outcome::Attributes(attributes),
                ..
            } => check_attributes(attributes),
            Self::Fault { reason } => check(reason.len() <= MAX_TEXT, "a fault's text is too long"),
            Self::Attached { stdin, .. } => stdin.map_or(Ok(()), |at| {
                check(
                    at.received
                        .checked_sub(at.taken)
                        .is_some_and(|kept| kept <= WINDOW.into()),
                    "a standard input that is more than a window behind",
                )
            }),
            Self::Done { .. }
            | Self::OutOfMemory { .. }
            | Self::ReaderWaits { .. }
            | Self::Opened { .. }
            | Self::Eof { .. } => Ok(()),
        }
    }
}

/// Cuts `text` to the longest prefix of at most [`MAX_TEXT`] bytes.
#[must_use]
pub fn bounded_text(mut text: String) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
