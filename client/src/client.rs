//! Requests to a daemon.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::address::Address;
use crate::refusal::{ClientError, Refusal};
use crate::stream::Stream;
use crate::tls::Tls;
use crate::transfer::Body;

pub use hyper::Method;

/// Limit of an answer that is read as a whole, in bytes: the output of a command in JSON, base64 besides.
const MAX_ANSWER: usize = 512 * 1024 * 1024;

/// A connection to a program in a sandbox.
pub type Tunnel = TokioIo<hyper::upgrade::Upgraded>;

/// A WebSocket to a daemon.
pub type Socket = WebSocketStream<Stream>;

/// A daemon, with the key that it is asked by.
#[derive(Clone)]
pub struct Client {
    address: Address,
    key: Option<String>,
    tls: Option<Tls>,
}

/// Without the key.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A connection to a daemon, for one request after the other.
#[derive(Debug)]
pub struct Channel<'a> {
    client: &'a Client,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Creates a client; nothing is asked yet. An address that is encrypted is that of a daemon whose certificate the
    /// system trusts, or one in this file.
    ///
    /// # Errors
    /// [`ClientError::BadAuthority`], [`ClientError::NoTls`].
    pub fn new(
        address: Address,
        key: Option<String>,
        ca: Option<&Path>,
    ) -> Result<Self, ClientError> {
        let tls = match &address {
            Address::Tls(_) => Some(Tls::new(ca)?),
            Address::Unix(_) | Address::Tcp(_) => None,
        };
        Ok(Self { address, key, tls })
    }

    /// Returns where its daemon listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    async fn stream(&self) -> Result<Stream, ClientError> {
        Stream::open(&self.address, self.tls.as_ref()).await
    }

    /// Opens a connection for requests, which may also become something else.
    async fn sender<B>(&self) -> Result<SendRequest<B>, ClientError>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = TokioIo::new(self.stream().await?);
        let (sender, connection) = handshake(stream).await.map_err(|error| self.lost(error))?;
        // Ends with its sender; its failure is that of the request, too.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    fn lost<E: Into<Box<dyn std::error::Error + Send + Sync>>>(&self, error: E) -> ClientError {
        ClientError::Lost {
            address: self.address.clone(),
            source: error.into(),
        }
    }

    fn host(&self) -> &str {
        match &self.address {
            Address::Unix(_) => "localhost",
            Address::Tcp(host) | Address::Tls(host) => host,
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`], [`ClientError::Lost`].
    pub async fn connect(&self) -> Result<Channel<'_>, ClientError> {
        Ok(Channel {
            client: self,
            sender: self.sender().await?,
        })
    }

    /// Asks, over a connection of its own, and reads the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ClientError> {
        self.connect().await?.call(method, path, body).await
    }

    /// Asks for something that has no answer but its success.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn perform(&self, method: Method, path: &str) -> Result<(), ClientError> {
        let mut channel = self.connect().await?;
        channel.ask(method, path, Bytes::new()).await.map(drop)
    }

    /// Asks, and returns the answer with its body to be read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        self.connect().await?.ask(method, path, body).await
    }

    /// Sends content as it comes, and reads the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: &str,
        body: Body,
    ) -> Result<T, ClientError> {
        let mut sender = self.sender().await?;
        let request = self.request(Method::PUT, path);
        let request = request.header(header::CONTENT_TYPE, kind).body(body);
        let request = request.map_err(|error| self.lost(error))?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| self.lost(error))?;
        let answer = self.checked(answer).await?;
        self.whole(answer).await
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.host());
        match &self.key {
            Some(key) => request.header("x-api-key", key),
            None => request,
        }
    }

    /// Returns an answer if it is none of a failure.
    async fn checked(&self, answer: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| self.lost(error))?.to_bytes();
        Err(self.refusal(status, &body))
    }

    /// Reads all of an answer.
    async fn whole<T: DeserializeOwned>(
        &self,
        answer: Response<Incoming>,
    ) -> Result<T, ClientError> {
        let content = http_body_util::Limited::new(answer.into_body(), MAX_ANSWER);
        let content = content.collect().await.map_err(|error| self.lost(error))?;
        serde_json::from_slice(&content.to_bytes()).map_err(|error| ClientError::NotOurs {
            address: self.address.clone(),
            what: error.to_string(),
        })
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn socket(&self, path: &str) -> Result<Socket, ClientError> {
        let uri = format!("ws://{}{path}", self.host());
        let mut request = uri
            .into_client_request()
            .map_err(|error| self.lost(error))?;
        if let Some(key) = &self.key {
            let value = key.parse().map_err(|_| self.bad_key())?;
            request.headers_mut().insert("x-api-key", value);
        }
        let stream = self.stream().await?;
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().clone().unwrap_or_default();
                Err(self.refusal(answer.status(), &body))
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    /// Opens a raw connection to a port of a sandbox.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tunnel(&self, path: &str) -> Result<Tunnel, ClientError> {
        let mut sender = self.sender().await?;
        let request = self.request(Method::GET, path);
        let request = request
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "tcp")
            .body(Full::new(Bytes::new()));
        let request = request.map_err(|error| self.lost(error))?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| self.lost(error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let answer = self.checked(answer).await?;
            let what = answer.status().to_string();
            let address = self.address.clone();
            return Err(ClientError::NotOurs { address, what });
        }
        let upgraded = hyper::upgrade::on(answer).await;
        Ok(TokioIo::new(upgraded.map_err(|error| self.lost(error))?))
    }

    fn bad_key(&self) -> ClientError {
        self.lost("the API key has characters that no key has")
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => refusal.into(),
            Err(_) => ClientError::NotOurs {
                address: self.address.clone(),
                what: status.to_string(),
            },
        }
    }
}

impl Channel<'_> {
    /// Asks, and returns the answer with its body to be read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let client = self.client;
        let mut request = client.request(method, path);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| client.lost(error))?;
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let answer = answer.await.map_err(|error| client.lost(error))?;
        client.checked(answer).await
    }

    /// Asks, and reads the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ClientError> {
        let client = self.client;
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| client.lost(error))?,
            None => Vec::new(),
        };
        let answer = self.ask(method, path, body.into()).await?;
        client.whole(answer).await
    }
}
