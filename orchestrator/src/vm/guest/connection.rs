//! The connection to the agent of a guest: a table of open requests over a byte stream, or over
//! several in turn when streams are lost.
//!
//! ```text
//!   requests ── send ──▶ outgoing buffer ──▶ wire          (written at once, or by `flush`)
//!   inboxes ◀── dispatch ── decoder ◀─────── wire          (the `read` task)
//! ```
//!
//! Some hypervisors lose the stream with each snapshot of a guest: the connection is
//! [suspended](Connection::suspend) then, and continues over a [new one](Connection::reconnect).
//! Commands are attached to again, at the offsets of their output received so far; files are sent
//! again by their owners; other requests are repeated.
//!
//! A task writes what the socket does not take at once. A guest may grant credit for content that
//! it never reads, and answer it: so content and requests are sent only while little waits for the
//! socket, and a guest that lets more pile up than an honest one can is given up. Other messages
//! are small and never wait.
//!
//! A guest may send, without end, messages that cost it nothing and us a little: so it is read at a
//! limited pace.
//!
//! A request without a caller is cancelled, and counts as open until the guest has ended it. A
//! guest that ends none of them is given up when another request waits for a place.
//!
//! A session ends with the socket or with the VM's process, whichever is seen first. If the VM
//! ended, all waiting requests fail with its exit: so the `read` task alone handles the socket's
//! end, and waits a moment for the exit.

use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use ironclaw_protocol::frame::Decoder;
use ironclaw_protocol::limits::MAX_RESYNC;
use ironclaw_protocol::message::{Request, RequestId};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, coop};
use tokio::time::{Instant, sleep_until, timeout};

use super::activity::Activity;
use super::error::GuestError;
use super::inbox::Inbox;
use super::line::{CANCEL_TIMEOUT, Line};
use super::open::Open;
use super::pace::Pace;
use super::wire::{Wire, WireTask};
use crate::vm::exit_reason::ExitReason;
use crate::vm::vmm::Exit;

/// The size of a read.
const READ_SIZE: usize = 64 * 1024;
/// Timeout of the exit of the VM's process after the socket's end; reaping it takes some
/// milliseconds. Without an exit, the guest hung up.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of reading a VM's last output after its end. It is in the socket already, and so is the
/// socket's end, unless another process has the VM's side of it.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_millis(20);

/// Resolves when the process of the guest's VM has ended.
pub(super) type Died = Pin<Box<dyn Future<Output = Exit> + Send>>;

/// The connection; dropping it ends it.
#[derive(Debug)]
pub(super) struct Connection {
    line: Arc<Line>,
    tasks: [JoinHandle<()>; 2],
}

/// The caller's side of an open request.
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
    /// Starts a session on `stream`. The guest need not run yet: requests wait on the line, so that
    /// the first one costs no extra round trip.
    pub(super) fn open(stream: UnixStream, vm: Option<Died>) -> Result<Self, GuestError> {
        let line = Arc::new(Line::new(Wire::new(stream)?)?);
        let runtime = WithRuntime(Arc::clone(&line));
        let read = read(Arc::clone(&line), vm);
        let read = async move {
            let _runtime = runtime;
            read.await;
        };
        let tasks = [tokio::spawn(read), tokio::spawn(flush(Arc::clone(&line)))];
        Ok(Self { line, tasks })
    }

    pub(super) fn close(&self, reason: &ExitReason) {
        self.line.close(reason);
    }

    pub(super) fn expect_end(&self, reason: &ExitReason) {
        self.line.expect_end(reason);
    }

    pub(super) fn activity(&self) -> Activity {
        self.line.requests.activity()
    }

    /// Sends nothing until [`reconnect`](Self::reconnect), and ignores the end of the stream.
    pub(super) fn suspend(&self) {
        self.line.suspend();
    }

    /// Continues over another stream to the same guest, or to a copy that replaces it.
    pub(super) fn reconnect(&self, stream: UnixStream) -> Result<(), GuestError> {
        self.line.reconnect(Wire::new(stream)?)
    }

    /// Returns what opens requests, for as long as the connection lives.
    pub(super) fn connector(&self) -> Connector {
        Connector {
            line: Arc::clone(&self.line),
        }
    }
}

/// Opens requests over a connection, which it does not keep open.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    line: Arc<Line>,
}

