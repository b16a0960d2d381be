//! Requests to programs in a sandbox: HTTP, and whatever it is upgraded to, over one connection each.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use ironclaw_orchestrator::vm::{FailureKind, GuestError, PortStream, VmClient};
use thiserror::Error;
use tokio::io::copy_bidirectional;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Connections to the ports of one sandbox at a time, so that its commands and files have room in the
/// guest's protocol; more wait.
const MAX_CONNECTIONS: usize = 64;

/// Time that a request may wait for one.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the head of an answer, which a guest may fill with anything.
const MAX_HEAD: usize = 64 * 1024;

/// Headers that are about one connection, and not the request.
const OF_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const KEEP_ALIVE: &str = "keep-alive";

/// The reason why a program in a sandbox does not answer.
#[derive(Debug, Error)]
pub(crate) enum PortError {
    /// None listens there.
    #[error("the port is not open")]
    NotOpen,
    /// Too many requests are on their way.
    #[error("{MAX_CONNECTIONS} connections to the sandbox are open, as many as there may be")]
    Busy,
    /// The request can't be passed on.
    #[error("the request has no path")]
    Request,
    /// The guest can't be reached.
    #[error("the sandbox can't be reached")]
    Guest(#[source] GuestError),
    /// What answers does not speak HTTP, or ended in the middle of it.
    #[error("the program on the port does not answer by HTTP")]
    Http(#[source] hyper::Error),
}

/// The connections to the ports of a sandbox.
#[derive(Debug)]
pub(crate) struct Ports(Arc<Semaphore>);

impl Default for Ports {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CONNECTIONS)))
    }
}

impl Ports {
    /// Passes a request on to the program that listens on `port`, and returns its answer as it comes.
    /// A connection that is upgraded stays until either side ends it, or the VM does.
    pub(crate) async fn forward(
        &self,
        vm: &VmClient,
        port: u16,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, PortError> {
        let upgrade = prepare(&mut request)?;
        let (stream, room) = self.connect(vm, port).await?;
        let mut client = http1::Builder::new();
        // There are programs that know headers by one way of writing alone: that of most clients and proxies.
        client.title_case_headers(true);
        client.max_buf_size(MAX_HEAD);
        let shaken = client.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(PortError::Http)?;
        // Ends with the exchange: both sides of it are dropped then.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a port of a sandbox ended");
            }
        });
        let asker = upgrade.then(|| hyper::upgrade::on(&mut request));
        let answer = sender.send_request(request).await;
        let mut answer = answer.map_err(PortError::Http)?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            strip(answer.headers_mut());
            return Ok(answer.map(|body| held(body, room)));
        }
        let program = hyper::upgrade::on(&mut answer);
        if let Some(asker) = asker {
            tokio::spawn(async move {
                if let (Ok(asker), Ok(program)) = tokio::join!(asker, program) {
                    let (mut asker, mut program) = (TokioIo::new(asker), TokioIo::new(program));
                    // Either side may leave at any time.
                    let _ = copy_bidirectional(&mut asker, &mut program).await;
                }
                drop(room);
            });
        }
        Ok(answer.map(|_| Body::empty()))
    }

    /// Connects with the program that listens on `port`; the connection counts until its permit is dropped.
    pub(crate) async fn connect(
        &self,
        vm: &VmClient,
        port: u16,
    ) -> Result<(PortStream, OwnedSemaphorePermit), PortError> {
        let room = self.room().await?;
        match vm.connect(port).await {
            Ok(stream) => Ok((stream, room)),
            Err(GuestError::Failed {
                kind: FailureKind::Refused,
                ..
            }) => Err(PortError::NotOpen),
            Err(error) => Err(PortError::Guest(error)),
        }
    }

    async fn room(&self) -> Result<OwnedSemaphorePermit, PortError> {
        let room = Arc::clone(&self.0).acquire_owned();
        match timeout(CONNECTION_TIMEOUT, room).await {
            Ok(Ok(room)) => Ok(room),
            // Never closed.
            Ok(Err(_)) | Err(_) => Err(PortError::Busy),
        }
    }
}

/// Makes a request one of a connection of its own; returns whether it asks for another protocol.
fn prepare(request: &mut Request<Body>) -> Result<bool, PortError> {
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| PortError::Request)?;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    let upgrade = headers.get(header::UPGRADE).cloned();
    strip(headers);
    if let Some(upgrade) = &upgrade {
        let asks = HeaderValue::from_static("upgrade");
        headers.insert(header::CONNECTION, asks);
        headers.insert(header::UPGRADE, upgrade.clone());
    }
    Ok(upgrade.is_some())
}

/// Removes what is about the connection that it came by.
fn strip(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed.iter().chain(&OF_CONNECTION) {
        headers.remove(name);
    }
    headers.remove(KEEP_ALIVE);
}

/// Holds a connection's room until the answer has ended, or nobody reads it any more.
fn held(body: hyper::body::Incoming, room: OwnedSemaphorePermit) -> Body {
    let pieces = Body::new(body).into_data_stream();
    Body::from_stream(pieces.map(move |piece: Result<Bytes, axum::Error>| {
        let _ = &room;
        piece
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "http://8080-x.example.com/a?b=c".parse().unwrap();
        for (name, value) in headers {
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(*name, value);
        }
        request
    }

    #[test]
    fn what_is_about_a_connection_is_not_passed_on() {
        let mut plain = request(&[
            ("host", "8080-x.example.com"),
            ("connection", "keep-alive, x-mine"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("x-other", "2"),
        ]);
        assert!(!prepare(&mut plain).unwrap());
        assert_eq!(plain.uri(), "/a?b=c");
        let left: Vec<_> = plain.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "x-other"]);
    }

    #[test]
    fn an_upgrade_is_asked_for_again() {
        let mut socket = request(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert!(prepare(&mut socket).unwrap());
        assert_eq!(socket.headers()["connection"], "upgrade");
        assert_eq!(socket.headers()["upgrade"], "websocket");
    }
}
