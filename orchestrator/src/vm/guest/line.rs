//! The state shared by a connection's tasks and requests: the open requests, and the messages to
//! the guest.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{self, MAGIC};
use ironclaw_protocol::limits::{MAX_CHUNK, MAX_REQUEST_FRAME, MAX_REQUESTS, WINDOW};
use ironclaw_protocol::message::{Attach, Request, RequestId, TerminalSize, ToGuest};
use tokio::sync::{Notify, Semaphore};

use super::activity::Requests;
use super::error::GuestError;
use super::inbox::Taken;
use super::open::{Kind, Leave, Open};
use super::wire::Wire;
use crate::vm::exit_reason::ExitReason;

/// High-water mark: no content and no request is sent while this many bytes wait for the socket.
const HIGH_WATERMARK: usize = WINDOW as usize;
/// Upper bound of the unsent bytes of a guest that reads what it answers: a request, and a chunk of
/// content for each.
const MAX_UNSENT: usize = MAX_REQUEST_FRAME + MAX_REQUESTS * MAX_CHUNK + 2 * HIGH_WATERMARK;
/// Timeout of a guest to end cancelled requests.
pub(super) const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the guest knows a request, in the current session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Now,
    Later,
}

/// The line to a guest, over the current wire.
pub(super) struct Line {
    state: Mutex<State>,
    pub(super) unsent: Notify,
    /// Notified when there may be room for content, or none is wanted any more.
    room: Notify,
    /// Notified when the line is no longer suspended.
    pub(super) resumed: Notify,
    pub(super) slots: Arc<Semaphore>,
    pub(super) requests: Requests,
}

pub(super) struct State {
    pub(super) wire: Arc<Wire>,
    /// Set while nothing is sent, until there is another wire.
    suspended: bool,
    out: Vec<u8>,
    pub(super) open: HashMap<RequestId, Open>,
    next: u32,
    /// The reason why nothing can be written any more.
    unwritable: Option<ExitReason>,
    closed: Option<ExitReason>,
    /// The reason to report when it is closed, whatever is observed.
    expected_end: Option<ExitReason>,
}

/// Without what was and will be sent, which may be secret, or large.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Line");
        // Whoever holds it may be the one that shows it.
        if let Ok(state) = self.state.try_lock() {
            shown
                .field("open_requests", &state.open.len())
                .field("unsent_bytes", &state.out.len())
                .field("suspended", &state.suspended)
                .field("closed", &state.closed);
        }
        shown.finish_non_exhaustive()
    }
}

