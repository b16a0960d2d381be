//! An unanswered request, with everything needed to continue it in another session.

use std::collections::VecDeque;
use std::sync::Arc;

use ironclaw_protocol::limits::{MAX_CHUNK, WINDOW};
use ironclaw_protocol::message::{
    ExecId, Request, RequestId, StdinAt, Stream, TerminalSize, ToGuest,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::activity::Busy;
use super::inbox::{Inbox, Position};

/// Limit of the signals kept for a command until its session is back: more than there are kinds.
const MAX_SIGNALS: usize = 64;

/// The kind of request, as far as it matters when the session is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A command, which continues without a session.
    Command(ExecId),
    /// About files, or a connection: its owner decides how to ask again.
    File,
    /// A request that can be repeated.
    Question,
}

impl Kind {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Exec(exec) => Self::Command(exec.id),
            Request::Attach(attach) => Self::Command(attach.exec),
            Request::PutFile(_)
            | Request::GetFile(_)
            | Request::File(_)
            | Request::Connect { .. } => Self::File,
            _ => Self::Question,
        }
    }

    fn first_stream(self) -> Stream {
        match self {
            Self::File => Stream::File,
            _ => Stream::Stdout,
        }
    }
}

/// The way in which the caller has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Cancelled: the guest ends it.
    Cancel,
    /// Detached: the command continues.
    Detach,
}

impl Leave {
    pub(super) fn message(self, id: RequestId) -> ToGuest {
        match self {
            Self::Cancel => ToGuest::Cancel { id },
            Self::Detach => ToGuest::Detach { id },
        }
    }
}

/// A request that the guest has not answered.
pub(super) struct Open {
    pub(super) inbox: Arc<Inbox>,
    /// Bytes of content that the guest takes now.
    pub(super) credit: Arc<Semaphore>,
    pub(super) wanted: Arc<Semaphore>,
    _slot: OwnedSemaphorePermit,
    /// The queue, while the caller waits for it.
    busy: Option<Busy>,
    pub(super) kind: Kind,
    /// The request, until the guest certainly has it.
    request: Option<Request>,
    /// Whether it was sent, in this session or an earlier one.
    pub(super) sent: bool,
    /// Whether the guest knows its id in this session.
    pub(super) known: bool,
    content: Content,
    awaits_reader: bool,
    signals: Vec<i32>,
    /// The size that its terminal got last.
    size: Option<TerminalSize>,
    /// When it was abandoned.
    pub(super) left: Option<(Instant, Leave)>,
}

/// The content sent for a request, which may have to be sent again.
#[derive(Default)]
struct Content {
    /// Bytes sent, since the start.
    end: u64,
    /// The part of them that the guest's command has taken.
    taken: u64,
    /// The last of them, which the guest may not have.
    bytes: VecDeque<u8>,
    eof: bool,
}

/// The error of a guest's report that does not fit what was sent.
#[derive(Debug)]
pub(super) struct Mismatch;

impl Open {
    pub(super) fn new(request: Request, slot: OwnedSemaphorePermit, busy: Busy) -> Self {
        let kind = Kind::of(&request);
        let inbox = match &request {
            Request::Attach(attach) => Inbox::from(Position {
                stdout: attach.stdout,
                stderr: attach.stderr,
            }),
            _ => Inbox::new(kind.first_stream()),
        };
        Self {
            inbox: Arc::new(inbox),
            credit: Arc::new(Semaphore::new(WINDOW as usize)),
            wanted: Arc::new(Semaphore::new(0)),
            _slot: slot,
            busy: Some(busy),
            kind,
            request: Some(request),
            sent: false,
            known: false,
            content: Content::default(),
            awaits_reader: false,
            signals: Vec::new(),
            size: None,
            left: None,
        }
    }

    /// Records that it takes no more content.
    pub(super) fn end_input(&mut self) {
        self.credit.close();
        self.wanted.close();
        self.content.bytes = VecDeque::new();
    }

    /// Abandons it.
    pub(super) fn leave(&mut self, how: Leave) -> Option<Busy> {
        self.end_input();
        self.left = Some((Instant::now(), how));
        self.busy.take()
    }

