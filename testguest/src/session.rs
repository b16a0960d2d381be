//! The guest's end of one connection, without the connection: bytes go in, bytes come out.
//!
//! ```text
//!   Waiting ──MAGIC──▶ Greeting ──Hello──▶ Open ──anything wrong──▶ Over
//!                          ▲                │
//!                          └─────MAGIC──────┘  (open requests are dropped)
//! ```

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::message::{
    Exec, Failure, FailureKind, Outcome, Request, RequestId, Stream, ToGuest, ToHost, bounded_text,
};

use crate::command;
use crate::files::{File, Files};
use crate::guest::Guest;
use crate::task::{Progress, Task, Work, failed};

/// Most open requests of a session. Each may hold a window of content, and memory is small.
pub const MAX_OPEN: usize = 16;

/// Bytes of unsent output at which requests stop to make more.
const FULL: usize = 64 * 1024;

/// Bytes of unsent output at which no more input is read.
const CONGESTED: usize = 256 * 1024;

/// Signals that a process ignores unless it asked for them: CHLD, CONT, URG, WINCH.
const IGNORED_SIGNALS: [i32; 4] = [17, 18, 23, 28];

/// Frames on their way to the host.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    pub(crate) fn push(&mut self, message: &ToHost) {
        if self.sent > 0 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        if let Err(error) = encode(message, &mut self.bytes) {
            // Every message made here is far below the limit of a frame.
            unreachable!("a message of the guest can't be sent: {error}");
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.unsent().len() >= FULL
    }

    fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Greeting,
    Open,
    Over,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Session {
    state: State,
    decoder: Decoder,
    outbox: Outbox,
    tasks: BTreeMap<RequestId, Task>,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session on a connection that was just made.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Waiting,
            decoder: Decoder::of_requests(),
            outbox: Outbox::default(),
            tasks: BTreeMap::new(),
        }
    }

    /// Takes bytes from the host. They are looked at by [`pump`](Self::pump).
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.state != State::Over {
            self.decoder.push(bytes);
        }
    }

    /// Bytes for the host.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.outbox.unsent()
    }

    /// Forgets the first `length` bytes of [`output`](Self::output): they are sent.
    pub fn sent(&mut self, length: usize) {
        self.outbox.sent += length.min(self.outbox.unsent().len());
    }

    /// Whether so much output waits that no more input is read.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.outbox.unsent().len() >= CONGESTED
    }

    /// Whether the connection is to be closed once the output is sent.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// When [`pump`](Self::pump) is due although nothing came in, by
    /// [`Machine::uptime`](crate::guest::Machine::uptime).
    #[must_use]
    pub fn wakes_at(&self) -> Option<Duration> {
        self.tasks.values().filter_map(Task::wakes_at).min()
    }

    /// Reads what came in and gives each request one turn. Returns whether anything was done,
    /// which means that there may be more.
    pub fn pump(&mut self, guest: &mut Guest) -> bool {
        let mut worked = self.read(guest);
        let ids = self.tasks.keys().copied().collect::<Vec<_>>();
        for id in ids {
            let Some(task) = self.tasks.get_mut(&id) else {
                continue;
            };
            match task.step(id, guest, &mut self.outbox) {
                Progress::Waiting => {}
                Progress::Worked => worked = true,
                Progress::Ended(outcome) => {
                    worked = true;
                    self.tasks.remove(&id);
                    self.done(id, outcome);
                }
            }
        }
        worked
    }

    fn read(&mut self, guest: &mut Guest) -> bool {
        let mut read = false;
        while self.state != State::Over && !self.is_congested() {
            let message = match self.decoder.next() {
                Ok(None) => break,
                Ok(Some(Event::Opened)) => {
                    self.tasks.clear();
                    self.state = State::Greeting;
                    read = true;
                    continue;
                }
                Ok(Some(Event::Frame(payload))) => decode::<ToGuest>(payload),
                Err(error) => Err(error),
            };
            read = true;
            let result = match message {
                Ok(message) => match message.validate() {
                    Ok(()) => self.handle(message, guest).map_err(ToString::to_string),
                    Err(error) => Err(error.to_string()),
                },
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = result {
                self.fault(reason);
            }
        }
        read
    }

    fn handle(&mut self, message: ToGuest, guest: &mut Guest) -> Result<(), &'static str> {
        match (self.state, message) {
            (State::Greeting, ToGuest::Hello { version, session }) => {
                self.greet(session);
                self.state = State::Open;
                if version == VERSION {
                    Ok(())
                } else {
                    Err("another version of the protocol")
                }
            }
            (State::Open, ToGuest::Hello { .. }) => Err("a second hello in a session"),
            (State::Open, ToGuest::Request { id, request }) => self.request(id, request, guest),
            // The other kinds may cross the end of their request on the wire: that is no fault.
            (State::Open, ToGuest::Data { id, bytes }) => self
                .tasks
                .get_mut(&id)
                .map_or(Ok(()), |task| task.content(&bytes)),
            (State::Open, ToGuest::Eof { id }) => {
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.end_of_content();
                }
                Ok(())
            }
            (State::Open, ToGuest::AwaitReader { id }) => {
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.await_reader();
                }
                Ok(())
            }
            (State::Open, ToGuest::Credit { id, bytes }) => self
                .tasks
                .get_mut(&id)
                .map_or(Ok(()), |task| task.credit(bytes)),
            (State::Open, ToGuest::Signal { id, signal }) => {
                let deadly = !IGNORED_SIGNALS.contains(&signal);
                if deadly && self.tasks.get(&id).is_some_and(Task::is_command) {
                    self.tasks.remove(&id);
                    self.done(id, Outcome::Signaled(signal));
                }
                Ok(())
            }
            (State::Open, ToGuest::Cancel { id }) => {
                if self.tasks.remove(&id).is_some() {
                    let message = "the host cancelled the request".into();
                    let failure = Failure {
                        kind: FailureKind::Cancelled,
                        message,
                    };
                    self.done(id, Outcome::Failed(failure));
                }
                Ok(())
            }
            _ => Err("a message before hello"),
        }
    }

    fn greet(&mut self, session: u64) {
        self.outbox.bytes.extend_from_slice(&MAGIC);
        let agent = concat!("ironclaw-testguest ", env!("CARGO_PKG_VERSION")).into();
        self.outbox.push(&ToHost::Hello {
            version: VERSION,
            session,
            agent,
        });
    }

    fn request(
        &mut self,
        id: RequestId,
        request: Request,
        guest: &mut Guest,
    ) -> Result<(), &'static str> {
        if self.tasks.contains_key(&id) {
            return Err("a request with the number of an open one");
        }
        match request {
            Request::Ping => self.done(id, Outcome::Pong),
            Request::Restored(restored) => {
                guest.restored(restored);
                self.done(id, Outcome::Restored);
            }
            Request::Shutdown => {
                guest.power_off_at = Some(guest.machine.uptime());
                self.done(id, Outcome::ShuttingDown);
            }
            _ if self.tasks.len() >= MAX_OPEN => {
                let message = format!("the guest takes no more than {MAX_OPEN} requests at a time");
                self.done(
                    id,
                    Outcome::Failed(Failure {
                        kind: FailureKind::TooMany,
                        message,
                    }),
                );
            }
            Request::Exec(exec) => self.exec(id, &exec, guest),
            Request::PutFile(put) => match Files::check_path(&put.path.to_string()) {
                Ok(()) => {
                    let file = File {
                        mode: put.mode,
                        content: Vec::new(),
                    };
                    let work = Work::Receive {
                        path: put.path.to_string(),
                        file,
                    };
                    self.tasks.insert(id, Task::new(work, true, None));
                }
                Err(kind) => self.done(id, failed(kind, &put.path.to_string())),
            },
            Request::GetFile(get) => match guest.files.get(&get.path.to_string()) {
                Ok(file) => {
                    let bytes = file.content.len() as u64;
                    let outcome = Outcome::FileRead {
                        mode: file.mode,
                        bytes,
                    };
                    let work = Work::print(Stream::File, file.content.clone(), outcome);
                    self.tasks.insert(id, Task::new(work, false, None));
                }
                Err(kind) => self.done(id, failed(kind, &get.path.to_string())),
            },
        }
        Ok(())
    }

    fn exec(&mut self, id: RequestId, exec: &Exec, guest: &mut Guest) {
        match command::start(exec, guest) {
            Ok(work) => {
                let deadline = exec.timeout_ms.and_then(|ms| {
                    guest
                        .machine
                        .uptime()
                        .checked_add(Duration::from_millis(ms))
                });
                self.tasks.insert(id, Task::new(work, exec.stdin, deadline));
            }
            Err(mut failure) => {
                failure.message = bounded_text(failure.message);
                self.done(id, Outcome::Failed(failure));
            }
        }
    }

    fn done(&mut self, id: RequestId, outcome: Outcome) {
        self.outbox.push(&ToHost::Done { id, outcome });
    }

    fn fault(&mut self, reason: String) {
        self.tasks.clear();
        if matches!(self.state, State::Waiting | State::Greeting) {
            // The host skips what comes before the start of a session.
            self.outbox.bytes.extend_from_slice(&MAGIC);
        }
        self.state = State::Over;
        self.outbox.push(&ToHost::Fault {
            reason: bounded_text(reason),
        });
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
