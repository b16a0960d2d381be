//! Accepts connections, and serves each within its bounds.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::bounds::Bounds;
use super::unix::SocketFile;
use crate::peer::{Connection, Peer, Scheme};

/// Wait after a failure to accept: there are too many open files, which only time can change.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// When a client that says nothing is asked whether it is there, and how often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// Resolves when the server ends.
async fn over(ended: &mut watch::Receiver<bool>) {
    // An error means that the server is dropped.
    drop(ended.wait_for(|ended| *ended).await);
}

/// Where connections come from.
pub(super) trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // Answers are small, and a client waits for them.
        stream.set_nodelay(true)?;
        // One that has vanished without a word is noticed.
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_COUNT)?;
        Ok(stream)
    }
}

impl Listener for SocketFile {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await
    }
}

/// What a listener needs.
pub(super) struct Accept {
    router: Router,
    peer: Peer,
    room: Arc<Semaphore>,
    bounds: Bounds,
    ended: watch::Receiver<bool>,
}

impl Accept {
    pub(super) fn new(
        router: &Router,
        peer: Peer,
        room: &Arc<Semaphore>,
        bounds: Bounds,
        ended: &watch::Receiver<bool>,
    ) -> Self {
        Self {
            router: router.clone(),
            peer,
            room: Arc::clone(room),
            bounds,
            ended: ended.clone(),
        }
    }

    pub(super) async fn run(mut self, listener: impl Listener, tls: Option<TlsAcceptor>) {
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
                    let mut stream = TimeoutStream::new(stream);
                    stream.set_write_timeout(Some(self.bounds.write_timeout));
                    let stream = Box::pin(stream);
                    match tls.clone() {
                        None => connections.spawn(self.connection(stream, room)),
                        Some(tls) => connections.spawn(self.encrypted(tls, stream, room)),
                    };
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

    fn encrypted<S>(
        &self,
        tls: TlsAcceptor,
        stream: S,
        room: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limit = self.bounds.head_timeout;
        let serve = self.service(Scheme::Https);
        async move {
            match timeout(limit, tls.accept(stream)).await {
                Ok(Ok(stream)) => serve.run(stream, room).await,
                Ok(Err(error)) => tracing::debug!(%error, "a connection is not encrypted"),
                Err(_) => tracing::debug!("a connection took too long to be encrypted"),
            }
        }
    }

    fn connection<S>(
        &self,
        stream: S,
        room: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.service(Scheme::Http).run(stream, room)
    }

    fn service(&self, scheme: Scheme) -> Serve {
        Serve {
            router: self.router.clone(),
            peer: self.peer,
            scheme,
            bounds: self.bounds,
            ended: self.ended.clone(),
        }
    }
}

/// What a connection needs.
struct Serve {
    router: Router,
    peer: Peer,
    scheme: Scheme,
    bounds: Bounds,
    ended: watch::Receiver<bool>,
}

impl Serve {
    async fn run<S>(mut self, stream: S, room: Option<OwnedSemaphorePermit>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, peer, scheme) = (self.router, self.peer, self.scheme);
        let counted = Connection::new(room);
        let service = service_fn(move |request: Request<Incoming>| {
            let mut router = router.clone();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(scheme);
            request.extensions_mut().insert(counted.clone());
            async move { Ok::<_, Infallible>(answer(&mut router, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.head_timeout)
            .max_buf_size(self.bounds.head_bytes)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = over(&mut self.ended) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended");
        }
    }
}

async fn answer(router: &mut Router, request: Request<Body>) -> axum::response::Response {
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
