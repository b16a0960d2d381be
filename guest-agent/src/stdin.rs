//! Standard input of a running command.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use ironclaw_protocol::message::{RequestId, ToHost};

use crate::inflow::Inflow;
use crate::outgoing::Outgoing;
use crate::reader::ReaderSearch;
use crate::violation::Violation;

/// What the host sent and the command has not taken yet, at most a window's worth.
///
/// A command that closes its input is not an error: what still comes is thrown away, and the
/// host gets its credit back as if it had been read.
#[derive(Debug)]
pub(crate) struct Stdin {
    /// Absent when nobody reads any more, or everything was read.
    pipe: Option<File>,
    queue: VecDeque<Vec<u8>>,
    /// How much of the first chunk is written.
    written: usize,
    eof: bool,
    inflow: Inflow,
    id: RequestId,
    /// While the host wants to be told of a reader that waits.
    search: Option<ReaderSearch>,
}

impl Stdin {
    pub(crate) fn new(id: RequestId, pipe: File) -> Self {
        let queue = VecDeque::new();
        Self {
            pipe: Some(pipe),
            queue,
            written: 0,
            eof: false,
            inflow: Inflow::new(id),
            id,
            search: None,
        }
    }

    /// Whether the host said that no more comes.
    pub(crate) fn is_closed(&self) -> bool {
        self.eof
    }

    /// The pipe, if there is something to write to it. Its hang-up can only be told by writing.
    pub(crate) fn to_write(&self) -> Option<BorrowedFd<'_>> {
        self.pipe
            .as_ref()
            .filter(|_| !self.queue.is_empty())
            .map(AsFd::as_fd)
    }

    /// Content arrived.
    pub(crate) fn arrive(&mut self, bytes: Vec<u8>, out: &mut Outgoing) -> Result<(), Violation> {
        self.inflow.arrive(bytes.len())?;
        if self.pipe.is_some() && !bytes.is_empty() {
            self.queue.push_back(bytes);
            self.write(out);
        } else {
            self.inflow.consume(bytes.len(), out);
        }
        Ok(())
    }

    /// No more content arrives.
    pub(crate) fn close(&mut self) {
        self.eof = true;
        self.close_if_done();
    }

    /// The host wants to be told when somebody waits for what it has not sent.
    pub(crate) fn await_reader(&mut self, now: Instant) {
        self.search.get_or_insert_with(|| ReaderSearch::start(now));
    }

    /// When to [`look`](Self::look).
    pub(crate) fn next_look(&self) -> Option<Instant> {
        let search = self.search.as_ref()?;
        let is_open = self.pipe.is_some() && !self.eof;
        (is_open && self.queue.is_empty()).then(|| search.due())
    }

    /// Tells the host if somebody waits; not before it is due.
    pub(crate) fn look(&mut self, now: Instant, out: &mut Outgoing) {
        if self.next_look().is_none_or(|due| now < due) {
            return;
        }
        if let (Some(search), Some(pipe)) = (&mut self.search, &self.pipe)
            && search.look(pipe, now)
        {
            self.search = None;
            out.push(&ToHost::ReaderWaits { id: self.id });
        }
    }

    /// Nobody reads any more.
    pub(crate) fn abandon(&mut self, out: &mut Outgoing) {
        self.pipe = None;
        let waiting = self.queue.drain(..).map(|chunk| chunk.len()).sum::<usize>();
        self.inflow
            .consume(waiting - std::mem::take(&mut self.written), out);
    }

    /// Writes what the pipe takes without blocking.
    pub(crate) fn write(&mut self, out: &mut Outgoing) {
        while let (Some(pipe), Some(chunk)) = (&mut self.pipe, self.queue.front()) {
            match pipe.write(&chunk[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    if self.written == chunk.len() {
                        self.queue.pop_front();
                        self.written = 0;
                    }
                    self.inflow.consume(count, out);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // EPIPE: the command and whoever had its input closed it.
                Err(_) => self.abandon(out),
            }
        }
        self.close_if_done();
    }

    fn close_if_done(&mut self) {
        if self.eof && self.queue.is_empty() {
            self.pipe = None;
        }
    }
}
