//! One session with the agent of a guest: a table of open requests over one byte stream.
//!
//! ```text
//!   requests ── send ──▶ outgoing buffer ──▶ socket        (written at once, or by `flush`)
//!   inboxes ◀── dispatch ── decoder ◀─────── socket        (the `read` task)
//! ```
//!
//! What the socket does not take at once, a task writes. A guest may grant credit for what it never
//! reads, and answer it: so content and requests are sent only while little waits, and a guest that
//! lets more pile up than an honest one can is given up. The rest is small and never waits.
//!
//! A guest may send what costs it nothing and us a little, again and again: so it is read at a pace.
//!
//! A request that nobody waits for any more is cancelled, and keeps its place until the guest has
//! ended it. A guest that ends none of them is given up when somebody waits for a place.
//!
//! A session ends when the socket does, or when the VM's process ends, whichever is seen first. If
//! it was the VM, everybody who waits is told how it ended: so the `read` task alone closes what the
//! other side has left, and waits a moment for that.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{self, Decoder, Event, MAGIC};
use ironclaw_protocol::limits::{MAX_CHUNK, MAX_REQUEST_FRAME, MAX_REQUESTS, MAX_RESYNC, WINDOW};
use ironclaw_protocol::message::{Request, RequestId, ToGuest, ToHost};
use tokio::net::UnixStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, coop};
use tokio::time::{Instant, sleep_until, timeout};

use super::activity::{Activity, Busy, Requests};
use super::error::GuestError;
use super::inbox::Inbox;
use super::pace::Pace;
use crate::untrusted;
use crate::vm::exit_reason::ExitReason;
use crate::vm::vmm::Exit;

/// Bytes per read of the socket.
const READ: usize = 64 * 1024;
/// No more content and no request is sent while so many bytes wait for the socket.
const WAITING: usize = WINDOW as usize;
/// More than ever waits for a guest that reads what it answers: a request, and a chunk of content for
/// each.
const PILED_UP: usize = MAX_REQUEST_FRAME + MAX_REQUESTS * MAX_CHUNK + 2 * WAITING;
/// How long a guest may take to end what was cancelled.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after the end of the socket that of the VM's process may come, which takes some
/// milliseconds to be reaped. Without it, it was the guest that hung up.
const REAPED: Duration = Duration::from_secs(1);
/// How long what a VM said last is read after its end. It is in the socket already, and so is the
/// socket's end, unless another process has the VM's side of it.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// Resolves when the process of the guest's VM has ended.
pub(super) type Died = Pin<Box<dyn Future<Output = Exit> + Send>>;

/// The session; dropping it ends it.
#[derive(Debug)]
pub(super) struct Connection {
    line: Arc<Line>,
    tasks: [JoinHandle<()>; 2],
}

/// What the session's tasks and requests share.
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    session: u64,
    state: Mutex<State>,
    unsent: Notify,
    /// Told when there may be room for content, or none is wanted any more.
    room: Notify,
    greeted: AtomicBool,
    slots: Arc<Semaphore>,
    pub(super) requests: Requests,
}

#[derive(Debug, Default)]
struct State {
    out: Vec<u8>,
    open: HashMap<RequestId, Open>,
    next: u32,
    /// Why nothing can be written any more.
    unwritable: Option<ExitReason>,
    closed: Option<ExitReason>,
    /// For which reason it will be closed, whatever is seen of that.
    expected_end: Option<ExitReason>,
}

/// A request that the guest has not answered.
#[derive(Debug)]
struct Open {
    inbox: Arc<Inbox>,
    credit: Arc<Semaphore>,
    wanted: Arc<Semaphore>,
    _slot: OwnedSemaphorePermit,
    /// While its holder waits for it.
    busy: Option<Busy>,
    /// Since when nobody does.
    cancelled: Option<Instant>,
}

/// The holder's side of an open request.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) id: RequestId,
    pub(super) inbox: Arc<Inbox>,
    /// Bytes of content that the guest takes now; closed when the request is over.
    pub(super) credit: Arc<Semaphore>,
    /// Has a permit if its command waits for input; closed when the request is over.
    pub(super) wanted: Arc<Semaphore>,
    pub(super) line: Arc<Line>,
}

