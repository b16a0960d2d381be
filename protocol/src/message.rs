//! The messages, as they are written by postcard into the payload of a frame.
//!
//! Variants are told apart by their position: new ones go to the end, and any other change
//! raises [`VERSION`](crate::VERSION).

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::limits::{
    ARGUMENT_OVERHEAD, MAX_ARGUMENT, MAX_ARGUMENTS, MAX_CHUNK, MAX_HOSTNAME, MAX_LISTED, MAX_PATH,
    MAX_PROGRAM, MAX_SIGNAL, MAX_TEXT, OUTPUT_WINDOW, WINDOW,
};
use crate::os_bytes::OsBytes;

/// Number of a request, chosen by the host, unique among the open ones of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u32);

/// Number of a command, which the host draws by chance when it starts it: it names the command in any
/// session of the guest's life, and a host that lost its session before an answer finds out by it
/// whether the guest got the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExecId(pub u64);

/// What the host sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// First frame of a session.
    Hello {
        /// The host's [`VERSION`](crate::VERSION).
        version: u16,
        /// A number that the guest repeats, so that the host can tell this session's answer from
        /// what an older one left on the line.
        session: u64,
    },
    /// Opens a request.
    Request {
        /// Its number.
        id: RequestId,
        /// What is asked for.
        request: Request,
    },
    /// Content for a request: standard input, or a file's bytes. Uses up the guest's credit.
    Data {
        /// The request.
        id: RequestId,
        /// 1 to [`MAX_CHUNK`] bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// No more content for this request.
    Eof {
        /// The request.
        id: RequestId,
    },
    /// The host took a stream of a request's output up to there: the guest need not keep it any
    /// longer, and may send as much as the stream's window beyond.
    Taken {
        /// The request.
        id: RequestId,
        /// Which output.
        stream: Stream,
        /// Bytes since its start.
        offset: u64,
    },
    /// A signal for the process group of a running `Exec`.
    Signal {
        /// The request.
        id: RequestId,
        /// Linux signal number, 1 to [`MAX_SIGNAL`].
        signal: i32,
    },
    /// The host wants no more of this request: all its processes are killed, its half-written
    /// file removed. The guest still answers `Done`.
    Cancel {
        /// The request.
        id: RequestId,
    },
    /// The host wants to know when a command waits for its standard input.
    AwaitReader {
        /// The request.
        id: RequestId,
    },
    /// The host listens no more to a command, which goes on. The guest answers `Done` with
    /// [`Outcome::Detached`].
    Detach {
        /// The request.
        id: RequestId,
    },
    /// The host has the end of a command, which the guest can forget.
    Acknowledge {
        /// The command.
        exec: ExecId,
    },
}

/// What the guest sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// Answer to the host's `Hello`.
    Hello {
        /// The agent's [`VERSION`](crate::VERSION).
        version: u16,
        /// The number from the host's `Hello`.
        session: u64,
        /// The agent's name and release, for people.
        agent: String,
    },
    /// Output of a request. Uses up the host's credit.
    Data {
        /// The request.
        id: RequestId,
        /// Where it comes from.
        stream: Stream,
        /// 1 to [`MAX_CHUNK`] bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// The guest took that many bytes of a request's content.
    Credit {
        /// The request.
        id: RequestId,
        /// How many more bytes the host may send, 1 to [`WINDOW`].
        bytes: u32,
    },
    /// The end of a request; its number may be used again.
    Done {
        /// The request.
        id: RequestId,
        /// How it ended.
        outcome: Outcome,
    },
    /// The host broke the protocol; the session is over.
    Fault {
        /// In which way, for people.
        reason: String,
    },
    /// The guest ran out of memory, and its kernel killed a process of this `Exec`. Comes before
    /// `Done`.
    OutOfMemory {
        /// The request.
        id: RequestId,
    },
    /// A command waits for its standard input and has read all that was sent: the answer to
    /// `AwaitReader`, when it is so; none comes if the request ends before.
    ReaderWaits {
        /// The request.
        id: RequestId,
    },
    /// Comes first of what answers an `Attach`.
    Attached {
        /// The request.
        id: RequestId,
        /// From where the guest has the command's output.
        stdout: u64,
        /// The same of standard error.
        stderr: u64,
        /// How far its standard input is, if it has one that was not closed.
        stdin: Option<StdinAt>,
        /// Whether it goes on when its session is lost.
        keep: bool,
    },
}

/// How far a command's standard input is, in bytes since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdinAt {
    /// What the guest has received.
    pub received: u64,
    /// What of that the command has taken.
    pub taken: u64,
}

/// Origin of a request's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output of a command.
    Stdout,
    /// Standard error of a command.
    Stderr,
    /// Content of a file.
    File,
}

