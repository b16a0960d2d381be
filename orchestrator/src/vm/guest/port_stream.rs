//! A connection to a TCP port of a guest.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ironclaw_protocol::message::{Outcome, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::chunk::Chunk;
use super::connection::Connector;
use super::error::GuestError;
use super::file_transfer::no_file;
use super::inbox::Arrival;
use super::running::Pending;
use super::upload::{Content, Step};

/// Timeout of a guest to connect to a program of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT: &str = "connect to a port of its own";
const EXCHANGE: &str = "exchange bytes with a port of its own";

/// A connection to a TCP port of a guest, whether the guest has a network or not. Dropping it closes
/// the connection.
///
/// Implements `AsyncRead` and `AsyncWrite`; an error there is a [`GuestError`] within an
/// [`io::Error`]. Each direction ends by itself: the shutdown of this stream tells the program that no
/// more comes, and what it still says can be read. Neither side holds more than a window of bytes that
/// the other one does not take, however long that takes. If the connection to the guest is lost, as
/// with a checkpoint, this fails with [`GuestError::Interrupted`].
pub struct PortStream {
    // Dropped before the content, whose own drop would end the other direction in good order.
    pending: Option<Pending>,
    reading: Option<Step<Received>>,
    chunk: Chunk,
    has_ended: bool,
    content: Content,
}

/// The request again, while there is one, and what came.
type Received = Result<(Pending, Option<Vec<u8>>), GuestError>;

async fn receive(mut pending: Pending) -> Received {
    match pending.next().await? {
        Arrival::Data(_, bytes) => Ok((pending, Some(bytes))),
        Arrival::ContentEnded | Arrival::Done(Outcome::Disconnected) => Ok((pending, None)),
        Arrival::Interrupted => Err(GuestError::Interrupted {
            operation: EXCHANGE,
        }),
        other => Err(no_file("a connection", other)),
    }
}

impl PortStream {
    pub(super) async fn connect(connector: &Connector, port: u16) -> Result<Self, GuestError> {
        let connect = async {
            let request = Request::Connect { port };
            let mut pending = Pending::new(connector.request(request).await?);
            match pending.next().await? {
                Arrival::Opened => Ok(pending),
                Arrival::Interrupted => Err(GuestError::Interrupted { operation: CONNECT }),
                other => Err(no_file("a connection", other)),
            }
        };
        let late = |_| GuestError::NoAnswer {
            operation: CONNECT,
            after: CONNECT_TIMEOUT,
        };
        let pending = timeout(CONNECT_TIMEOUT, connect).await.map_err(late)??;
        Ok(Self {
            content: Content::patient(pending.writer()),
            pending: Some(pending),
            reading: None,
            chunk: Chunk::default(),
            has_ended: false,
        })
    }
}

impl fmt::Debug for PortStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortStream")
            .field("unread_bytes", &self.chunk.unread())
            .field("has_ended", &self.has_ended)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.chunk.unread() == 0 && !self.has_ended {
            if let Some(pending) = self.pending.take() {
                self.reading = Some(Box::pin(receive(pending)));
            }
            let Some(reading) = &mut self.reading else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            };
            let received = ready!(reading.as_mut().poll(context));
            self.reading = None;
            let (pending, bytes) = received?;
            self.pending = Some(pending);
            match bytes {
                Some(bytes) => self.chunk = bytes.into(),
                None => self.has_ended = true,
            }
        }
        self.chunk.read_into(buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // It is over, or was shut down.
        let over = || io::Error::from(io::ErrorKind::BrokenPipe);
        let written = ready!(self.content.poll_write(context, bytes))?;
        Poll::Ready(written.ok_or_else(over))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.content.poll_sent(context).map_err(Into::into)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.content.poll_end(context).map_err(Into::into)
    }
}
