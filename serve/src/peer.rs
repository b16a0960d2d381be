//! Who asks.

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Who may open the socket's file, whom its mode lets in.
    Local,
    /// Anybody who can reach the address.
    Network,
}
