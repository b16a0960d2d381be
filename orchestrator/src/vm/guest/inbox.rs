//! The queue of what came for a request and was not taken yet.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ironclaw_protocol::message::{Outcome, Stream};
use tokio::sync::Notify;

use super::error::GuestError;

/// An arrival for a request.
pub(super) enum Arrival {
    /// The guest began to send the output of a command that others started or this session lost.
    Attached,
    /// The guest began with what has no end of its own, like a connection.
    Opened,
    /// Bytes, as many as there were.
    Data(Stream, Vec<u8>),
    /// No more bytes come, and the request goes on.
    ContentEnded,
    /// The end.
    Done(Outcome),
    /// The session of a file's transfer was lost: the file has to be sent again.
    Interrupted,
}

/// Without the bytes, which may be secret, or many.
impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached => f.write_str("Attached"),
            Self::Opened => f.write_str("Opened"),
            Self::ContentEnded => f.write_str("ContentEnded"),
            Self::Data(stream, bytes) => write!(f, "{} bytes of {stream:?}", bytes.len()),
            Self::Done(outcome) => f.debug_tuple("Done").field(outcome).finish(),
            Self::Interrupted => f.write_str("Interrupted"),
        }
    }
}

/// A report for the guest: everything of a stream was taken up to an offset.
pub(super) type Taken = (Stream, u64);

/// Offsets in a command's two streams, in bytes since their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Standard output.
    pub stdout: u64,
    /// Standard error.
    pub stderr: u64,
}

/// The queue of one request. Joins the bytes of a stream, so that the window bounds its memory,
/// however small the pieces are that a guest sends.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug)]
struct State {
    /// The first stream: standard output, or a file.
    output: Flow,
    errors: Flow,
    attached: bool,
    opened: Notice,
    content_ended: Notice,
    out_of_memory: bool,
    end: Option<Result<End, GuestError>>,
}

/// What a guest says once, if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Notice {
    #[default]
    None,
    Waiting,
    Taken,
}

impl Notice {
    /// Records that it came; returns `false` if it had before.
    fn arrive(&mut self) -> bool {
        *self == Self::None && {
            *self = Self::Waiting;
            true
        }
    }

    /// Returns whether it waits, and takes it.
    fn take(&mut self) -> bool {
        *self == Self::Waiting && {
            *self = Self::Taken;
            true
        }
    }
}

#[derive(Debug, Clone)]
enum End {
    Outcome(Outcome),
    Interrupted,
}

struct Flow {
    stream: Stream,
    bytes: Vec<u8>,
    /// Offset of the next byte to arrive.
    received: u64,
    /// Offset up to which it was taken.
    taken: u64,
    /// Offset up to which that was reported to the guest.
    told: u64,
    /// Number of bytes that the guest no longer had.
    missed: u64,
}

/// Without the bytes, which may be secret, or many.
impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("stream", &self.stream)
            .field("waiting_bytes", &self.bytes.len())
            .field("received", &self.received)
            .field("taken", &self.taken)
            .field("missed", &self.missed)
            .finish_non_exhaustive()
    }
}

impl Flow {
    fn from(stream: Stream, offset: u64) -> Self {
        Self {
            stream,
            bytes: Vec::new(),
            received: offset,
            taken: offset,
            told: offset,
            missed: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) -> bool {
        let received = self.received + bytes.len() as u64;
        if received - self.told > self.stream.window().into() {
            return false;
        }
        self.received = received;
        self.bytes.extend_from_slice(bytes);
        true
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        if self.bytes.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.bytes);
        self.taken += bytes.len() as u64;
        Some(bytes)
    }

    /// Returns the report for the guest, if it is worth a message.
    fn tell(&mut self) -> Option<Taken> {
        let due = self.taken >= self.told + u64::from(self.stream.portion());
        due.then(|| self.tell_all())
    }

    fn tell_all(&mut self) -> Taken {
        self.told = self.told.max(self.taken);
        (self.stream, self.told)
    }