/// What a host can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Nothing but an answer.
    Ping,
    /// The guest is a clone of a snapshot and has to become itself.
    Restored(Restored),
    /// Run a command.
    Exec(Exec),
    /// Write a file; its bytes follow as `Data` and `Eof`. It takes its name only when complete.
    PutFile(PutFile),
    /// Read a regular file.
    GetFile(GetFile),
    /// Power off.
    Shutdown,
    /// Which commands the guest knows.
    List,
    /// Listen to a command that another session started, or this one before it was lost. Who listened
    /// to it is told [`Outcome::Detached`].
    Attach(Attach),
    /// A signal for the process group of a command, whoever listens to it.
    Signal {
        /// The command.
        exec: ExecId,
        /// Linux signal number, 1 to [`MAX_SIGNAL`].
        signal: i32,
    },
    /// The end of a command, with all that descends from it, whoever listens to it.
    Kill {
        /// The command.
        exec: ExecId,
    },
}

/// Which command to listen to, and from where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The command.
    pub exec: ExecId,
    /// How much of its standard output the host has. The guest begins there, or with the oldest that it
    /// has.
    pub stdout: u64,
    /// The same of standard error.
    pub stderr: u64,
}

/// What makes a clone different from its siblings: see "A clone is not a copy" in the guide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Fresh bytes of the host's random generator, credited in full.
    pub entropy: [u8; crate::limits::ENTROPY],
    /// The time at which the host sent this.
    pub unix_time: UnixTime,
    /// Who the clone is from now on.
    pub identity: Identity,
}

/// Time since 1970-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnixTime {
    /// Whole seconds.
    pub seconds: u64,
    /// Nanoseconds of the second that has begun, below 1,000,000,000.
    pub nanos: u32,
}

/// The names by which a guest and the programs in it know themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// For `/etc/machine-id`.
    pub machine_id: [u8; 16],
    /// For `/proc/sys/kernel/random/boot_id`.
    pub boot_id: [u8; 16],
    /// Host name, at most [`MAX_HOSTNAME`] bytes.
    pub hostname: String,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The command's number in all sessions.
    pub id: ExecId,
    /// Program and arguments. A program without a slash is looked up on `PATH`.
    pub argv: Vec<OsBytes>,
    /// Set on top of the agent's own environment.
    pub env: Vec<(OsBytes, OsBytes)>,
    /// Working directory; the agent's default when absent.
    pub cwd: Option<OsBytes>,
    /// Whether standard input follows as `Data`; otherwise it is empty.
    pub stdin: bool,
    /// Where standard error goes.
    pub stderr: Stderr,
    /// Milliseconds after which all processes of the command are killed.
    pub timeout_ms: Option<u64>,
    /// Whether it goes on without a session for as long as the guest lives, and not just for some time
    /// ([`UNATTENDED_TICKS`](crate::limits::UNATTENDED_TICKS)).
    pub keep: bool,
}

/// Where a command's standard error goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Stderr {
    /// Into a pipe of its own: it comes as [`Stream::Stderr`].
    #[default]
    Apart,
    /// Into the pipe of standard output, so that both come in the order in which they were written.
    ToStdout,
}

/// Where to write a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutFile {
    /// Absolute path in the guest; its directory must exist.
    pub path: OsBytes,
    /// Permission bits; of a file that is overwritten, they stay as they are.
    pub mode: u32,
    /// What becomes of a file that is there.
    pub existing: Existing,
}

/// What becomes of a file that is there already when another of its name is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Existing {
    /// The new file takes its name when it is complete.
    #[default]
    Replaced,
    /// It stays the same file, with its owner, mode and other names, and gets the new content.
    Overwritten,
}

/// Which file to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetFile {
    /// Absolute path in the guest.
    pub path: OsBytes,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// `Ping` arrived.
    Pong,
    /// Entropy, clock and identity are in force.
    Restored,
    /// The command ended by itself, with this status.
    Exited(u8),
    /// The command was ended by this signal.
    Signaled(i32),
    /// The command was killed because its time was over.
    TimedOut,
    /// The file is written.
    FileWritten {
        /// Its size.
        bytes: u64,
    },
    /// The file was sent in full.
    FileRead {
        /// Its permission bits.
        mode: u32,
        /// Its size.
        bytes: u64,
    },
    /// The guest powers off.
    ShuttingDown,
    /// It could not be done.
    Failed(Failure),
    /// The commands that the guest knows, in the order in which they were started.
    Commands(Vec<CommandInfo>),
    /// The signal was sent; the command may have ended before.
    Delivered,
    /// Nobody listens any more by this request; the command goes on.
    Detached,
}

/// What a guest knows of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandInfo {
    /// Its number.
    pub exec: ExecId,
    /// Process id of its main process in the guest, of one that is no process 0.
    pub pid: u32,
    /// The beginning of its program's name, at most [`MAX_PROGRAM`] bytes.
    pub program: OsBytes,
    /// Whether it goes on when its session is lost.
    pub keep: bool,
    /// Whether a session listens to it.
    pub attached: bool,
    /// How it ended, if it has.
    pub end: Option<CommandEnd>,
    /// Its standard output, as far as the guest has it.
    pub stdout: Kept,
    /// The same of standard error.
    pub stderr: Kept,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandEnd {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal.
    Signaled(i32),
    /// It was killed because its time was over.
    TimedOut,
    /// The host cancelled it.
    Cancelled,
}

