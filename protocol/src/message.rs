//! The messages, which postcard encodes into the payloads of frames.
//!
//! Variants are identified by their position: new ones are added at the end, and any other change
//! raises [`VERSION`](crate::VERSION).

mod command;
mod content;
mod identity;
mod outcome;

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

pub use crate::bounds::OutOfBounds;
use crate::bounds::check;
use crate::file::FileRequest;
use crate::limits::{MAX_CHUNK, MAX_TEXT, OUTPUT_WINDOW, TAKEN_PORTION, WINDOW};
use command::check_signal;
pub use command::{
    Attach, CommandEnd, CommandInfo, Exec, ExecId, Inherited, Kept, Stderr, StdinAt, TerminalSize,
};
pub use content::{Existing, GetFile, PutFile};
pub use identity::{Identity, SetIdentity, UnixTime};
pub use outcome::{Failure, FailureKind, Outcome, bounded_text};

/// The id of a request, chosen by the host, unique among the open ones of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u32);

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
        /// The Linux signal number, 1 to [`MAX_SIGNAL`](crate::limits::MAX_SIGNAL).
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
        /// The Linux signal number, 1 to [`MAX_SIGNAL`](crate::limits::MAX_SIGNAL).
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
            Self::SetIdentity(new) => new.validate(),
            Self::Exec(exec) => exec.validate(),
            Self::PutFile(put) => put.validate(),
            Self::GetFile(get) => get.validate(),
            Self::File(request) => request.validate(),
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
            Self::Done { outcome, .. } => outcome.validate(),
            Self::Fault { reason } => check(reason.len() <= MAX_TEXT, "a fault's text is too long"),
            Self::Attached { stdin, .. } => stdin.map_or(Ok(()), |at| {
                check(
                    at.received
                        .checked_sub(at.taken)
                        .is_some_and(|kept| kept <= WINDOW.into()),
                    "a standard input that is more than a window behind",
                )
            }),
            Self::OutOfMemory { .. }
            | Self::ReaderWaits { .. }
            | Self::Opened { .. }
            | Self::Eof { .. } => Ok(()),
        }
    }
}