    /// Takes the request to send it; [`was_sent`](Self::was_sent) returns it.
    pub(super) fn take_request(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// Records that it was sent.
    pub(super) fn was_sent(&mut self, request: Request) {
        // A request whose first answer is a message of its own is known only after that.
        self.known = !matches!(request, Request::Attach(_));
        self.sent = true;
        self.request = Some(request);
    }

    /// Returns whether the guest may lack the command's request.
    pub(super) fn may_be_unknown(&self) -> bool {
        matches!(self.request, Some(Request::Exec(_))) && self.left.is_none()
    }

    /// Records that the guest reported on it, and so has the request.
    pub(super) fn heard(&mut self) {
        if let Kind::Command(_) = self.kind {
            self.request = None;
        }
    }

    /// Adds content that is sent, or kept until it can be.
    pub(super) fn give(&mut self, bytes: &[u8]) {
        self.content.end += bytes.len() as u64;
        // A file is sent again from its start, by its owner.
        if let Kind::Command(_) = self.kind {
            self.content.bytes.extend(bytes);
        }
    }

    /// Records the end of content.
    pub(super) fn end_content(&mut self) {
        self.content.eof = true;
    }

    /// Records that the command took so much more; `None` if it never got that.
    pub(super) fn consumed(&mut self, bytes: u32) -> Result<(), Mismatch> {
        let content = &mut self.content;
        let taken = content.taken + u64::from(bytes);
        if taken > content.end {
            return Err(Mismatch);
        }
        content.taken = taken;
        content.shorten();
        self.credit.add_permits(bytes as usize);
        Ok(())
    }

    /// Records that the caller wants to know when the command waits for content.
    pub(super) fn await_reader(&mut self) {
        self.awaits_reader = true;
    }

    /// Reports that to the caller.
    pub(super) fn reader_waits(&mut self) {
        self.awaits_reader = false;
        // A guest may report it any number of times, asked or not.
        if self.wanted.available_permits() == 0 {
            self.wanted.add_permits(1);
        }
    }

    /// Keeps a signal that can't be sent now.
    pub(super) fn keep_signal(&mut self, signal: i32) {
        if self.signals.len() < MAX_SIGNALS {
            self.signals.push(signal);
        }
    }

    /// Records the size of its terminal.
    pub(super) fn resize(&mut self, size: TerminalSize) {
        self.size = Some(size);
    }

    /// Records that the guest found the command again, with its standard input at this point.
    /// Returns the messages for it.
    pub(super) fn attached(
        &mut self,
        id: RequestId,
        at: Position,
        stdin: Option<StdinAt>,
    ) -> Result<Vec<ToGuest>, Mismatch> {
        if self.known || !self.inbox.attach(at) {
            return Err(Mismatch);
        }
        self.known = true;
        let is_new = matches!(self.request, Some(Request::Attach(_)));
        self.request = None;
        let mut messages = Vec::new();
        for (stream, offset) in self.inbox.tell_all() {
            messages.push(ToGuest::Taken { id, stream, offset });
        }
        match stdin {
            // Closed to the guest's knowledge, or it never had one.
            None => self.end_input(),
            Some(at) if is_new => {
                let behind = at.received.saturating_sub(at.taken);
                let behind = usize::try_from(behind).map_err(|_| Mismatch)?;
                self.credit.forget_permits(behind);
                (self.content.end, self.content.taken) = (at.received, at.taken);
            }
            Some(at) if self.left.is_none() => {
                let (again, freed) = self.content.resume(at)?;
                self.credit.add_permits(freed);
                let chunks = again.chunks(MAX_CHUNK).map(<[u8]>::to_vec);
                messages.extend(chunks.map(|bytes| ToGuest::Data { id, bytes }));
            }
            Some(_) => {}
        }
        if stdin.is_some() && self.content.eof {
            messages.push(ToGuest::Eof { id });
        }
        if self.awaits_reader {
            messages.push(ToGuest::AwaitReader { id });
        }
        let size = self.size;
        messages.extend(size.map(|size| ToGuest::Resize { id, size }));
        let signals = self.signals.drain(..);
        messages.extend(signals.map(|signal| ToGuest::Signal { id, signal }));
        messages.extend(self.left.map(|(_, how)| how.message(id)));
        Ok(messages)
    }
}

impl Content {
    fn shorten(&mut self) {
        let kept = usize::try_from(self.end - self.taken).unwrap_or(usize::MAX);
        let beyond = self.bytes.len().saturating_sub(kept);
        self.bytes.drain(..beyond);
    }

    /// Returns what the guest has not received, and how much more its command has taken than known.
    fn resume(&mut self, at: StdinAt) -> Result<(Vec<u8>, usize), Mismatch> {
        let missing = self.end.checked_sub(at.received).ok_or(Mismatch)?;
        let freed = at.taken.checked_sub(self.taken).ok_or(Mismatch)?;
        let missing = usize::try_from(missing).map_err(|_| Mismatch)?;
        let skip = self.bytes.len().checked_sub(missing).ok_or(Mismatch)?;
        let again = self.bytes.range(skip..).copied().collect();
        self.taken = at.taken;
        self.shorten();
        Ok((again, usize::try_from(freed).map_err(|_| Mismatch)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_goes_on_where_the_guest_has_it() {
        let mut content = Content {
            end: 10,
            taken: 4,
            bytes: (4..10).collect(),
            eof: false,
        };
        let at = |received, taken| StdinAt { received, taken };
        let (again, freed) = content.resume(at(8, 5)).unwrap();
        assert_eq!((again, freed), (vec![8, 9], 1));
        let (again, freed) = content.resume(at(10, 10)).unwrap();
        assert_eq!((again.len(), freed, content.bytes.len()), (0, 5, 0));
        for lie in [at(11, 10), at(9, 9), at(10, 9)] {
            assert!(content.resume(lie).is_err(), "{lie:?}");
        }
    }
}
