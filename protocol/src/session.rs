//! A guest's end of a line to the host, without the line itself: bytes go in, messages come out,
//! and vice versa.
//!
//! ```text
//!            MAGIC              Hello
//! Unsynced ─────────▶ Opened ─────────▶ Running
//!    ▲                  │                │  │
//!    ├─────fault────────┴────────────────┘  │ MAGIC: Opened again
//!    └──────────host gone───────────────────┘
//! ```
//!
//! All guests share it: the agent in Linux, the test guest, and those of tests.

use alloc::string::ToString as _;

use thiserror::Error;

use crate::VERSION;
use crate::frame::{Decoder, Event, FrameError, decode};
use crate::limits::{MAX_REQUESTS, WINDOW};
use crate::message::{ExecId, OutOfBounds, RequestId, Stream, ToGuest, ToHost, bounded_text};
pub use crate::outgoing::Outgoing;
use crate::process_table::{BadContent, Listener, ProcessTable};

/// A violation of the protocol by the host. Its text is sent to the host as a `Fault`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// The stream can't be cut into messages.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message exceeds the limits.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// A session began with something other than a `Hello`.
    #[error("a session starts with a Hello")]
    NoHello,
    /// A `Hello` came in the middle of a session.
    #[error("a second Hello")]
    SecondHello,
    /// The host has another version.
    #[error("the host speaks protocol version {host}, this agent {VERSION}")]
    Version {
        /// The host's version.
        host: u16,
    },
    /// A request has the id of one that is still open.
    #[error("request number {} is in use", .0.0)]
    IdInUse(RequestId),
    /// There are more open requests than the protocol allows.
    #[error("more than {MAX_REQUESTS} open requests")]
    TooManyRequests,
    /// Content exceeds the guest's grant.
    #[error("content of request {} is over its credit, which began with {WINDOW} bytes", .0.0)]
    OverCredit(RequestId),
    /// Content came for a request that takes none, or after its end.
    #[error("request {} takes no (more) content", .0.0)]
    UnexpectedContent(RequestId),
    /// The host claims to have taken what it was not sent.
    #[error("more of request {} was taken than was sent", .0.0)]
    TakenTooMuch(RequestId),
}

impl Violation {
    /// Creates the violation of content for the request `id`.
    #[must_use]
    pub fn of_content(id: RequestId, bad: BadContent) -> Self {
        match bad {
            BadContent::Unexpected => Self::UnexpectedContent(id),
            BadContent::OverCredit => Self::OverCredit(id),
        }
    }
}

/// Messages of a session about the command that a request of it is about. A request that is about
/// none any more is no violation: the host did not know that yet.
impl ProcessTable {
    /// Counts content for the standard input of a request's command; returns the command.
    ///
    /// # Errors
    /// [`Violation::UnexpectedContent`] and [`Violation::OverCredit`].
    pub fn content_arrived(
        &mut self,
        by: Listener,
        bytes: usize,
    ) -> Result<Option<ExecId>, Violation> {
        let found = self.find(by);
        if let Some(exec) = found {
            let arrived = self.arrived(exec, bytes);
            arrived.map_err(|bad| Violation::of_content(by.request, bad))?;
        }
        Ok(found)
    }

    /// Ends that content; returns the command.
    ///
    /// # Errors
    /// [`Violation::UnexpectedContent`].
    pub fn end_of_content_arrived(&mut self, by: Listener) -> Result<Option<ExecId>, Violation> {
        let found = self.find(by);
        if let Some(exec) = found {
            let ended = self.content_ended(exec);
            ended.map_err(|bad| Violation::of_content(by.request, bad))?;
        }
        Ok(found)
    }

    /// Records that the host took a stream of a request's command up to an offset.
    ///
    /// # Errors
    /// [`Violation::TakenTooMuch`].
    pub fn acknowledged(
        &mut self,
        by: Listener,
        stream: Stream,
        offset: u64,
    ) -> Result<(), Violation> {
        match self.find(by) {
            Some(exec) if !self.taken(exec, stream, offset) => {
                Err(Violation::TakenTooMuch(by.request))
            }
            _ => Ok(()),
        }
    }
}

/// An event for the guest.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "each is handled before the next is read: none is kept"
)]
pub enum Heard {
    /// The host opened a session, and was greeted; everything of an older one is void.
    Opened,
    /// A message in the session, within the protocol's limits.
    Message(ToGuest),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unsynced,
    Opened,
    Running,
}

/// The guest's end of a line.
#[derive(Debug)]
pub struct Session {
    /// The guest's name and release, for people.
    agent: &'static str,
    phase: Phase,
    decoder: Decoder,
    /// The queue of messages to send.
    pub out: Outgoing,
}

impl Session {
    /// Creates one that waits for its host.
    #[must_use]
    pub fn new(agent: &'static str) -> Self {
        Self {
            agent,
            phase: Phase::Unsynced,
            decoder: Decoder::of_requests(),
            out: Outgoing::default(),
        }
    }

    /// Returns whether the host was greeted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Adds bytes from the line, for [`hear`](Self::hear).
    pub fn receive(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// Returns the next event in the bytes received.
    ///
    /// # Errors
    /// The host violated the protocol: the guest has to end everything of the session, and report
    /// it to the host by [`fault`](Self::fault).
    pub fn hear(&mut self) -> Result<Option<Heard>, Violation> {
        loop {
            let message: ToGuest = match self.decoder.next()? {
                None => return Ok(None),
                Some(Event::Opened) => {
                    self.phase = Phase::Opened;
                    continue;
                }
                Some(Event::Frame(payload)) => decode(payload)?,
            };
            message.validate()?;
            return match (self.phase, message) {
                (Phase::Running, ToGuest::Hello { .. }) => Err(Violation::SecondHello),
                (Phase::Running, message) => Ok(Some(Heard::Message(message))),
                (_, ToGuest::Hello { version, session }) => {
                    self.greet(session);
                    if version == VERSION {
                        Ok(Some(Heard::Opened))
                    } else {
                        Err(Violation::Version { host: version })
                    }
                }
                _ => Err(Violation::NoHello),
            };
        }
    }

    fn greet(&mut self, session: u64) {
        self.out.open_session();
        self.out.push(&ToHost::Hello {
            version: VERSION,
            session,
            agent: self.agent.to_string(),
        });
        // From here on a violation needs no session start of its own.
        self.phase = Phase::Running;
    }

    /// Ends the session and reports the reason to the host, unless it was noise before a session:
    /// nobody would read it.
    pub fn fault(&mut self, violation: &Violation) {
        match core::mem::replace(&mut self.phase, Phase::Unsynced) {
            Phase::Unsynced => {}
            phase => {
                if phase == Phase::Opened {
                    self.out.open_session();
                }
                self.out.push(&ToHost::Fault {
                    reason: bounded_text(violation.to_string()),
                });
            }
        }
        self.decoder.lose_step();
    }

    /// Resets it: the host is gone.
    pub fn host_gone(&mut self) {
        self.phase = Phase::Unsynced;
        self.decoder = Decoder::of_requests();
        self.out.clear();
    }
}
