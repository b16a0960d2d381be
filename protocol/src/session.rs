//! A guest's end of a line to the host, without the line: bytes go in, messages come out, and the other
//! way round.
//!
//! ```text
//!            MAGIC              Hello
//! Unsynced ─────────▶ Opened ─────────▶ Running
//!    ▲                  │                │  │
//!    ├─────fault────────┴────────────────┘  │ MAGIC: Opened again
//!    └──────────host gone───────────────────┘
//! ```
//!
//! Every guest has this one: the agent in Linux, the test guest, and those that tests make up.

use alloc::string::ToString as _;

use thiserror::Error;

use crate::VERSION;
use crate::frame::{Decoder, Event, FrameError, decode};
use crate::limits::{MAX_REQUESTS, WINDOW};
use crate::message::{OutOfBounds, RequestId, ToGuest, ToHost, bounded_text};
pub use crate::outgoing::Outgoing;
use crate::process_table::BadContent;

/// How a host breaks the protocol. The text goes to the host as a `Fault`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// The stream can't be cut into messages.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message holds more than it may.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// A session began with something else than a `Hello`.
    #[error("a session starts with a Hello")]
    NoHello,
    /// A `Hello` in the middle of a session.
    #[error("a second Hello")]
    SecondHello,
    /// The host speaks another version.
    #[error("the host speaks protocol version {host}, this agent {VERSION}")]
    Version {
        /// What the host speaks.
        host: u16,
    },
    /// A request took the number of one that is still open.
    #[error("request number {} is in use", .0.0)]
    IdInUse(RequestId),
    /// More open requests than the protocol allows.
    #[error("more than {MAX_REQUESTS} open requests")]
    TooManyRequests,
    /// Content beyond what the guest granted.
    #[error("content of request {} is over its credit, which began with {WINDOW} bytes", .0.0)]
    OverCredit(RequestId),
    /// Content for a request that takes none, or after its end.
    #[error("request {} takes no (more) content", .0.0)]
    UnexpectedContent(RequestId),
    /// The host took what it was not sent.
    #[error("more of request {} was taken than was sent", .0.0)]
    TakenTooMuch(RequestId),
}

impl Violation {
    /// Of content of the request `id`.
    #[must_use]
    pub fn of_content(id: RequestId, bad: BadContent) -> Self {
        match bad {
            BadContent::Unexpected => Self::UnexpectedContent(id),
            BadContent::OverCredit => Self::OverCredit(id),
        }
    }
}

/// What a guest hears next.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The host opened a session, and was greeted; whatever belonged to an older one is void.
    Opened,
    /// What it says in the session, within the protocol's limits.
    Message(ToGuest),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unsynced,
    Opened,
    Running,
}

/// The guest's end.
#[derive(Debug)]
pub struct Session {
    /// The guest's name and release, for people.
    agent: &'static str,
    phase: Phase,
    decoder: Decoder,
    /// What waits for the line.
    pub out: Outgoing,
}

impl Session {
    /// One that waits for its host.
    #[must_use]
    pub fn new(agent: &'static str) -> Self {
        Self {
            agent,
            phase: Phase::Unsynced,
            decoder: Decoder::of_requests(),
            out: Outgoing::default(),
        }
    }

    /// Whether the host was greeted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Takes bytes as they came from the line. They are looked at by [`hear`](Self::hear).
    pub fn receive(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// What the host says next, in what has been received.
    ///
    /// # Errors
    /// The host broke the protocol: the guest ends what belongs to the session, and tells the host by
    /// [`fault`](Self::fault).
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

    /// Ends the session and tells the host why, unless it is noise in front of one: nobody is there who
    /// could be told then.
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

    /// There is no host any more.
    pub fn host_gone(&mut self) {
        self.phase = Phase::Unsynced;
        self.decoder = Decoder::of_requests();
        self.out.clear();
    }
}
