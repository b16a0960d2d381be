//! Files of a guest as streams: neither side holds more than a window of them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ironclaw_protocol::message::{FailureKind, GetFile, Outcome, PutFile, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::chunk::Chunk;
use super::connection::Connector;
use super::error::GuestError;
use super::file_transfer::{no_file, unless_stalled};
use super::inbox::Arrival;
use super::running::Pending;
use super::upload::{Step, Upload};

const READ: &str = "go on reading a file";
const WRITE: &str = "go on writing a file";

/// The kind of the error for callers that know files, with the error itself as its source.
impl From<GuestError> for io::Error {
    fn from(error: GuestError) -> Self {
        let kind = match &error {
            GuestError::Failed { kind, .. } => match kind {
                FailureKind::NotFound | FailureKind::NoSuchDirectory => io::ErrorKind::NotFound,
                FailureKind::PermissionDenied => io::ErrorKind::PermissionDenied,
                FailureKind::NoSpace => io::ErrorKind::StorageFull,
                FailureKind::Invalid => io::ErrorKind::InvalidInput,
                _ => io::ErrorKind::Other,
            },
            GuestError::NoAnswer { .. } => io::ErrorKind::TimedOut,
            GuestError::Closed { .. } => io::ErrorKind::ConnectionAborted,
            GuestError::Invalid(_) | GuestError::TooLarge(_) => io::ErrorKind::InvalidInput,
            GuestError::WrongAnswer { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// A file of a guest that is being read. Dropping it ends that.
///
/// Implements `AsyncRead`; an error there is a [`GuestError`] within an [`io::Error`]. A reader that
/// takes its time makes the guest wait; a guest that sends nothing for half a minute is given up. If
/// the connection to the guest is lost meanwhile, as with a checkpoint, the file is asked for again
/// and goes on behind the bytes that were read.
pub struct FileReader {
    source: Option<Source>,
    step: Option<Step<Stepped>>,
    chunk: Chunk,
}

async fn asked(connector: &Connector, request: Request) -> Result<Pending, GuestError> {
    Ok(Pending::new(connector.request(request).await?))
}

/// A file on its way from a guest.
struct Source {
    connector: Connector,
    get: GetFile,
    pending: Pending,
    /// Bytes received, in this session and before.
    received: u64,
    /// Bytes that were received before, and come again.
    again: u64,
}

/// The source again with the next bytes of it; without them, it is at its end.
type Stepped = Result<Option<(Source, Vec<u8>)>, GuestError>;

impl Source {
    async fn next(mut self) -> Stepped {
        loop {
            match unless_stalled(READ, self.pending.next()).await? {
                Arrival::Data(_, mut bytes) => {
                    let known = usize::try_from(self.again).unwrap_or(usize::MAX);
                    let known = known.min(bytes.len());
                    self.again -= known as u64;
                    bytes.drain(..known);
                    self.received += bytes.len() as u64;
                    if !bytes.is_empty() {
                        return Ok(Some((self, bytes)));
                    }
                }
                Arrival::Done(Outcome::FileRead { bytes, .. })
                    if bytes == self.received && self.again == 0 =>
                {
                    return Ok(None);
                }
                Arrival::Interrupted => {
                    let request = Request::GetFile(self.get.clone());
                    let asked = asked(&self.connector, request);
                    self.pending = unless_stalled(READ, asked).await?;
                    self.again = self.received;
                }
                other => return Err(no_file("a file to read", other)),
            }
        }
    }
}

impl FileReader {
    pub(super) async fn open(connector: Connector, get: GetFile) -> Result<Self, GuestError> {
        let request = asked(&connector, Request::GetFile(get.clone()));
        let source = Source {
            pending: unless_stalled(READ, request).await?,
            connector,
            get,
            received: 0,
            again: 0,
        };
        let (source, chunk) = match source.next().await? {
            Some((source, chunk)) => (Some(source), chunk),
            None => (None, Vec::new()),
        };
        Ok(Self {
            source,
            step: None,
            chunk: chunk.into(),
        })
    }
}

impl fmt::Debug for FileReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReader")
            .field("unread_bytes", &self.chunk.unread())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for FileReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.chunk.unread() == 0 {
            if let Some(source) = self.source.take() {
                self.step = Some(Box::pin(source.next()));
            }
            let Some(step) = &mut self.step else {
                return Poll::Ready(Ok(()));
            };
            let stepped = ready!(step.as_mut().poll(context));
            self.step = None;
            if let Some((source, chunk)) = stepped? {
                (self.source, self.chunk) = (Some(source), chunk.into());
            }
        }
        self.chunk.read_into(buffer);
        Poll::Ready(Ok(()))
    }
}

/// A file of a guest that is being written.
///
/// Implements `AsyncWrite`; an error there is a [`GuestError`] within an [`io::Error`]. The file is
/// complete when [`finish`](Self::finish), or the shutdown of the stream, has succeeded. Dropping
/// this before takes back a new file, and leaves one that is overwritten as far as it came. Bytes are
/// sent as fast as the guest takes them; one that takes none for half a minute is given up. A stream
/// can't be sent again: if the connection to the guest is lost meanwhile, as with a checkpoint, this
/// fails with [`GuestError::Interrupted`].
#[derive(Debug)]
pub struct FileWriter(Upload<u64>);

impl FileWriter {
    pub(super) async fn open(connector: &Connector, put: PutFile) -> Result<Self, GuestError> {
        let request = Request::PutFile(put);
        Ok(Self(Upload::open(connector, request, WRITE, answer).await?))
    }

    /// Completes the file; returns its size in bytes.
    ///
    /// # Errors
    /// As for [`Guest::put_file`](super::Guest::put_file), and [`GuestError::Interrupted`].
    pub async fn finish(self) -> Result<u64, GuestError> {
        self.0.finish().await
    }
}

fn answer(mut pending: Pending, written: u64) -> Step<Result<u64, GuestError>> {
    Box::pin(async move {
        match unless_stalled(WRITE, pending.next()).await? {
            Arrival::Done(Outcome::FileWritten { bytes }) if bytes == written => Ok(written),
            Arrival::Interrupted => Err(GuestError::Interrupted { operation: WRITE }),
            other => Err(no_file("a file to write", other)),
        }
    })
}

impl AsyncWrite for FileWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_sent(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_end(context).map_ok(drop).map_err(Into::into)
    }
}
