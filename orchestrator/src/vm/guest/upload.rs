//! Content on its way to a guest: of a request that goes on, and of one that ends with it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ironclaw_protocol::limits::MAX_CHUNK;
use ironclaw_protocol::message::Request;

use super::connection::Connector;
use super::error::GuestError;
use super::file_transfer::unless_stalled;
use super::running::{Pending, StdinWriter};

/// A step that is taken while others are asked for.
pub(super) type Step<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The content of a request, a chunk of which is on its way at a time.
pub(super) struct Content {
    writer: Option<StdinWriter>,
    sending: Option<Step<(StdinWriter, Result<(), GuestError>)>>,
    /// What the guest does that takes it, if it has to go on with that in time.
    operation: Option<&'static str>,
    written: u64,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

impl Content {
    /// Creates that of a request whose guest takes it in its own time.
    pub(super) fn patient(writer: StdinWriter) -> Self {
        Self {
            writer: Some(writer),
            sending: None,
            operation: None,
            written: 0,
        }
    }

    /// Creates that of a request whose guest is given up when it takes nothing for long.
    pub(super) fn of_operation(writer: StdinWriter, operation: &'static str) -> Self {
        Self {
            operation: Some(operation),
            ..Self::patient(writer)
        }
    }

    /// Returns the bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Polls until everything is with the connection that was written.
    pub(super) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<(), GuestError>> {
        if let Some(sending) = &mut self.sending {
            let (writer, sent) = ready!(sending.as_mut().poll(context));
            self.sending = None;
            self.writer = Some(writer);
            sent?;
        }
        Poll::Ready(Ok(()))
    }

    /// Polls until some of the bytes can be sent, and returns how many; none if the guest takes no more.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<Option<usize>, GuestError>> {
        ready!(self.poll_sent(context))?;
        match self.writer.take() {
            Some(mut writer) if writer.is_open() => {
                let chunk = bytes[..bytes.len().min(MAX_CHUNK)].to_vec();
                let (count, operation) = (chunk.len(), self.operation);
                self.written += count as u64;
                self.sending = Some(Box::pin(async move {
                    let send = writer.write_all(&chunk);
                    let sent = match operation {
                        Some(operation) => unless_stalled(operation, send).await,
                        None => send.await,
                    };
                    (writer, sent)
                }));
                Poll::Ready(Ok(Some(count)))
            }
            writer => {
                self.writer = writer;
                Poll::Ready(Ok(None))
            }
        }
    }

    /// Polls until everything is with the connection, and ends the content.
    pub(super) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<(), GuestError>> {
        ready!(self.poll_sent(context))?;
        drop(self.writer.take());
        Poll::Ready(Ok(()))
    }
}

/// Waits for the answer to a request whose content had this length.
pub(super) type Answer<T> = fn(Pending, u64) -> Step<Result<T, GuestError>>;

/// A request that is answered when all of its content is there. Dropping it before cancels it.
pub(super) struct Upload<T> {
    // Dropped before the content, whose own drop would complete it.
    pending: Option<Pending>,
    content: Content,
    answer: Answer<T>,
    ending: Option<Step<Result<T, GuestError>>>,
    end: Option<Result<T, GuestError>>,
}

impl<T> fmt::Debug for Upload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("content", &self.content)
            .finish_non_exhaustive()
    }
}

impl<T: Clone> Upload<T> {
    /// Asks the guest to take content for an operation.
    pub(super) async fn open(
        connector: &Connector,
        request: Request,
        operation: &'static str,
        answer: Answer<T>,
    ) -> Result<Self, GuestError> {
        let asked = async { Ok(Pending::new(connector.request(request).await?)) };
        let pending = unless_stalled(operation, asked).await?;
        Ok(Self {
            content: Content::of_operation(pending.writer(), operation),
            pending: Some(pending),
            answer,
            ending: None,
            end: None,
        })
    }

    /// Ends the content, and waits for the answer.
    pub(super) async fn finish(mut self) -> Result<T, GuestError> {
        std::future::poll_fn(|context| self.poll_end(context)).await
    }

    /// Polls until the guest has answered.
    pub(super) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<T, GuestError>> {
        loop {
            if let Some(end) = &self.end {
                return Poll::Ready(end.clone());
            }
            if let Some(ending) = &mut self.ending {
                self.end = Some(ready!(ending.as_mut().poll(context)));
                self.ending = None;
                continue;
            }
            if let Err(error) = ready!(self.content.poll_end(context)) {
                self.end = Some(Err(error));
            } else if let Some(pending) = self.pending.take() {
                self.ending = Some((self.answer)(pending, self.content.written()));
            }
        }
    }

    pub(super) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.content.poll_sent(context).map_err(Into::into)
    }

    /// Polls until some of the bytes can be sent. If the guest takes no more, it has said why.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.content.poll_write(context, bytes))? {
            Some(count) => Poll::Ready(Ok(count)),
            None => {
                ready!(self.poll_end(context))?;
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
        }
    }
}
