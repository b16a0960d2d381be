//! A tar stream of a guest.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ironclaw_protocol::message::Outcome;
use tokio::io::{AsyncRead, ReadBuf};

use super::chunk::Chunk;
use super::error::GuestError;
use super::file_transfer::{no_file, unless_stalled};
use super::inbox::Arrival;
use super::running::Pending;

const READ: &str = "go on with an archive";

/// A tar archive of a guest's files that is made while it is read. Dropping it ends that.
///
/// Implements `AsyncRead`; an error there is a [`GuestError`] within an [`io::Error`]. The guest waits
/// for a reader that takes its time; one that sends nothing for half a minute is given up. If the
/// connection to the guest is lost meanwhile, as with a checkpoint, it fails with
/// [`GuestError::Interrupted`]: another archive may have other files.
///
/// A guest may send anything: whoever unpacks the archive has to expect names that lead elsewhere,
/// and whoever keeps it, that it does not end.
pub struct ArchiveReader {
    pending: Option<Pending>,
    step: Option<Pin<Box<dyn Future<Output = Stepped> + Send>>>,
    chunk: Chunk,
    summary: Option<ArchiveSummary>,
}

/// What became of an archive, as its guest tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ArchiveSummary {
    /// The number of entries.
    pub files: u64,
    /// The number of files that it does not have, because they can't be read, or because no archive
    /// holds them: sockets, and in a layer names that begin with `.wh.`, which have a meaning there.
    pub omitted: u64,
}

/// The next bytes, or the end.
type Stepped = Result<Result<(Pending, Vec<u8>), ArchiveSummary>, GuestError>;

async fn next(mut pending: Pending) -> Stepped {
    match unless_stalled(READ, pending.next()).await? {
        Arrival::Data(_, bytes) => Ok(Ok((pending, bytes))),
        Arrival::Done(Outcome::Archived { files, omitted }) => {
            Ok(Err(ArchiveSummary { files, omitted }))
        }
        Arrival::Interrupted => Err(GuestError::Interrupted { operation: READ }),
        other => Err(no_file("an archive", other)),
    }
}

impl ArchiveReader {
    /// Waits for the first bytes, so that what the guest can't do is an error of its own.
    pub(super) async fn open(pending: Pending) -> Result<Self, GuestError> {
        let mut reader = Self {
            pending: None,
            step: None,
            chunk: Chunk::default(),
            summary: None,
        };
        reader.took(next(pending).await?);
        Ok(reader)
    }

    /// Returns what became of it, once all of it is read.
    #[must_use]
    pub fn summary(&self) -> Option<ArchiveSummary> {
        self.summary
    }

    fn took(&mut self, next: Result<(Pending, Vec<u8>), ArchiveSummary>) {
        match next {
            Ok((pending, chunk)) => {
                (self.pending, self.chunk) = (Some(pending), chunk.into());
            }
            Err(summary) => self.summary = Some(summary),
        }
    }
}

impl fmt::Debug for ArchiveReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveReader")
            .field("unread_bytes", &self.chunk.unread())
            .field("summary", &self.summary)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for ArchiveReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.chunk.unread() == 0 {
            if let Some(pending) = self.pending.take() {
                self.step = Some(Box::pin(next(pending)));
            }
            let Some(step) = &mut self.step else {
                return Poll::Ready(Ok(()));
            };
            let stepped = ready!(step.as_mut().poll(context));
            self.step = None;
            self.took(stepped?);
        }
        self.chunk.read_into(buffer);
        Poll::Ready(Ok(()))
    }
}
