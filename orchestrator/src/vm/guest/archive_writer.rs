//! A tar stream for a guest.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ironclaw_protocol::message::{Outcome, Request};
use tokio::io::AsyncWrite;

use super::connection::Connector;
use super::error::GuestError;
use super::file_transfer::{no_file, unless_stalled};
use super::inbox::Arrival;
use super::running::Pending;
use super::upload::{Step, Upload};

const WRITE: &str = "go on unpacking an archive";

/// A tar archive that a guest unpacks while it is written, from
/// [`Files::extract`](super::Files::extract).
///
/// Implements `AsyncWrite`; an error there is a [`GuestError`] within an [`io::Error`]. All is unpacked
/// when [`finish`](Self::finish), or the shutdown of the stream, has succeeded; what was unpacked when it
/// fails, or is dropped before, stays. Bytes are sent as fast as the guest takes them; one that takes none
/// for half a minute is given up. If the connection to the guest is lost meanwhile, as with a checkpoint,
/// this fails with [`GuestError::Interrupted`].
#[derive(Debug)]
pub struct ArchiveWriter(Upload<ExtractSummary>);

/// What became of an archive that was unpacked, as its guest tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ExtractSummary {
    /// The number of entries that were made.
    pub files: u64,
    /// The number of entries that were left out: devices, if the owners are not those of the archive.
    pub omitted: u64,
}

impl ArchiveWriter {
    pub(super) async fn open(connector: &Connector, request: Request) -> Result<Self, GuestError> {
        Ok(Self(Upload::open(connector, request, WRITE, answer).await?))
    }

    /// Ends the archive, and waits until all of it is unpacked.
    ///
    /// # Errors
    /// [`GuestError::Failed`] if the guest could not unpack it: its text has the entry, and the reason;
    /// else as for [`FileWriter::finish`](super::FileWriter::finish).
    pub async fn finish(self) -> Result<ExtractSummary, GuestError> {
        self.0.finish().await
    }
}

fn answer(mut pending: Pending, _: u64) -> Step<Result<ExtractSummary, GuestError>> {
    Box::pin(async move {
        match unless_stalled(WRITE, pending.next()).await? {
            Arrival::Done(Outcome::Extracted { files, omitted }) => {
                Ok(ExtractSummary { files, omitted })
            }
            Arrival::Interrupted => Err(GuestError::Interrupted { operation: WRITE }),
            other => Err(no_file("an archive to unpack", other)),
        }
    })
}

impl AsyncWrite for ArchiveWriter {
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
