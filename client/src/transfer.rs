//! Content between a daemon and code that blocks: bytes in pieces, of which a few are on their way.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Pieces on their way.
const QUEUE: usize = 8;

/// Bytes of a piece.
const PIECE: usize = 64 * 1024;

/// Content of a request that is written while it is sent.
#[derive(Debug)]
pub struct Body(Receiver<io::Result<Bytes>>);

/// The end of a [`Body`] that is written. The content ends well when [`finish`](Self::finish) says so.
#[derive(Debug)]
pub(crate) struct Pieces {
    sender: Sender<io::Result<Bytes>>,
    held: Vec<u8>,
    is_finished: bool,
}

/// Creates content, and what writes it on another thread.
pub(crate) fn body() -> (Pieces, Body) {
    let (sender, receiver) = channel(QUEUE);
    let pieces = Pieces {
        sender,
        held: Vec::with_capacity(PIECE),
        is_finished: false,
    };
    (pieces, Body(receiver))
}

impl Pieces {
    /// Ends the content.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.is_finished = true;
        Ok(())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.held.len());
        self.held.extend_from_slice(&bytes[..count]);
        if self.held.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let held = std::mem::replace(&mut self.held, Vec::with_capacity(PIECE));
        let gone = |_| io::ErrorKind::BrokenPipe.into();
        match held.is_empty() {
            true => Ok(()),
            false => self.sender.blocking_send(Ok(held.into())).map_err(gone),
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if !self.is_finished {
            // Half of it must not be taken for all.
            let cut = io::Error::other("the content is cut");
            let _ = self.sender.try_send(Err(cut));
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = ready!(self.0.poll_recv(context));
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Content of an answer, to be read on another thread.
#[derive(Debug)]
pub(crate) struct Arriving {
    receiver: Receiver<io::Result<Bytes>>,
    left: Bytes,
}

/// Passes an answer's content on, to its end or until nobody reads it.
pub(crate) async fn pass(mut content: Incoming, to: Sender<io::Result<Bytes>>) {
    while let Some(frame) = content.frame().await {
        let piece = match frame {
            Ok(frame) => frame.into_data().map_or(Bytes::new(), |bytes| bytes),
            Err(error) => {
                let _ = to.send(Err(io::Error::other(error))).await;
                return;
            }
        };
        if !piece.is_empty() && to.send(Ok(piece)).await.is_err() {
            return;
        }
    }
}

/// Creates what reads content, and what it is [passed](pass) to.
pub(crate) fn arriving() -> (Sender<io::Result<Bytes>>, Arriving) {
    let (sender, receiver) = channel(QUEUE);
    let left = Bytes::new();
    (sender, Arriving { receiver, left })
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.left = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.left.len());
        buffer[..count].copy_from_slice(&self.left.split_to(count));
        Ok(count)
    }
}
