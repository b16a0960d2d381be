//! The standard input of a running command.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Instant;

use crate::reader::ReaderSearch;

/// What Ctrl-D types.
const END_OF_TRANSMISSION: u8 = 4;

/// The content that the host sent and the command has not taken yet, at most a window.
///
/// A command that closes its input is no error: later content is discarded, and counts as read.
#[derive(Debug)]
pub(crate) struct Stdin {
    /// `None` when nobody reads any more, or everything was read.
    pipe: Option<File>,
    queue: VecDeque<Vec<u8>>,
    /// Bytes written of the first chunk.
    written: usize,
    eof: bool,
    /// The name of the terminal that it is typed on.
    terminal: Option<PathBuf>,
    /// Set while the host wants to know of a waiting reader, and for the end of what is typed.
    search: Option<ReaderSearch>,
}

impl Stdin {
    pub(crate) fn new(pipe: File) -> Self {
        let queue = VecDeque::new();
        Self {
            pipe: Some(pipe),
            queue,
            written: 0,
            eof: false,
            terminal: None,
            search: None,
        }
    }

    /// Creates one that types on the terminal of this name.
    pub(crate) fn of_terminal(terminal: File, name: PathBuf) -> Self {
        Self {
            terminal: Some(name),
            ..Self::new(terminal)
        }
    }

    /// Returns the pipe, if there is something to write. Only a write notices its hang-up.
    pub(crate) fn to_write(&self) -> Option<BorrowedFd<'_>> {
        self.pipe
            .as_ref()
            .filter(|_| !self.queue.is_empty())
            .map(AsFd::as_fd)
    }

    /// Adds content. Returns how many bytes have left the agent's memory.
    #[must_use]
    pub(crate) fn arrive(&mut self, bytes: Vec<u8>) -> usize {
        if self.pipe.is_none() || bytes.is_empty() {
            return bytes.len();
        }
        self.queue.push_back(bytes);
        self.write()
    }

    /// Records the end of content.
    ///
    /// A terminal does not end. A program takes what Ctrl-D types for the end when it reads, and only
    /// then: what is typed before it has set its terminal's modes would be lost, or be read as
    /// something else. So it is typed whenever somebody waits for more.
    pub(crate) fn close(&mut self, now: Instant) {
        if self.terminal.is_some() {
            self.search = Some(ReaderSearch::start_of_terminal(now));
        }
        self.eof = true;
        self.close_if_done();
    }

    /// Records that the host wants to know when somebody waits for content.
    pub(crate) fn await_reader(&mut self, now: Instant) {
        self.search.get_or_insert_with(|| ReaderSearch::start(now));
    }

    /// Returns when to [`look`](Self::look).
    pub(crate) fn next_look(&self) -> Option<Instant> {
        let search = self.search.as_ref()?;
        let is_open = self.pipe.is_some() && (!self.eof || self.terminal.is_some());
        (is_open && self.queue.is_empty()).then(|| search.due())
    }

    /// Checks whether somebody waits, as the host wanted to know; only if it is time.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        if self.next_look().is_none_or(|due| now < due) {
            return false;
        }
        let waits = match (&mut self.search, &self.pipe, &self.terminal) {
            (Some(search), Some(_), Some(name)) if self.eof => {
                if search.look_at_terminal(name, now) {
                    let _ = self.arrive(vec![END_OF_TRANSMISSION]);
                }
                return false;
            }
            // Whatever is typed waits there for the command, and nobody else would read it.
            (Some(_), Some(_), Some(_)) => true,
            (Some(search), Some(pipe), None) => search.look(pipe, now),
            _ => false,
        };
        if waits {
            self.search = None;
        }
        waits
    }

    /// Gives up the input. Returns how many bytes will not be read.
    #[must_use]
    pub(crate) fn abandon(&mut self) -> usize {
        self.pipe = None;
        let waiting = self.queue.drain(..).map(|chunk| chunk.len()).sum::<usize>();
        waiting - std::mem::take(&mut self.written)
    }

    /// Writes as much as the pipe takes. Returns how many bytes have left the agent's memory.
    #[must_use]
    pub(crate) fn write(&mut self) -> usize {
        let mut consumed = 0;
        while let (Some(pipe), Some(chunk)) = (&mut self.pipe, self.queue.front()) {
            match pipe.write(&chunk[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    if self.written == chunk.len() {
                        self.queue.pop_front();
                        self.written = 0;
                    }
                    consumed += count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return consumed,
                // EPIPE: the command, and everybody who had its input, closed it.
                Err(_) => consumed += self.abandon(),
            }
        }
        self.close_if_done();
        consumed
    }

    fn close_if_done(&mut self) {
        if self.eof && self.queue.is_empty() && self.terminal.is_none() {
            self.pipe = None;
        }
    }
}