impl Connection {
    /// Starts a session on `stream`. The guest need not run yet: what is asked meanwhile waits on
    /// the line, so the first request costs no round trip more than itself.
    pub(super) fn open(stream: UnixStream, vm: Option<Died>) -> Result<Self, GuestError> {
        let session = getrandom::u64().map_err(|error| {
            let what = format!("the host has no random number for it: {error}");
            GuestError::closed(ExitReason::Host(what))
        })?;
        let line = Arc::new(Line {
            stream,
            session,
            state: Mutex::default(),
            unsent: Notify::new(),
            room: Notify::new(),
            greeted: AtomicBool::new(false),
            slots: Arc::new(Semaphore::new(MAX_REQUESTS)),
            requests: Requests::none(),
        });
        line.state().out.extend_from_slice(&MAGIC);
        line.send(&ToGuest::Hello {
            version: VERSION,
            session,
        })?;
        let runtime = WithRuntime(Arc::clone(&line));
        let read = Arc::clone(&line).read(vm);
        let read = async move {
            let _runtime = runtime;
            read.await;
        };
        let tasks = [tokio::spawn(read), tokio::spawn(Arc::clone(&line).flush())];
        Ok(Self { line, tasks })
    }

    pub(super) fn close(&self, reason: &ExitReason) {
        self.line.close(reason);
    }

    pub(super) fn expect_end(&self, reason: &ExitReason) {
        self.line.state().expected_end = Some(reason.clone());
    }

    pub(super) fn activity(&self) -> Activity {
        Activity::of(&self.line)
    }

    /// Opens a request; waits if the guest has as many as it takes.
    pub(super) async fn request(&self, request: Request) -> Result<Ticket, GuestError> {
        request.validate()?;
        let slot = self.slot().await?;
        let inbox = Arc::new(Inbox::new());
        let credit = Arc::new(Semaphore::new(WINDOW as usize));
        let wanted = Arc::new(Semaphore::new(0));
        let id = {
            let mut state = self.line.state();
            let id = state.free_id();
            let open = Open {
                inbox: Arc::clone(&inbox),
                credit: Arc::clone(&credit),
                wanted: Arc::clone(&wanted),
                _slot: slot,
                busy: Some(self.line.requests.begin()),
                cancelled: None,
            };
            state.open.insert(id, open);
            id
        };
        let ticket = Ticket {
            id,
            inbox,
            credit,
            wanted,
            line: Arc::clone(&self.line),
        };
        // Whoever stops waiting for the guest to read takes the request back.
        let unsent = Unsent(Some(&ticket));
        self.line
            .send_request(&ToGuest::Request { id, request })
            .await?;
        unsent.sent();
        Ok(ticket)
    }

    /// A place for a request, as soon as there is one.
    async fn slot(&self) -> Result<OwnedSemaphorePermit, GuestError> {
        let mut slot = pin!(Arc::clone(&self.line.slots).acquire_owned());
        loop {
            match timeout(CANCEL_TIMEOUT, &mut slot).await {
                Ok(slot) => return slot.map_err(|_| self.line.why_closed()),
                Err(_) if self.line.ends_nothing() => {
                    self.line.close(&ExitReason::Protocol(format!(
                        "the guest did not end what was cancelled within {CANCEL_TIMEOUT:?}"
                    )));
                }
                Err(_) => {}
            }
        }
    }
}

/// A request that the guest does not know; it is not open any more when this is dropped.
struct Unsent<'a>(Option<&'a Ticket>);

impl Unsent<'_> {
    fn sent(mut self) {
        self.0 = None;
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(Ticket { id, line, .. }) = self.0 {
            line.state().open.remove(id);
        }
    }
}

/// Ends the session with the async runtime that its tasks run in, even before they ran: nobody else
/// would answer who waits.
struct WithRuntime(Arc<Line>);

