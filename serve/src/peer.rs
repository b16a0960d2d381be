//! Who asks.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Who may open the socket's file, whom its mode lets in.
    Local,
    /// Anybody who can reach the address.
    Network,
}

/// By which scheme a connection's requests came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// As they are.
    Http,
    /// Encrypted by the daemon itself.
    Https,
}

/// A connection among those that there may be. Who takes one over, as by an upgrade, keeps this as long.
#[derive(Debug, Clone)]
pub(crate) struct Connection(
    #[expect(dead_code, reason = "its end is what counts")] Option<Arc<OwnedSemaphorePermit>>,
);

impl Connection {
    pub(crate) fn new(permit: Option<OwnedSemaphorePermit>) -> Self {
        Self(permit.map(Arc::new))
    }
}
