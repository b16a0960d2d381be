//! A request that takes time and is no command: what a session asks of all of them alike.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use ironclaw_protocol::message::{Outcome, RequestId};
use ironclaw_protocol::session::{Outgoing, Violation};
use rustix::event::PollFlags;

/// Bytes, or work, on their way. Dropping it before its end undoes what is half done.
pub(crate) trait Transfer: Debug {
    /// Adds content of the host. Returns the outcome if that ends it.
    fn content(
        &mut self,
        id: RequestId,
        _bytes: &[u8],
        _out: &mut Outgoing,
    ) -> Result<Option<Outcome>, Violation> {
        Err(Violation::UnexpectedContent(id))
    }

    /// Ends that content.
    fn end_of_content(&mut self, id: RequestId) -> Result<Option<Outcome>, Violation> {
        Err(Violation::UnexpectedContent(id))
    }

    /// Records that the host took everything up to `offset`; returns `false` if that was not sent.
    #[must_use]
    fn taken(&mut self, _offset: u64) -> bool {
        true
    }

    /// Returns the descriptor to wait for, and the events, of which [`serve`](Self::serve) is told.
    fn waits(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        None
    }

    /// Records events of that descriptor.
    fn serve(&mut self, _events: PollFlags) {}

    /// Returns whether it is a connection to a program of the guest.
    fn is_connection(&self) -> bool {
        false
    }

    /// Returns whether it is a watch, which tells of what happened before a request before the answer.
    fn is_watch(&self) -> bool {
        false
    }

    /// Returns whether [`step`](Self::step) would do something, without waiting.
    fn is_ready(&self) -> bool {
        false
    }

    /// Does a bounded part of the work, and queues no more than a chunk. Returns the outcome at the
    /// end.
    fn step(&mut self, _buffer: &mut [u8], _out: &mut Outgoing) -> Option<Outcome> {
        None
    }
}
