//! How a host can break the protocol.

use ironclaw_protocol::frame::FrameError;
use ironclaw_protocol::limits::{MAX_REQUESTS, WINDOW};
use ironclaw_protocol::message::OutOfBounds;
use ironclaw_protocol::{VERSION, message::RequestId};
use thiserror::Error;

/// Why the agent ends a session. The text goes to the host as a `Fault`.
#[derive(Debug, Error)]
pub(crate) enum Violation {
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
    /// Content beyond what the agent granted.
    #[error("content of request {} is over its credit, which began with {WINDOW} bytes", .0.0)]
    OverCredit(RequestId),
    /// Content for a request that takes none, or after its end.
    #[error("request {} takes no (more) content", .0.0)]
    UnexpectedContent(RequestId),
}
