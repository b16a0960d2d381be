//! Listens on sockets, and bounds what a client may cost before its request is known.

mod bounds;
mod connection;
mod error;
mod tls;
mod unix;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use listenfd::ListenFd;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api;
use crate::audit::Audit;
use crate::keys::Keys;
use crate::peer::Peer;
use crate::sandboxes::Sandboxes;
pub use bounds::Bounds;
use connection::Accept;
pub use error::ListenError;
pub use tls::{Tls, TlsError};
use unix::SocketFile;

/// Who may be at the other end of a TCP connection, and how it is kept from others.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Reach {
    /// Programs of this machine: loopback addresses alone.
    Loopback,
    /// Anybody, encrypted.
    Tls(Tls),
    /// Anybody, as it is: keys and what guests print pass unencrypted.
    Plain,
}

/// The daemon's listeners.
#[derive(Debug)]
pub struct Server {
    tcp: Vec<(TcpListener, Option<Tls>)>,
    unix: Vec<SocketFile>,
    bounds: Bounds,
}

/// The sockets that a service manager passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Passed {
    /// Addresses.
    pub tcp: Vec<SocketAddr>,
    /// The number of Unix sockets.
    pub unix: usize,
}

impl Server {
    /// Creates a server that listens nowhere yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            tcp: Vec::new(),
            unix: Vec::new(),
            bounds,
        }
    }

    /// Listens on an address; port 0 takes a free one. Returns the address.
    ///
    /// # Errors
    /// [`ListenError`]; [`ListenError::Open`] for an address that is not of the loopback, unless that is meant.
    pub async fn listen_tcp(
        &mut self,
        address: SocketAddr,
        reach: &Reach,
    ) -> Result<SocketAddr, ListenError> {
        check(address, reach)?;
        let error = |source| ListenError::Tcp { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let bound = listener.local_addr().map_err(error)?;
        self.tcp.push((listener, tls(reach)));
        Ok(bound)
    }

    /// Listens on a Unix socket that its user and group may open (0660); with `group`, a name or number, it is
    /// that group's. Takes the place of a socket on which nobody listens any more.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn listen_unix(
        &mut self,
        path: &Path,
        group: Option<&str>,
    ) -> Result<(), ListenError> {
        let file = SocketFile::open(path, group).await?;
        self.unix.push(file);
        Ok(())
    }

    /// Listens on the sockets that a service manager passed, by systemd's protocol (sd_listen_fds(3)).
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen_passed(&mut self, reach: &Reach) -> Result<Passed, ListenError> {
        let mut all = ListenFd::from_env();
        let mut passed = Passed::default();
        for index in 0..all.len() {
            if let Ok(Some(listener)) = all.take_unix_listener(index) {
                self.unix.push(SocketFile::passed(listener)?);
                passed.unix += 1;
                continue;
            }
            let found = all.take_tcp_listener(index).map_err(ListenError::Passed)?;
            let Some(listener) = found else { continue };
            let address = listener.local_addr().map_err(ListenError::Passed)?;
            check(address, reach)?;
            unix::prepare(&listener).map_err(ListenError::Passed)?;
            let listener = TcpListener::from_std(listener).map_err(ListenError::Passed)?;
            self.tcp.push((listener, tls(reach)));
            passed.tcp.push(address);
        }
        Ok(passed)
    }

    /// Serves until `end` resolves; then takes no more, and lets open requests end in time.
    pub async fn serve(
        self,
        sandboxes: Sandboxes,
        keys: Keys,
        audit: Audit,
        end: impl Future<Output = ()>,
    ) {
        let router = api::router(&sandboxes, &keys, audit);
        self.route(router, end).await;
    }

    async fn route(self, router: Router, end: impl Future<Output = ()>) {
        let bounds = self.bounds;
        let room = Arc::new(Semaphore::new(bounds.connections));
        let (ending, ended) = tokio::sync::watch::channel(false);
        let mut listeners = JoinSet::new();
        for (listener, tls) in self.tcp {
            let accept = Accept::new(&router, Peer::Network, &room, bounds, &ended);
            listeners.spawn(accept.run(listener, tls.map(|tls| tls.acceptor())));
        }
        for file in self.unix {
            let accept = Accept::new(&router, Peer::Local, &room, bounds, &ended);
            listeners.spawn(accept.run(file, None));
        }
        end.await;
        // Each listener lives in its task.
        let _ = ending.send(true);
        while listeners.join_next().await.is_some() {}
    }
}

fn check(address: SocketAddr, reach: &Reach) -> Result<(), ListenError> {
    match reach {
        Reach::Loopback if !address.ip().is_loopback() => Err(ListenError::Open(address)),
        _ => Ok(()),
    }
}

fn tls(reach: &Reach) -> Option<Tls> {
    match reach {
        Reach::Tls(tls) => Some(tls.clone()),
        Reach::Loopback | Reach::Plain => None,
    }
}

#[cfg(test)]
mod tests;
