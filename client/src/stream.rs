//! A connection to a daemon.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::address::Address;
use crate::refusal::ClientError;
use crate::tls::Tls;

/// Time until a connection is there, encrypted if it is to be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection of one of three kinds.
#[derive(Debug)]
pub enum Stream {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
    /// Over TCP, encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects; `tls` is what an address takes that is encrypted.
    pub(crate) async fn open(address: &Address, tls: Option<&Tls>) -> Result<Self, ClientError> {
        let connected = timeout(CONNECT_TIMEOUT, Self::connect(address, tls)).await;
        connected.unwrap_or_else(|_| Err(no_daemon(address)(io::ErrorKind::TimedOut.into())))
    }

    async fn connect(address: &Address, tls: Option<&Tls>) -> Result<Self, ClientError> {
        let host = match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                return stream.map(Self::Unix).map_err(no_daemon(address));
            }
            Address::Tcp(host) | Address::Tls(host) => host,
        };
        let stream = TcpStream::connect(host).await.map_err(no_daemon(address))?;
        // Requests are small, and wait for nothing. It is as well without.
        let _ = stream.set_nodelay(true);
        match tls {
            Some(tls) => tls.encrypt(address, host, stream).await.map(Self::Tls),
            None => Ok(Self::Tcp(stream)),
        }
    }
}

fn no_daemon(address: &Address) -> impl Fn(io::Error) -> ClientError + '_ {
    |source| ClientError::NoDaemon {
        address: address.clone(),
        source,
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
