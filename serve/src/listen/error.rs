//! Why the daemon can't listen.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

/// The reason why the daemon can't listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// An address.
    #[error("can't listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// An address that others can reach, without TLS.
    #[error(
        "{0} can be reached from other machines, and keys would pass unencrypted: give --tls-cert and \
         --tls-key, or --plain-http if something else encrypts"
    )]
    Open(SocketAddr),
    /// A socket's path.
    #[error("can't listen on {path}")]
    Unix {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Another daemon listens there.
    #[error("another daemon listens on {0}")]
    Taken(PathBuf),
    /// A group that is to be let in.
    #[error("there is no group {0:?} in /etc/group")]
    NoGroup(String),
    /// A socket that this process was started with.
    #[error("a socket that the service manager passed can't be used")]
    Passed(#[source] io::Error),
}
