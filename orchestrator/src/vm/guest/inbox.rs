//! What came for one request and was not taken yet.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ironclaw_protocol::limits::WINDOW;
use ironclaw_protocol::message::{Outcome, Stream};
use tokio::sync::Notify;

use super::error::GuestError;

/// Something that came for a request.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Bytes, as many as there were.
    Data(Stream, Vec<u8>),
    /// The end.
    Done(Outcome),
}

/// The queue of one request. Bytes of a stream are joined, so that its memory is bounded by the
/// window, however small the pieces are that a guest sends.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug)]
struct State {
    /// Bytes of the first stream: standard output, or a file.
    output: Vec<u8>,
    errors: Vec<u8>,
    first: Stream,
    /// What the guest may still send.
    window: u32,
    /// Taken, and not yet credited.
    taken: u32,
    out_of_memory: bool,
    end: Option<Result<Outcome, GuestError>>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                output: Vec::new(),
                errors: Vec::new(),
                first: Stream::Stdout,
                window: WINDOW,
                taken: 0,
                out_of_memory: false,
                end: None,
            }),
            arrived: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a chunk; `false` if the guest had no credit for it.
    #[must_use]
    pub(super) fn push(&self, stream: Stream, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let left = u32::try_from(bytes.len())
            .ok()
            .and_then(|n| state.window.checked_sub(n));
        let Some(left) = left else { return false };
        state.window = left;
        if stream == Stream::Stderr {
            state.errors.extend_from_slice(bytes);
        } else {
            state.first = stream;
            state.output.extend_from_slice(bytes);
        }
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// The guest's kernel killed a process of the command for lack of memory.
    pub(super) fn set_out_of_memory(&self) {
        self.state().out_of_memory = true;
    }

    pub(super) fn out_of_memory(&self) -> bool {
        self.state().out_of_memory
    }

    pub(super) fn end(&self, end: Result<Outcome, GuestError>) {
        self.state().end.get_or_insert(end);
        self.arrived.notify_one();
    }

    /// The next arrival, and the credit to be given to the guest for what was taken. Bytes come
    /// before the end. Cancel-safe: nothing is taken without being returned.
    pub(super) async fn next(&self) -> (Result<Arrival, GuestError>, Option<u32>) {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.arrived.notified().await;
        }
    }

    fn try_next(&self) -> Option<(Result<Arrival, GuestError>, Option<u32>)> {
        let mut state = self.state();
        let (stream, bytes) = if !state.output.is_empty() {
            (state.first, std::mem::take(&mut state.output))
        } else if !state.errors.is_empty() {
            (Stream::Stderr, std::mem::take(&mut state.errors))
        } else {
            let end = state.end.as_ref()?.clone();
            return Some((end.map(Arrival::Done), None));
        };
        // Within the window, so it fits.
        state.taken += u32::try_from(bytes.len()).unwrap_or(WINDOW);
        // A message for every small piece would cost more than the piece.
        let credit = (state.taken >= WINDOW / 4 && state.end.is_none()).then(|| {
            let credit = std::mem::take(&mut state.taken);
            state.window += credit;
            credit
        });
        Some((Ok(Arrival::Data(stream, bytes)), credit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_pieces_are_joined_and_come_before_the_end() {
        let inbox = Inbox::new();
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
        let inbox = Inbox::new();
        let window = vec![0; WINDOW as usize];
        assert!(inbox.push(Stream::Stdout, &window));
        assert!(!inbox.push(Stream::Stdout, b"x"));
        let (arrival, credit) = inbox.next().await;
        assert!(matches!(arrival.unwrap(), Arrival::Data(_, bytes) if bytes.len() == window.len()));
        assert_eq!(credit, Some(WINDOW));
        assert!(inbox.push(Stream::Stdout, b"x"));
    }
}