    /// Records that the guest sends from `offset` on; returns `false` if that was received already.
    fn attach(&mut self, offset: u64) -> bool {
        let Some(missed) = offset.checked_sub(self.received) else {
            return false;
        };
        if missed > 0 {
            self.missed += missed;
            self.received = offset;
            // The bytes here count as the ones right before.
            self.taken = offset - self.bytes.len() as u64;
            self.told = offset;
        }
        true
    }
}

impl Inbox {
    /// Creates the queue of a request with this first stream.
    pub(super) fn new(first: Stream) -> Self {
        Self::of(Flow::from(first, 0), Flow::from(Stream::Stderr, 0))
    }

    /// Creates the queue of a command whose streams are listened to from `position` on.
    pub(super) fn from(position: Position) -> Self {
        let output = Flow::from(Stream::Stdout, position.stdout);
        Self::of(output, Flow::from(Stream::Stderr, position.stderr))
    }

    fn of(output: Flow, errors: Flow) -> Self {
        Self {
            state: Mutex::new(State {
                output,
                errors,
                attached: false,
                opened: Notice::None,
                content_ended: Notice::None,
                out_of_memory: false,
                end: None,
            }),
            arrived: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a chunk; returns `false` if the guest may not send it.
    #[must_use]
    pub(super) fn push(&self, stream: Stream, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let is_open = state.content_ended == Notice::None;
        let flow = if stream == Stream::Stderr {
            &mut state.errors
        } else {
            &mut state.output
        };
        let fits = is_open && flow.stream == stream && flow.push(bytes);
        drop(state);
        self.arrived.notify_one();
        fits
    }

    /// Records that the guest has opened what was asked for; returns `false` if it had before.
    #[must_use]
    pub(super) fn open(&self) -> bool {
        let is_first = self.state().opened.arrive();
        self.arrived.notify_one();
        is_first
    }

    /// Records that no more bytes come; returns `false` if that was known.
    #[must_use]
    pub(super) fn end_content(&self) -> bool {
        let is_first = self.state().content_ended.arrive();
        self.arrived.notify_one();
        is_first
    }

    /// Records that the guest sends from these offsets on; returns `false` if that is impossible.
    #[must_use]
    pub(super) fn attach(&self, at: Position) -> bool {
        let mut state = self.state();
        let fits = state.output.attach(at.stdout) && state.errors.attach(at.stderr);
        state.attached = true;
        drop(state);
        self.arrived.notify_one();
        fits
    }

    /// Returns what the guest need not send again.
    pub(super) fn received(&self) -> Position {
        let state = self.state();
        Position {
            stdout: state.output.received,
            stderr: state.errors.received,
        }
    }

    /// Returns what was taken.
    pub(super) fn taken(&self) -> Position {
        let state = self.state();
        Position {
            stdout: state.output.taken,
            stderr: state.errors.taken,
        }
    }

    /// Returns how many bytes the guest no longer had when asked for them.
    pub(super) fn missed(&self) -> Position {
        let state = self.state();
        Position {
            stdout: state.output.missed,
            stderr: state.errors.missed,
        }
    }

    /// Returns reports that the guest may not have received.
    pub(super) fn tell_all(&self) -> [Taken; 2] {
        let mut state = self.state();
        [state.output.tell_all(), state.errors.tell_all()]
    }

    /// Records that the guest's kernel killed a process of the command for lack of memory.
    pub(super) fn set_out_of_memory(&self) {
        self.state().out_of_memory = true;
    }

    pub(super) fn out_of_memory(&self) -> bool {
        self.state().out_of_memory
    }

    pub(super) fn end(&self, end: Result<Outcome, GuestError>) {
        self.end_by(end.map(End::Outcome));
    }

    /// Records that the session of a file's transfer is lost.
    pub(super) fn interrupt(&self) {
        self.end_by(Ok(End::Interrupted));
    }

    fn end_by(&self, end: Result<End, GuestError>) {
        self.state().end.get_or_insert(end);
        self.arrived.notify_one();
    }

    /// Returns the next arrival, and the report about it for the guest. Bytes come before the end.
    /// Cancel-safe: everything taken is returned.
    pub(super) async fn next(&self) -> (Result<Arrival, GuestError>, Option<Taken>) {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.arrived.notified().await;
        }
    }

    fn try_next(&self) -> Option<(Result<Arrival, GuestError>, Option<Taken>)> {
        let mut state = self.state();
        if std::mem::take(&mut state.attached) {
            return Some((Ok(Arrival::Attached), None));
        }
        if state.opened.take() {
            return Some((Ok(Arrival::Opened), None));
        }
        let State {
            output,
            errors,
            end,
            content_ended,
            ..
        } = &mut *state;
        for flow in [output, errors] {
            if let Some(bytes) = flow.take() {
                // A message for every small piece would cost more than the piece.
                let taken = if end.is_none() { flow.tell() } else { None };
                return Some((Ok(Arrival::Data(flow.stream, bytes)), taken));
            }
        }
        if content_ended.take() {
            return Some((Ok(Arrival::ContentEnded), None));
        }
        let end = end.as_ref()?.clone();
        let arrival = end.map(|end| match end {
            End::Outcome(outcome) => Arrival::Done(outcome),
            End::Interrupted => Arrival::Interrupted,
        });
        Some((arrival, None))
    }
}

#[cfg(test)]
mod tests {
    use ironclaw_protocol::limits::OUTPUT_WINDOW;

