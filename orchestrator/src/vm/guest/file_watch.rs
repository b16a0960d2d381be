//! What happens to files of a guest.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use ironclaw_protocol::file::{self, EventKind, FileOperation, FileRequest};
use ironclaw_protocol::message::{Outcome, Request};
use ironclaw_protocol::os_bytes::OsBytes;
use ironclaw_protocol::records::Records;

use super::connection::Connector;
use super::error::GuestError;
use super::file_transfer::{no_file, unless_stalled};
use super::inbox::Arrival;
use super::running::Pending;
use crate::untrusted;

const OPEN: &str = "begin to watch files";

/// Something that happened to a file, as its guest tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileEvent {
    /// What happened.
    pub kind: EventKind,
    /// The path of what it happened to: what is watched, or something below.
    pub path: PathBuf,
    /// The path that it had, if it was renamed.
    pub from: Option<PathBuf>,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// A watch over a file or a directory of a guest, from [`Files::watch`](super::Files::watch). Dropping
/// it ends that.
///
/// Whoever does not take the events misses some when the guest has kept half a megabyte of them, and is
/// told so by [`EventKind::Overflow`]; so is whoever watches while the connection to the guest is lost, as
/// by a checkpoint, after which the watch goes on.
#[derive(Debug)]
#[must_use = "a watch ends when it is dropped"]
pub struct FileWatch {
    connector: Connector,
    path: OsBytes,
    request: FileRequest,
    pending: Pending,
    records: Records,
    is_over: bool,
}

impl FileWatch {
    /// Waits until the guest watches.
    pub(super) async fn open(
        connector: Connector,
        path: OsBytes,
        recursive: bool,
        user: Option<OsBytes>,
    ) -> Result<Self, GuestError> {
        let operation = FileOperation::Watch {
            path: path.clone(),
            recursive,
        };
        let request = FileRequest { user, operation };
        let pending = unless_stalled(OPEN, opened(&connector, &request)).await?;
        Ok(Self {
            connector,
            path,
            request,
            pending,
            records: Records::default(),
            is_over: false,
        })
    }

    /// Returns the next event; `None` when what is watched is gone. Cancel-safe.
    ///
    /// # Errors
    /// [`GuestError::WrongAnswer`] if the guest tells of what is not watched; [`GuestError::Closed`] if the
    /// VM has ended; else as for [`Files::watch`](super::Files::watch), when a lost connection is back.
    pub async fn next(&mut self) -> Result<Option<FileEvent>, GuestError> {
        loop {
            let record = self.records.read::<file::FileEvent>();
            if let Some(event) = record.map_err(|error| broken(&error.to_string()))? {
                let checked = event.validate(&self.path);
                checked.map_err(|error| broken(&error.to_string()))?;
                return Ok(Some(event.into()));
            }
            if self.is_over {
                return Ok(None);
            }
            match self.pending.next().await? {
                Arrival::Data(_, bytes) => self.records.push(&bytes),
                Arrival::Done(Outcome::Unwatched) if self.records.is_empty() => {
                    self.is_over = true;
                }
                Arrival::Interrupted => {
                    let again = opened(&self.connector, &self.request);
                    self.pending = unless_stalled(OPEN, again).await?;
                    self.records = Records::default();
                    return Ok(Some(self.overflow()));
                }
                other => return Err(no_file("a watch", other)),
            }
        }
    }

    fn overflow(&self) -> FileEvent {
        FileEvent {
            kind: EventKind::Overflow,
            path: path(&self.path),
            from: None,
            is_directory: false,
        }
    }

    /// Turns it into a stream of its events.
    pub fn into_events(self) -> FileEvents {
        FileEvents {
            next: Some(next(self)),
        }
    }
}

/// Asks for a watch, and waits until there is one. One that is lost before that is asked for again.
async fn opened(connector: &Connector, request: &FileRequest) -> Result<Pending, GuestError> {
    loop {
        let request = Request::File(request.clone());
        let mut pending = Pending::new(connector.request(request).await?);
        match pending.next().await? {
            Arrival::Opened => return Ok(pending),
            Arrival::Interrupted => {}
            other => return Err(no_file("a watch", other)),
        }
    }
}

type Next =
    Pin<Box<dyn Future<Output = (FileWatch, Result<Option<FileEvent>, GuestError>)> + Send>>;

/// The events of a [`FileWatch`] as a stream, which ends when what is watched is gone, and after an error.
/// Dropping it ends the watch.
#[must_use = "a watch ends when its events are dropped"]
pub struct FileEvents {
    next: Option<Next>,
}

impl std::fmt::Debug for FileEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileEvents")
            .field("ended", &self.next.is_none())
            .finish()
    }
}

fn next(mut watch: FileWatch) -> Next {
    Box::pin(async move {
        let event = watch.next().await;
        (watch, event)
    })
}

impl Stream for FileEvents {
    type Item = Result<FileEvent, GuestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(pending) = &mut self.next else {
            return Poll::Ready(None);
        };
        let (watch, event) = ready!(pending.as_mut().poll(context));
        self.next = matches!(event, Ok(Some(_))).then(|| next(watch));
        Poll::Ready(event.transpose())
    }
}

fn path(bytes: &OsBytes) -> PathBuf {
    OsString::from_vec(bytes.as_bytes().to_vec()).into()
}

impl From<file::FileEvent> for FileEvent {
    fn from(event: file::FileEvent) -> Self {
        Self {
            kind: event.kind,
            path: path(&event.path),
            from: event.from.as_ref().map(path),
            is_directory: event.is_directory,
        }
    }
}

fn broken(reason: &str) -> GuestError {
    GuestError::WrongAnswer {
        operation: "a watch",
        answer: untrusted::line(reason),
    }
}
