//! The events of a running command as a stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::error::GuestError;
use super::known::CommandId;
use super::running::{ExecEvent, Running};

type Next = Pin<Box<dyn Future<Output = (Running, Result<ExecEvent, GuestError>)> + Send>>;

/// The events of a running command: its output, then its end, after which the stream ends, as it does
/// after an error. Dropping it kills the command as dropping its [`Running`] does.
///
/// Keeps one event at most, and a window of output in the connection: a command whose events nobody
/// takes waits.
#[must_use = "a command is killed when its events are dropped"]
pub struct Events {
    id: CommandId,
    next: Option<Next>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("id", &self.id)
            .field("ended", &self.next.is_none())
            .finish()
    }
}

impl Events {
    /// Returns the command's id in its guest.
    #[must_use]
    pub fn id(&self) -> CommandId {
        self.id
    }
}

impl Running {
    /// Turns it into a stream of its events. Take its [standard input](Self::take_stdin) before.
    pub fn into_events(self) -> Events {
        Events {
            id: self.id(),
            next: Some(next(self)),
        }
    }
}

fn next(mut running: Running) -> Next {
    Box::pin(async move {
        let event = running.next().await;
        (running, event)
    })
}

impl Stream for Events {
    type Item = Result<ExecEvent, GuestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(pending) = &mut self.next else {
            return Poll::Ready(None);
        };
        let (running, event) = ready!(pending.as_mut().poll(context));
        let goes_on = matches!(&event, Ok(ExecEvent::Stdout(_) | ExecEvent::Stderr(_)));
        self.next = goes_on.then(|| next(running));
        Poll::Ready(Some(event))
    }
}