    use super::*;

    #[tokio::test]
    async fn small_pieces_are_joined_and_come_before_the_end() {
        let inbox = Inbox::new(Stream::Stdout);
        assert!(inbox.push(Stream::Stdout, b"a") && inbox.push(Stream::Stderr, b"!"));
        assert!(inbox.push(Stream::Stdout, b"b"));
        inbox.end(Ok(Outcome::Exited(0)));
        let next = inbox.next().await.0.unwrap();
        assert!(matches!(next, Arrival::Data(Stream::Stdout, bytes) if bytes == b"ab"));
        let next = inbox.next().await.0.unwrap();
        assert!(matches!(next, Arrival::Data(Stream::Stderr, bytes) if bytes == b"!"));
        for _ in 0..2 {
            let next = inbox.next().await.0.unwrap();
            assert!(matches!(next, Arrival::Done(Outcome::Exited(0))));
        }
    }

    #[tokio::test]
    async fn a_guest_can_send_no_more_than_its_window_until_something_is_taken() {
        let inbox = Inbox::new(Stream::Stdout);
        let window = vec![0; OUTPUT_WINDOW as usize];
        assert!(inbox.push(Stream::Stdout, &window));
        assert!(!inbox.push(Stream::Stdout, b"x"));
        let (arrival, taken) = inbox.next().await;
        assert!(matches!(arrival.unwrap(), Arrival::Data(_, bytes) if bytes.len() == window.len()));
        assert_eq!(taken, Some((Stream::Stdout, OUTPUT_WINDOW.into())));
        assert!(inbox.push(Stream::Stdout, b"x"));
    }

    #[tokio::test]
    async fn what_a_guest_does_not_have_any_more_is_counted_and_what_it_has_comes_once() {
        let inbox = Inbox::new(Stream::Stdout);
        assert!(inbox.push(Stream::Stdout, b"abc"));
        let again = inbox.received();
        assert_eq!((again.stdout, again.stderr), (3, 0));
        assert!(inbox.attach(Position {
            stdout: 10,
            stderr: 0
        }));
        assert!(inbox.push(Stream::Stdout, b"k"));
        assert!(matches!(inbox.next().await.0.unwrap(), Arrival::Attached));
        let next = inbox.next().await.0.unwrap();
        assert!(matches!(next, Arrival::Data(Stream::Stdout, bytes) if bytes == b"abck"));
        assert_eq!((inbox.missed().stdout, inbox.taken().stdout), (7, 11));
        assert!(!inbox.attach(again), "it sends what is here already");
    }
}
