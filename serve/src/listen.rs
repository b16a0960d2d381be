//! Listens on sockets, and bounds what a client may cost before its request is known.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_service::Service as _;

use crate::api;
use crate::keys::Keys;
use crate::peer::{Connection, Peer};
use crate::sandboxes::Sandboxes;

/// Wait after a failure to accept: there are too many open files, which only time can change.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of what clients may cost.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Bounds {
    /// Connections at a time; more wait to be accepted.
    pub connections: usize,
    /// Time for the head of a request, and between two of them.
    pub head_timeout: Duration,
    /// Bytes of the head of a request.
    pub head_bytes: usize,
    /// Time that open requests have to end when the daemon does.
    pub drain_timeout: Duration,
}

impl Default for Bounds {
    /// 4,096 connections, 30 s and 64 KiB for a head, 5 s to end.
    fn default() -> Self {
        Self {
            connections: 4096,
            head_timeout: Duration::from_secs(30),
            head_bytes: 64 * 1024,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

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
    #[error("{0} can be reached from other machines, and keys would pass unencrypted")]
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
}

/// The daemon's listeners.
#[derive(Debug)]
pub struct Server {
    tcp: Vec<TcpListener>,
    unix: Vec<SocketFile>,
    bounds: Bounds,
}

/// A listener whose file is removed with it.
#[derive(Debug)]
struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone, or another's by now: the next daemon finds out.
        let _ = fs::remove_file(&self.path);
    }
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

    /// Listens on a loopback address; port 0 takes a free one. Returns the address.
    ///
    /// # Errors
    /// [`ListenError`]; [`ListenError::Open`] for an address that is not of the loopback.
    pub async fn listen_tcp(&mut self, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        if !address.ip().is_loopback() {
            return Err(ListenError::Open(address));
        }
        let error = |source| ListenError::Tcp { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let bound = listener.local_addr().map_err(error)?;
        self.tcp.push(listener);
        Ok(bound)
    }

    /// Listens on a Unix socket that its user and group may open (0660). Takes the place of a socket
    /// on which nobody listens any more.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn listen_unix(&mut self, path: &Path) -> Result<(), ListenError> {
        let error = |source| ListenError::Unix {
            path: path.to_owned(),
            source,
        };
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                if UnixStream::connect(path).await.is_ok() {
                    return Err(ListenError::Taken(path.to_owned()));
                }
                fs::remove_file(path).map_err(error)?;
            }
            Ok(_) => return Err(error(io::ErrorKind::AlreadyExists.into())),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
            Err(other) => return Err(error(other)),
        }
        let listener = UnixListener::bind(path).map_err(error)?;
        let file = SocketFile {
            listener,
            path: path.to_owned(),
        };
        fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(error)?;
        self.unix.push(file);
        Ok(())
    }

    /// Serves until `end` resolves; then takes no more, and lets open requests end in time.
    pub async fn serve(self, sandboxes: Sandboxes, keys: Keys, end: impl Future<Output = ()>) {
        let bounds = self.bounds;
        let room = Arc::new(Semaphore::new(bounds.connections));
        let router = api::router(&sandboxes, &keys);
        let (ending, ended) = tokio::sync::watch::channel(false);
        let mut listeners = JoinSet::new();
        for listener in self.tcp {
            let accept = Accept::new(&router, Peer::Network, &room, bounds, &ended);
            listeners.spawn(accept.run(listener));
        }
        for file in self.unix {
            let accept = Accept::new(&router, Peer::Local, &room, bounds, &ended);
            listeners.spawn(accept.run(file));
        }
        end.await;
        // Each listener lives in its task.
        let _ = ending.send(true);
        while listeners.join_next().await.is_some() {}
    }
}

/// Resolves when the server ends.
async fn over(ended: &mut tokio::sync::watch::Receiver<bool>) {
    // An error means that the server is dropped.
    drop(ended.wait_for(|ended| *ended).await);
}

/// Where connections come from.
trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // Answers are small, and a client waits for them.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Listener for SocketFile {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

/// What a listener needs.
struct Accept {
    router: Router,
    peer: Peer,
    room: Arc<Semaphore>,
    bounds: Bounds,
    ended: tokio::sync::watch::Receiver<bool>,
}

impl Accept {
    fn new(
        router: &Router,
        peer: Peer,
        room: &Arc<Semaphore>,
        bounds: Bounds,
        ended: &tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        Self {
            router: router.clone(),
            peer,
            room: Arc::clone(room),
            bounds,
            ended: ended.clone(),
        }
    }

    async fn run(mut self, listener: impl Listener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = async {
                // Never closed.
                let room = Arc::clone(&self.room).acquire_owned().await.ok();
                (room, listener.next().await)
            };
            let (room, stream) = tokio::select! {
                accepted = accepted => accepted,
                () = over(&mut self.ended) => break,
            };
            match stream {
                Ok(stream) => {
                    connections.spawn(self.connection(stream, room));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let all = async { while connections.join_next().await.is_some() {} };
        // The rest is dropped with the set.
        let _ = timeout(self.bounds.drain_timeout, all).await;
    }

    fn connection<S>(
        &self,
        stream: S,
        room: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, peer) = (self.router.clone(), self.peer);
        let counted = Connection::new(room);
        let service = service_fn(move |request: Request<Incoming>| {
            let mut router = router.clone();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(counted.clone());
            async move { Ok::<_, Infallible>(serve(&mut router, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.head_timeout)
            .max_buf_size(self.bounds.head_bytes)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut ended = self.ended.clone();
        async move {
            tokio::pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = over(&mut ended) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended");
            }
        }
    }
}

async fn serve(router: &mut Router, request: Request<Body>) -> axum::response::Response {
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
