//! HTTP/1.1 over the API socket, within bounds.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::ApiError;

/// Most bytes of headers that are read.
const MAX_HEADERS: usize = 16 * 1024;
/// Most bytes of an answer's body: `/vm/config`, the longest, has some kilobytes.
const MAX_BODY: usize = 1 << 20;
/// Most characters of a fault message that are kept.
const MAX_MESSAGE: usize = 4096;

/// A kept-alive connection. Nothing moves on it but while a request is under way, so it needs no
/// task of its own, and a request no change of tasks.
#[derive(Debug)]
pub(super) struct Transport {
    requests: SendRequest<Full<Bytes>>,
    /// `None` when it has ended.
    connection: Option<Line>,
}

type Line = Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// Firecracker's body of every error.
#[derive(Deserialize)]
struct Fault {
    fault_message: String,
}

impl Transport {
    pub(super) async fn open(stream: UnixStream) -> Result<Self, ApiError> {
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(closed)?;
        Ok(Self {
            requests,
            connection: Some(connection),
        })
    }

    /// The body of a successful answer.
    pub(super) async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, ApiError> {
        let name = format!("{method} {path}");
        let malformed = |detail: String| ApiError::Malformed {
            request: name.clone(),
            detail,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| malformed(error.to_string()))?;
        let Self {
            requests,
            connection,
        } = self;
        let answered = async {
            requests.ready().await.map_err(closed)?;
            let answer = match requests.send_request(request).await {
                Ok(answer) => answer,
                Err(error) if error.is_parse() => return Err(malformed(error.to_string())),
                Err(error) => return Err(closed(error)),
            };
            let status = answer.status();
            match Limited::new(answer.into_body(), MAX_BODY).collect().await {
                Ok(body) => Ok((status, body.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => {
                    Err(malformed(format!("a body of more than {MAX_BODY} bytes")))
                }
                Err(error) => Err(ApiError::Closed(error.to_string())),
            }
        };
        let (status, body) = alongside(connection, answered).await?;
        if status.is_success() {
            return Ok(body);
        }
        let message = match serde_json::from_slice::<Fault>(&body) {
            Ok(fault) => fault.fault_message,
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        Err(ApiError::Refused {
            request: name,
            status: status.as_u16(),
            message: message
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_MESSAGE)
                .collect(),
        })
    }
}

/// The outcome of `request`, with `connection` at work for as long as that takes. One that ends is
/// dropped: that tells the request.
async fn alongside<T>(connection: &mut Option<Line>, request: impl Future<Output = T>) -> T {
    let mut request = pin!(request);
    poll_fn(|context| {
        if let Poll::Ready(outcome) = request.as_mut().poll(context) {
            return Poll::Ready(outcome);
        }
        if let Some(line) = connection
            && Pin::new(line).poll(context).is_ready()
        {
            *connection = None;
        }
        // What it did just now may be what the request waits for.
        request.as_mut().poll(context)
    })
    .await
}

fn closed(error: hyper::Error) -> ApiError {
    ApiError::Closed(error.to_string())
}