impl Line {
    /// Creates a line whose first messages wait for the guest.
    pub(super) fn new(wire: Arc<Wire>) -> Result<Self, GuestError> {
        let line = Self {
            state: Mutex::new(State {
                wire,
                suspended: false,
                out: Vec::new(),
                open: HashMap::new(),
                next: 0,
                unwritable: None,
                closed: None,
                expected_end: None,
            }),
            unsent: Notify::new(),
            room: Notify::new(),
            resumed: Notify::new(),
            slots: Arc::new(Semaphore::new(MAX_REQUESTS)),
            requests: Requests::none(),
        };
        let mut state = line.state();
        state.greet()?;
        line.write_out(&mut state)?;
        drop(state);
        Ok(line)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the current wire.
    pub(super) fn wire(&self) -> Arc<Wire> {
        Arc::clone(&self.state().wire)
    }

    /// Returns whether it is the current wire.
    pub(super) fn uses(&self, wire: &Arc<Wire>) -> bool {
        !self.state().is_over(wire)
    }

    pub(super) fn is_suspended(&self) -> bool {
        let state = self.state();
        state.suspended && state.closed.is_none()
    }

    pub(super) fn why_closed(&self) -> GuestError {
        let reason = self.state().closed.clone().unwrap_or(ExitReason::Dropped);
        GuestError::closed(reason)
    }

    pub(super) fn why_unwritable(&self) -> Option<ExitReason> {
        self.state().unwritable.take()
    }

    /// Returns whether half of all places are taken by requests cancelled long ago.
    pub(super) fn ends_nothing(&self) -> bool {
        let state = self.state();
        if state.suspended {
            return false;
        }
        let left = state.open.values().filter_map(|open| open.left);
        let overdue = left.filter(|(since, _)| since.elapsed() >= CANCEL_TIMEOUT);
        overdue.count() >= MAX_REQUESTS / 2
    }

    /// Returns an id for a request to send.
    pub(super) fn insert(&self, open: Open) -> RequestId {
        let mut state = self.state();
        let id = state.free_id();
        state.open.insert(id, open);
        id
    }

    /// Removes a request that was not sent.
    pub(super) fn forget(&self, id: RequestId) {
        self.state().open.remove(&id);
    }

    /// Sends a request when little waits for the socket: a request may be large. While the line is
    /// suspended, it is sent later.
    pub(super) async fn send_request(&self, id: RequestId) -> Result<(), GuestError> {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.state();
                if let Some(reason) = &state.closed {
                    return Err(GuestError::closed(reason.clone()));
                }
                if state.suspended {
                    return Ok(());
                }
                if state.out.len() < HIGH_WATERMARK {
                    state.queue_request(id)?;
                    return self.write_out(&mut state);
                }
            }
            room.await;
        }
    }

    /// Changes an open request, and sends a message about it if the guest knows it in this session.
    /// Otherwise the change determines what to send later. Atomic: no other session begins in
    /// between.
    fn send_about(
        &self,
        id: RequestId,
        message: &ToGuest,
        change: impl FnOnce(&mut Open, Known),
    ) -> Result<(), GuestError> {
        message.validate()?;
        let mut state = self.state();
        if let Some(reason) = &state.closed {
            return Err(GuestError::closed(reason.clone()));
        }
        let suspended = state.suspended;
        let Some(open) = state.open.get_mut(&id) else {
            return Ok(());
        };
        let known = if open.known && !suspended {
            Known::Now
        } else {
            Known::Later
        };
        change(open, known);
        if known == Known::Later {
            return Ok(());
        }
        state.queue(message)?;
        self.write_out(&mut state)
    }

    /// Signals the command of a request.
    pub(super) fn signal(&self, id: RequestId, signal: i32) -> Result<(), GuestError> {
        self.send_about(id, &ToGuest::Signal { id, signal }, |open, known| {
            if known == Known::Later {
                open.keep_signal(signal);
            }
        })
    }

    /// Gives the terminal of a request's command another size.
    pub(super) fn resize(&self, id: RequestId, size: TerminalSize) -> Result<(), GuestError> {
        let message = ToGuest::Resize { id, size };
        self.send_about(id, &message, |open, _| open.resize(size))
    }

    /// Records that the caller took a part of a request's output.
    pub(super) fn taken(&self, id: RequestId, (stream, offset): Taken) {
        // The next call reports a line closed meanwhile; a suspended one reports everything later.
        let _ = self.send_about(id, &ToGuest::Taken { id, stream, offset }, |_, _| {});
    }

    /// Records that the caller wants to know when the command waits for content.
    pub(super) fn await_reader(&self, id: RequestId) -> Result<(), GuestError> {
        let message = ToGuest::AwaitReader { id };
        self.send_about(id, &message, |open, _| open.await_reader())
    }

    /// Sends content for a request, within its credit.
    pub(super) fn give(&self, id: RequestId, bytes: &[u8]) -> Result<(), GuestError> {
        let content = bytes.to_vec();
        let message = ToGuest::Data { id, bytes: content };
        self.send_about(id, &message, |open, _| open.give(bytes))
    }

    /// Ends that content.
    pub(super) fn end_content(&self, id: RequestId) {
        // On a closed line the command is gone with its guest.
        let _ = self.send_about(id, &ToGuest::Eof { id }, |open, _| open.end_content());
    }

    /// Abandons a request. It stays open until the guest has ended it, does not count as activity,
    /// and gets no more content.
    pub(super) fn leave(&self, id: RequestId, how: Leave) {
        let mut busy = None;
        // On a closed line there is nothing to abandon.
        let _ = self.send_about(id, &how.message(id), |open, _| busy = open.leave(how));
        let mut state = self.state();
        // The guest never gets it.
        let unsent = state.open.get(&id).is_some_and(|open| !open.sent);
        let unsent = unsent.then(|| state.open.remove(&id));
        drop(state);
        drop((busy, unsent));
        self.room.notify_waiters();
    }

    /// Waits until little waits for the socket; returns `false` if the request with this credit is
    /// over.
    pub(super) async fn has_room(&self, credit: &Semaphore) -> bool {
        loop {
            let room = self.room.notified();
            if credit.is_closed() {
                return false;
            }
            if self.state().out.len() < HIGH_WATERMARK {
                return true;
            }
            room.await;
        }
    }

    /// Wakes those who wait for room.
    pub(super) fn wake_writers(&self) {
        self.room.notify_waiters();
    }

    /// Writes as much as the socket takes, and leaves the rest to the flushing task. If the other
    /// side is gone, the reading task reports why.
    pub(super) fn write_out(&self, state: &mut State) -> Result<(), GuestError> {
        if state.unwritable.is_some() {
            state.out = Vec::new();
            return Ok(());
        }
        if let Err(error) = state.write_some() {
            self.hang_up(state, &error);
            return Ok(());
        }
        if state.out.len() > MAX_UNSENT {
            let reason = "the guest reads nothing of what it is sent";
            let reason = ExitReason::Protocol(reason.to_owned());
            self.close_locked(state, &reason);
            return Err(GuestError::closed(reason));
        }
        if !state.out.is_empty() {
            self.unsent.notify_one();
        }
        Ok(())
    }

    /// Writes the rest as far as the socket takes it; returns whether that was all.
    pub(super) fn flush(&self) -> bool {
        let mut state = self.state();
        if let Err(error) = state.write_some() {
            self.hang_up(&mut state, &error);
        }
        if state.out.len() < HIGH_WATERMARK {
            self.room.notify_waiters();
        }
        state.out.is_empty()
    }

    /// Wakes the reading task to find the end of the socket, and its reason.
    fn hang_up(&self, state: &mut State, error: &io::Error) {
        state.unwritable = Some(ExitReason::Host(format!("writing failed: {error}")));
        state.out = Vec::new();
        self.room.notify_waiters();
        state.wire.shut_down();
    }

    /// Sends nothing until there is another wire.
    pub(super) fn suspend(&self) {
        let mut state = self.state();
        if state.closed.is_none() {
            state.suspended = true;
            state.out = Vec::new();
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Continues over another wire with all open requests.
    pub(super) fn reconnect(&self, wire: Arc<Wire>) -> Result<(), GuestError> {
        let mut state = self.state();
        if let Some(reason) = &state.closed {
            return Err(GuestError::closed(reason.clone()));
        }
        std::mem::replace(&mut state.wire, wire).replace();
        state.suspended = false;
        state.unwritable = None;
        state.out = Vec::new();
        state.greet()?;
        let mut ids: Vec<_> = state.open.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if let Err(error) = state.resume(id)
                && let Some(mut open) = state.open.remove(&id)
            {
                open.end_input();
                open.inbox.end(Err(error));
            }
        }
        let written = self.write_out(&mut state);
        drop(state);
        self.resumed.notify_waiters();
        self.room.notify_waiters();
        written
    }

    /// Sets the reason of the end, whoever closes it.
    pub(super) fn expect_end(&self, reason: &ExitReason) {
        self.state().expected_end = Some(reason.clone());
    }

    /// Ends the session; the first reason counts.
    pub(super) fn close(&self, reason: &ExitReason) {
        self.close_locked(&mut self.state(), reason);
    }

    fn close_locked(&self, state: &mut State, reason: &ExitReason) {
        if state.closed.is_some() {
            return;
        }
        let expected = state.expected_end.take();
        let reason = expected.unwrap_or_else(|| reason.clone());
        state.closed = Some(reason.clone());
        state.out = Vec::new();
        self.slots.close();
        for mut request in std::mem::take(&mut state.open).into_values() {
            request.end_input();
            request.inbox.end(Err(GuestError::closed(reason.clone())));
        }
        self.room.notify_waiters();
        self.resumed.notify_waiters();
        state.wire.shut_down();
    }
}