/// What a guest has of a stream, in bytes since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The oldest that it has.
    pub from: u64,
    /// All that was written.
    pub to: u64,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: what was tried, and on what. At most [`MAX_TEXT`] bytes.
    pub message: String,
}

/// Kinds of failure that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// The program of an `Exec`, or the file of a `GetFile`, does not exist.
    NotFound,
    /// The working directory of an `Exec`, or the directory of a `PutFile`, does not exist.
    NoSuchDirectory,
    /// The guest's kernel refused access.
    PermissionDenied,
    /// Not something the agent does: an empty argv, a relative path, a directory to read.
    Invalid,
    /// The guest has no room left.
    NoSpace,
    /// The guest has as many requests or processes as it can take.
    TooMany,
    /// The host cancelled it.
    Cancelled,
    /// Anything else the guest's kernel reported.
    Io,
    /// The command of an `Attach` ended and was forgotten, since nobody asked for its end.
    Forgotten,
}

/// What of a message is out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutOfBounds(&'static str);

fn check(within: bool, what: &'static str) -> Result<(), OutOfBounds> {
    if within {
        Ok(())
    } else {
        Err(OutOfBounds(what))
    }
}

/// An empty chunk costs no credit, so it could be sent without end.
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

fn check_path(path: &OsBytes) -> Result<(), OutOfBounds> {
    let path = path.as_bytes();
    check(
        path.starts_with(b"/"),
        "a path in the guest must be absolute",
    )?;
    check(path.len() <= MAX_PATH, "a path is longer than 4096 bytes")?;
    check(!path.contains(&0), "a path holds a NUL byte")
}

/// What Linux takes, since the guest's kernel would say no more than "too long".
fn check_arguments(exec: &Exec) -> Result<(), OutOfBounds> {
    check(
        exec.argv.first().is_some_and(|p| !p.as_bytes().is_empty()),
        "no program to run",
    )?;
    let arguments = exec.argv.iter().map(|argument| argument.as_bytes().len());
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
        .chain(exec.env.iter().flat_map(|(name, value)| [name, value]));
    check(
        strings.all(|text| !text.as_bytes().contains(&0)),
        "an argument or environment variable holds a NUL byte",
    )?;
    check(
        exec.env
            .iter()
            .all(|(name, _)| !name.as_bytes().is_empty() && !name.as_bytes().contains(&b'=')),
        "the name of an environment variable is empty or holds '='",
    )
}

impl ToGuest {
    /// Whether everything in the message is within [`limits`](crate::limits). The host calls it
    /// before it sends, the guest after it received.
    ///
    /// # Errors
    /// Names what is not.
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
    /// See [`ToGuest::validate`].
    ///
    /// # Errors
    /// Names what is out of bounds.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        match self {
            Self::Ping | Self::Shutdown | Self::List | Self::Attach(_) | Self::Kill { .. } => {
                Ok(())
            }
            Self::Signal { signal, .. } => check_signal(*signal),
            Self::Restored(restored) => {
                let name = &restored.identity.hostname;
                check(
                    restored.unix_time.nanos < 1_000_000_000,
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
                exec.cwd.as_ref().map_or(Ok(()), check_path)
            }
            Self::PutFile(put) => {
                check(put.mode <= 0o7777, "a mode is more than permission bits")?;
                check_path(&put.path)
            }
            Self::GetFile(get) => check_path(&get.path),
        }
    }
}

impl CommandInfo {
    fn validate(&self) -> Result<(), OutOfBounds> {
        check(
            self.program.as_bytes().len() <= MAX_PROGRAM,
            "a program's name is too long",
        )?;
        let ordered = |kept: &Kept| kept.from <= kept.to;
        check(
            ordered(&self.stdout) && ordered(&self.stderr),
            "a stream that ends before it begins",
        )
    }
}

impl CommandEnd {
    /// The same as the answer to a request.
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
    /// Bytes of it that a sender may have under way beyond what the host took.
    #[must_use]
    pub fn window(self) -> u32 {
        match self {
            Self::Stdout | Self::Stderr => OUTPUT_WINDOW,
            Self::File => WINDOW,
        }
    }
}

impl ToHost {
    /// Whether everything in the message is within [`limits`](crate::limits): a guest is
    /// hostile, so the host checks before it uses any of it.
    ///
    /// # Errors
    /// Names what is not.
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
            Self::Fault { reason } => check(reason.len() <= MAX_TEXT, "a fault's text is too long"),
            Self::Attached { stdin, .. } => stdin.map_or(Ok(()), |at| {
                check(
                    at.received
                        .checked_sub(at.taken)
                        .is_some_and(|kept| kept <= WINDOW.into()),
                    "a standard input that is more than a window behind",
                )
            }),
            Self::Done { .. } | Self::OutOfMemory { .. } | Self::ReaderWaits { .. } => Ok(()),
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