impl Drop for WithRuntime {
    fn drop(&mut self) {
        // Whatever else had ended it came first.
        let reason = "the async runtime in which the VM was spawned has ended";
        self.0.close(&ExitReason::Host(reason.to_owned()));
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.line.close(&ExitReason::Dropped);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Open {
    /// It takes no more content.
    fn end_input(&self) {
        self.credit.close();
        self.wanted.close();
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
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn why_closed(&self) -> GuestError {
        let reason = self.state().closed.clone().unwrap_or(ExitReason::Dropped);
        GuestError::closed(reason)
    }

    /// Whether half of all places are taken by what was cancelled long ago.
    fn ends_nothing(&self) -> bool {
        let state = self.state();
        let cancelled = state.open.values().filter_map(|open| open.cancelled);
        let overdue = cancelled.filter(|since| since.elapsed() >= CANCEL_TIMEOUT);
        overdue.count() >= MAX_REQUESTS / 2
    }

    /// Sends a request when little waits for the socket: a request may be large.
    async fn send_request(&self, message: &ToGuest) -> Result<(), GuestError> {
        message.validate()?;
        loop {
            let room = self.room.notified();
            {
                let state = self.state();
                if state.out.len() < WAITING {
                    return self.write(state, message);
                }
            }
            room.await;
        }
    }

    /// Writes a message as far as the socket takes it, and leaves the rest to the flushing task.
    /// If the other side is gone, the reading task tells why.
    pub(super) fn send(&self, message: &ToGuest) -> Result<(), GuestError> {
        message.validate()?;
        self.write(self.state(), message)
    }

    fn write(&self, mut state: MutexGuard<'_, State>, message: &ToGuest) -> Result<(), GuestError> {
        if let Some(reason) = &state.closed {
            return Err(GuestError::closed(reason.clone()));
        }
        if state.unwritable.is_some() {
            return Ok(());
        }
        frame::encode(message, &mut state.out).map_err(GuestError::TooLarge)?;
        if let Err(error) = self.write_some(&mut state.out) {
            self.hang_up(&mut state, &error);
            return Ok(());
        }
        if state.out.len() > PILED_UP {
            drop(state);
            let reason = "the guest reads nothing of what it is sent";
            self.close(&ExitReason::Protocol(reason.to_owned()));
            return Err(self.why_closed());
        }
        if !state.out.is_empty() {
            self.unsent.notify_one();
        }
        Ok(())
    }

    /// Waits until the socket has taken what was sent before, but for little; `false` if the
    /// request with this credit is over.
    pub(super) async fn has_room(&self, credit: &Semaphore) -> bool {
        loop {
            let room = self.room.notified();
            if credit.is_closed() {
                return false;
            }
            if self.state().out.len() < WAITING {
                return true;
            }
            room.await;
        }
    }

    /// Nobody waits for this request any more. It stays open until the guest has ended it, and a
    /// guest that never does is not in use for that, nor does it get more of its content.
    pub(super) fn abandon(&self, id: RequestId) {
        let busy = self.state().open.get_mut(&id).and_then(|open| {
            open.end_input();
            open.cancelled = Some(Instant::now());
            open.busy.take()
        });
        drop(busy);
        self.room.notify_waiters();
        // On a closed line there is nothing left to cancel.
        let _ = self.send(&ToGuest::Cancel { id });
    }

    fn write_some(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            if written == out.len() {
                break Ok(());
            }
            match self.stream.try_write(&out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        out.drain(..written);
        result
    }

    /// Lets the reading task find the end of the socket, and so what ended it.
    fn hang_up(&self, state: &mut State, error: &io::Error) {
        state.unwritable = Some(failed("writing", error));
        state.out = Vec::new();
        self.room.notify_waiters();
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
    }

    /// Ends the session; the first reason counts.
    pub(super) fn close(&self, reason: &ExitReason) {
        let (reason, open) = {
            let mut state = self.state();
            if state.closed.is_some() {
                return;
            }
            let expected = state.expected_end.take();
            let reason = expected.unwrap_or_else(|| reason.clone());
            state.closed = Some(reason.clone());
            state.out = Vec::new();
            (reason, std::mem::take(&mut state.open))
        };
        self.slots.close();
        for request in open.into_values() {
            request.end_input();
            request.inbox.end(Err(GuestError::closed(reason.clone())));
        }
        self.room.notify_waiters();
        // Whatever still waits for the socket, here or in the VMM, sees its end.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
    }

    async fn flush(self: Arc<Self>) {
        loop {
            self.unsent.notified().await;
            loop {
                if let Err(error) = self.stream.writable().await {
                    return self.close(&failed("waiting for the socket", &error));
                }
                let mut state = self.state();
                let result = self.write_some(&mut state.out);
                if let Err(error) = result {
                    return self.hang_up(&mut state, &error);
                }
                if state.out.len() < WAITING {
                    self.room.notify_waiters();
                }
                if state.out.is_empty() {
                    break;
                }
            }
        }
    }

    async fn read(self: Arc<Self>, vm: Option<Died>) {
        let mut decoder = Decoder::new();
        let patience = vm.as_ref().map_or(Duration::ZERO, |_| REAPED);
        let mut died = pin!(async {
            match vm {
                Some(died) => died.await,
                None => pending().await,
            }
        });
        let reason = tokio::select! {
            over = self.receive(&mut decoder) => match over {
                Some(reason) => reason,
                None => match timeout(patience, died).await {
                    Ok(exit) => ExitReason::vmm_ended(exit),
                    Err(_) => {
                        let unwritable = self.state().unwritable.take();
                        unwritable.unwrap_or(ExitReason::HungUp)
                    }
                },
            },
            exit = &mut died => {
                // Whatever comes of that, the VM's end is the reason.
                let _ = timeout(LAST_WORDS, self.receive(&mut decoder)).await;
                ExitReason::vmm_ended(exit)
            }
        };
        self.close(&reason);
    }

    /// Takes in what the guest sends, until it breaks the protocol, which is told, or the socket
    /// ends. Cancel-safe: what was read is in the decoder.
    async fn receive(&self, decoder: &mut Decoder) -> Option<ExitReason> {
        let mut chunk = vec![0; READ];
        let mut before_hello = 0;
        let mut pace = Pace::start(Instant::now());
        loop {
            // To wait for a socket that always has something to read lets no other task run.
            coop::consume_budget().await;
            if let Err(error) = self.stream.readable().await {
                return Some(failed("waiting for the socket", &error));
            }
            let count = match self.stream.try_read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                // It ended with something unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => return Some(failed("reading", &error)),
            };
            decoder.push(&chunk[..count]);
            match self.dispatch_all(decoder) {
                Ok(frames) => {
                    if let Some(next) = pace.took(frames, Instant::now()) {
                        sleep_until(next).await;
                    }
                }
                Err(violation) => return Some(ExitReason::Protocol(violation)),
            }
            if !self.greeted.load(Ordering::Relaxed) {
                before_hello += count;
                if before_hello > MAX_RESYNC {
                    return Some(ExitReason::Protocol(format!(
                        "the guest broke the protocol: no hello within {MAX_RESYNC} bytes"
                    )));
                }
            }
        }
    }

    /// Takes in what is complete, and says how many frames that were.
    fn dispatch_all(&self, decoder: &mut Decoder) -> Result<u32, String> {
        let mut frames = 0;
        loop {
            frames += 1;
            match decoder
                .next()
                .map_err(|error| format!("the guest broke the protocol: {error}"))?
            {
                None => return Ok(frames - 1),
                Some(Event::Opened) if self.greeted.load(Ordering::Relaxed) => {
                    return Err("the guest started another session".to_owned());
                }
                Some(Event::Opened) => {}
                Some(Event::Frame(payload)) => match frame::decode::<ToHost>(payload) {
                    Ok(message) => {
                        message
                            .validate()
                            .map_err(|error| format!("the guest broke the protocol: {error}"))?;
                        self.dispatch(message)?;
                    }
                    // What an older session left on the line may be anything.
                    Err(_) if !self.greeted.load(Ordering::Relaxed) => {}
                    Err(error) => return Err(format!("the guest broke the protocol: {error}")),
                },
            }
        }
    }

    fn dispatch(&self, message: ToHost) -> Result<(), String> {
        if !self.greeted.load(Ordering::Relaxed) {
            return match message {
                ToHost::Hello {
                    version, session, ..
                } if session == self.session => {
                    if version != VERSION {
                        return Err(format!(
                            "its agent speaks version {version} of the protocol, this program \
                             speaks {VERSION}: build the template again (ironclaw template build)"
                        ));
                    }
                    self.greeted.store(true, Ordering::Relaxed);
                    Ok(())
                }
                // Left on the line by the session that a snapshot was taken in.
                _ => Ok(()),
            };
        }
        match message {
            ToHost::Hello { .. } => Err("the guest broke the protocol: a second hello".to_owned()),
            ToHost::Fault { reason } => {
                Err(format!("the agent ended it: {}", untrusted::line(&reason)))
            }
            ToHost::Data { id, stream, bytes } => {
                let inbox = self.find(id, |open| Arc::clone(&open.inbox))?;
                if inbox.push(stream, &bytes) {
                    Ok(())
                } else {
                    Err("the guest broke the protocol: it sent more than it may".to_owned())
                }
            }
            ToHost::Credit { id, bytes } => {
                let credit = self.find(id, |open| Arc::clone(&open.credit))?;
                if credit.available_permits() + bytes as usize > WINDOW as usize {
                    return Err("the guest broke the protocol: more credit than a window".into());
                }
                credit.add_permits(bytes as usize);
                Ok(())
            }
            ToHost::OutOfMemory { id } => self.find(id, |open| open.inbox.set_out_of_memory()),
            ToHost::ReaderWaits { id } => {
                let wanted = self.find(id, |open| Arc::clone(&open.wanted))?;
                // However often it says so, asked or not.
                if wanted.available_permits() == 0 {
                    wanted.add_permits(1);
                }
                Ok(())
            }
            ToHost::Done { id, outcome } => {
                let open = self.state().open.remove(&id).ok_or_else(|| unknown(id))?;
                open.end_input();
                self.room.notify_waiters();
                open.inbox.end(Ok(outcome));
                Ok(())
            }
        }
    }

    fn find<T>(&self, id: RequestId, take: impl FnOnce(&Open) -> T) -> Result<T, String> {
        self.state()
            .open
            .get(&id)
            .map(take)
            .ok_or_else(|| unknown(id))
    }
}

fn failed(what: &str, error: &io::Error) -> ExitReason {
    ExitReason::Host(format!("{what} failed: {error}"))
}

fn unknown(id: RequestId) -> String {
    format!("the guest broke the protocol: request {} is not open", id.0)
}