impl State {
    fn free_id(&mut self) -> RequestId {
        loop {
            let id = RequestId(self.next);
            self.next = self.next.wrapping_add(1);
            if !self.open.contains_key(&id) {
                return id;
            }
        }
    }

    /// Returns whether it is the current wire.
    pub(super) fn is_over(&self, wire: &Arc<Wire>) -> bool {
        !Arc::ptr_eq(&self.wire, wire)
    }

    pub(super) fn queue(&mut self, message: &ToGuest) -> Result<(), GuestError> {
        if self.closed.is_some() || self.suspended {
            return Ok(());
        }
        frame::encode(message, &mut self.out).map_err(GuestError::TooLarge)
    }

    fn greet(&mut self) -> Result<(), GuestError> {
        self.out.extend_from_slice(&MAGIC);
        let session = self.wire.session;
        let version = VERSION;
        self.queue(&ToGuest::Hello { version, session })
    }

    /// Queues the request itself.
    pub(super) fn queue_request(&mut self, id: RequestId) -> Result<(), GuestError> {
        let request = self.open.get_mut(&id).and_then(Open::take_request);
        let Some(request) = request else {
            return Ok(());
        };
        let message = ToGuest::Request { id, request };
        self.queue(&message)?;
        if let ToGuest::Request { request, .. } = message
            && let Some(open) = self.open.get_mut(&id)
        {
            open.was_sent(request);
        }
        Ok(())
    }

    /// Queues the messages that continue a request in a new session.
    fn resume(&mut self, id: RequestId) -> Result<(), GuestError> {
        let Some(open) = self.open.get_mut(&id) else {
            return Ok(());
        };
        open.known = false;
        match open.kind {
            _ if !open.sent => self.queue_request(id),
            // Nobody waits for the answer.
            Kind::Question | Kind::File if open.left.is_some() => {
                self.open.remove(&id);
                Ok(())
            }
            Kind::Question => self.queue_request(id),
            Kind::File => {
                if let Some(mut open) = self.open.remove(&id) {
                    open.end_input();
                    open.inbox.interrupt();
                }
                Ok(())
            }
            Kind::Command(exec) => {
                let received = open.inbox.received();
                let attach = Attach {
                    exec,
                    stdout: received.stdout,
                    stderr: received.stderr,
                };
                let request = Request::Attach(attach);
                self.queue(&ToGuest::Request { id, request })
            }
        }
    }

    fn write_some(&mut self) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            if written == self.out.len() {
                break Ok(());
            }
            match self.wire.stream.try_write(&self.out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.out.drain(..written);
        result
    }
}