impl Connector {
    /// Opens a request; waits if the guest has as many as it can take.
    pub(super) async fn request(&self, request: Request) -> Result<Ticket, GuestError> {
        request.validate()?;
        let slot = self.slot().await?;
        let open = Open::new(request, slot, self.line.requests.begin());
        let (inbox, credit) = (Arc::clone(&open.inbox), Arc::clone(&open.credit));
        let wanted = Arc::clone(&open.wanted);
        let ticket = Ticket {
            id: self.line.insert(open),
            inbox,
            credit,
            wanted,
            line: Arc::clone(&self.line),
        };
        // Dropping this future before the guest reads the request cancels it.
        let unsent = Unsent(Some(&ticket));
        self.line.send_request(ticket.id).await?;
        unsent.sent();
        Ok(ticket)
    }

    /// Waits for a place for a request.
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

/// A request unknown to the guest; dropping this closes it.
struct Unsent<'a>(Option<&'a Ticket>);

impl Unsent<'_> {
    fn sent(mut self) {
        self.0 = None;
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(Ticket { id, line, .. }) = self.0 {
            line.forget(*id);
        }
    }
}

/// Ends the session with the async runtime of its tasks, even before they ran: nobody else would
/// answer waiting requests.
struct WithRuntime(Arc<Line>);

impl Drop for WithRuntime {
    fn drop(&mut self) {
        // An earlier reason takes precedence.
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

/// Writes what the socket did not take at once.
async fn flush(line: Arc<Line>) {
    let mut wire = line.wire();
    loop {
        tokio::select! {
            () = line.unsent.notified() => {}
            () = wire.was_replaced(WireTask::Flush) => {
                wire = line.wire();
                continue;
            }
        }
        loop {
            let writable = tokio::select! {
                writable = wire.stream.writable() => writable,
                () = wire.was_replaced(WireTask::Flush) => {
                    wire = line.wire();
                    continue;
                }
            };
            if let Err(error) = writable {
                return line.close(&failed("waiting for the socket", &error));
            }
            if line.flush() {
                break;
            }
        }
    }
}

/// Reads from one wire after the other, until there is none or the VM has ended.
async fn read(line: Arc<Line>, vm: Option<Died>) {
    let patience = vm.as_ref().map_or(Duration::ZERO, |_| EXIT_TIMEOUT);
    let mut died = pin!(async {
        match vm {
            Some(died) => died.await,
            None => pending().await,
        }
    });
    let reason = loop {
        let wire = line.wire();
        let mut decoder = Decoder::new();
        tokio::select! {
            () = wire.was_replaced(WireTask::Read) => continue,
            over = receive(&line, &wire, &mut decoder) => match over {
                Some(reason) if line.uses(&wire) => break reason,
                _ => {}
            },
            exit = &mut died => {
                // The VM's end is the reason, whatever the rest says.
                let _ = timeout(LAST_OUTPUT_TIMEOUT, receive(&line, &wire, &mut decoder)).await;
                break ExitReason::vmm_ended(exit);
            }
        }
        // The socket ended: by the VM's end, for its replacement, or because the guest hung up.
        let hung_up = async {
            while line.is_suspended() {
                line.resumed.notified().await;
            }
            tokio::time::sleep(patience).await;
        };
        tokio::select! {
            () = wire.was_replaced(WireTask::Read) => {}
            exit = &mut died => break ExitReason::vmm_ended(exit),
            () = hung_up => {
                let unwritable = line.why_unwritable();
                break unwritable.unwrap_or(ExitReason::HungUp);
            }
        }
    };
    line.close(&reason);
}

/// Reads what the guest sends, until it violates the protocol, which is reported, or the socket
/// ends. Cancel-safe: everything read is in the decoder.
async fn receive(line: &Line, wire: &Arc<Wire>, decoder: &mut Decoder) -> Option<ExitReason> {
    let mut chunk = vec![0; READ_SIZE];
    let mut before_hello = 0;
    let mut pace = Pace::start(Instant::now());
    loop {
        // A socket that always has data would never yield to other tasks.
        coop::consume_budget().await;
        if let Err(error) = wire.stream.readable().await {
            return Some(failed("waiting for the socket", &error));
        }
        let count = match wire.stream.try_read(&mut chunk) {
            Ok(0) => return None,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // It ended with unread data.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => return Some(failed("reading", &error)),
        };
        decoder.push(&chunk[..count]);
        match line.dispatch_all(wire, decoder) {
            Ok(frames) => {
                if let Some(next) = pace.took(frames, Instant::now()) {
                    sleep_until(next).await;
                }
            }
            Err(violation) => return Some(ExitReason::Protocol(violation)),
        }
        if !wire.is_greeted() {
            before_hello += count;
            if before_hello > MAX_RESYNC {
                return Some(ExitReason::Protocol(format!(
                    "the guest broke the protocol: no hello within {MAX_RESYNC} bytes"
                )));
            }
        }
    }
}

fn failed(what: &str, error: &io::Error) -> ExitReason {
    ExitReason::Host(format!("{what} failed: {error}"))
}
